package torture

import (
	"bytes"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// required are the fields that CSI requires and of which it says so, by request.
var required = map[protoreflect.Name][]string{
	"CreateVolumeRequest":               {"name", "volume_capabilities", "volume_capabilities.access_type", "volume_capabilities.access_mode"},
	"DeleteVolumeRequest":               {"volume_id"},
	"ValidateVolumeCapabilitiesRequest": {"volume_id", "volume_capabilities"},
	"CreateSnapshotRequest":             {"name", "source_volume_id"},
	"DeleteSnapshotRequest":             {"snapshot_id"},
	"GetSnapshotRequest":                {"snapshot_id"},
	"ControllerExpandVolumeRequest":     {"volume_id", "capacity_range"},
	"ControllerGetVolumeRequest":        {"volume_id"},
	"ControllerGetVolumeHealthRequest":  {"volume_id"},
	"NodeStageVolumeRequest":            {"volume_id", "staging_target_path", "volume_capability"},
	"NodeUnstageVolumeRequest":          {"volume_id", "staging_target_path"},
	"NodePublishVolumeRequest":          {"volume_id", "target_path", "volume_capability"},
	"NodeUnpublishVolumeRequest":        {"volume_id", "target_path"},
	"NodeGetVolumeStatsRequest":         {"volume_id", "volume_path"},
	"NodeGetVolumeHealthRequest":        {"volume_id"},
	"NodeExpandVolumeRequest":           {"volume_id", "volume_path"},
}

// TestInputFields sends every RPC with every field missing, wrong, huge,
// negative and hostile, one at a time. No answer blames the driver, what CSI
// requires is refused when it is missing, and so is what is too long.
func TestInputFields(t *testing.T) {
	onOne(t, func(t *testing.T, s storage) {
		b := started(t, s, 8*gib)
		for i, of := range s.kinds {
			b.sub(of.name, func(b *testbed) {
				p := b.newPatient(of)
				for j, m := range methods() {
					if (i+j)%len(s.kinds) < *scale {
						b.sub(filepath.Base(m.name), func(b *testbed) { p.tryChanges(b, m) })
					}
				}
				p.revive()
				p.dismiss()
				b.deleteAll()
			})
		}
	})
}

func (p *patient) tryChanges(b *testbed, m method) {
	p.revive()
	changes := p.changes(p.requestOf(m))
	for _, c := range changes {
		err := b.call(m, c.request)
		if !isUnserved(err) && (blames(err) || c.want != codes.OK && status.Code(err) != c.want) {
			b.Errorf("%s: %v", c.what, err)
		}
		if err == nil {
			p.revive()
		}
	}
	b.Logf("%d requests", len(changes))
}

// isUnserved says whether an RPC is one that the driver need not have.
func isUnserved(err error) bool { return status.Code(err) == codes.Unimplemented }

// blames says whether an error is one that no request may bring about.
func blames(err error) bool {
	return slices.Contains([]codes.Code{
		codes.Unknown, codes.Internal, codes.Unavailable, codes.DataLoss, codes.DeadlineExceeded, codes.Canceled,
		codes.PermissionDenied, codes.Unauthenticated,
	}, status.Code(err))
}

// change is a variant of a request, and the code that must be the answer; OK:
// any that does not blame the driver.
type change struct {
	what    string
	request proto.Message
	want    codes.Code
}

// changes returns variants of a request, each with one field changed.
func (p *patient) changes(request proto.Message) (all []change) {
	kind := request.ProtoReflect().Descriptor().Name()
	eachField(request.ProtoReflect(), "", func(path string, message protoreflect.Message, field protoreflect.FieldDescriptor) {
		original := proto.Clone(message.Interface())
		add := func(what string, want codes.Code) {
			all = append(all, change{path + ": " + what, proto.Clone(request), want})
		}
		message.Clear(field)
		if slices.Contains(required[kind], path) {
			add("missing", codes.InvalidArgument)
		} else {
			add("missing", codes.OK)
		}
		for _, hostile := range p.hostile(message, field) {
			message.Set(field, hostile)
			add(field.Kind().String()+" "+cut(message.Get(field).String()), codes.OK)
		}
		if isShort(field) {
			message.Set(field, protoreflect.ValueOfString(strings.Repeat("x", 129)))
			add("129 bytes", codes.InvalidArgument)
		}
		proto.Reset(message.Interface())
		proto.Merge(message.Interface(), original)
	})
	return all
}

func cut(text string) string { return text[:min(len(text), 64)] }

// isShort says whether CSI limits a field to 128 bytes.
func isShort(field protoreflect.FieldDescriptor) bool {
	return field.Kind() == protoreflect.StringKind && !field.IsList() && !field.IsMap() && !strings.HasSuffix(string(field.Name()), "_path") && field.Name() != "node_id"
}

// eachField calls visit for every field of a message and of those in it.
func eachField(message protoreflect.Message, prefix string, visit func(path string, message protoreflect.Message, field protoreflect.FieldDescriptor)) {
	fields := message.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		path := prefix + string(field.Name())
		visit(path, message, field)
		switch {
		case field.Message() == nil || field.IsMap() || !message.Has(field):
		case field.IsList():
			for j := range message.Get(field).List().Len() {
				eachField(message.Get(field).List().Get(j).Message(), path+".", visit)
			}
		default:
			eachField(message.Get(field).Message(), path+".", visit)
		}
	}
}

// texts are hostile in one field or another.
func (p *patient) texts() []string {
	texts := []string{
		"..", ".", "/", "../../../etc/passwd", "a/b", "a\x00b", "a\nb", "a\x7fb", "\u202etxt.exe", "-rf", "--help", "$(reboot)", "*", "%s%n", " ", "0",
		p.id, p.snapshot, otherNode, "snap-00000000-00000000000000000000000000000000", strings.ToUpper(p.id), p.id + "/..",
		p.pods, "/etc/passwd", p.pods + "/../x", p.pods + "/missing/x", p.pods + "/" + strings.Repeat("x", 255),
		"/" + strings.Repeat("x", 5000), "ext4", "bind", strings.Repeat("x", 128),
	}
	if p.dir != "" { // of the hostpath backend, which keeps objects there
		texts = append(texts, p.root, p.root+"/volumes")
	}
	return texts
}

// hostile returns values of a field that it should not have.
func (p *patient) hostile(message protoreflect.Message, field protoreflect.FieldDescriptor) (values []protoreflect.Value) {
	switch {
	case field.IsMap():
		for _, text := range p.texts()[:10] {
			values = append(values, pair(message, field, text, "x"), pair(message, field, "x", text))
		}
	case field.IsList() && field.Message() != nil:
		for _, count := range []int{1, 2, 1000} {
			value := message.NewField(field)
			for range count {
				value.List().AppendMutable()
			}
			values = append(values, value)
		}
	case field.IsList():
		for _, text := range p.texts() {
			value := message.NewField(field)
			value.List().Append(protoreflect.ValueOfString(text))
			values = append(values, value)
		}
	case field.Message() != nil:
		values = append(values, message.NewField(field))
	default:
		values = p.scalars(field)
	}
	return values
}

func (p *patient) scalars(field protoreflect.FieldDescriptor) (values []protoreflect.Value) {
	switch field.Kind() {
	case protoreflect.StringKind:
		for _, text := range p.texts() {
			values = append(values, protoreflect.ValueOfString(text))
		}
	case protoreflect.BoolKind:
		values = append(values, protoreflect.ValueOfBool(true))
	case protoreflect.EnumKind:
		for number := range protoreflect.EnumNumber(12) {
			values = append(values, protoreflect.ValueOfEnum(number-1), protoreflect.ValueOfEnum(math.MaxInt32-number))
		}
	case protoreflect.Int32Kind:
		for _, number := range []int32{math.MinInt32, -1, 1, math.MaxInt32} {
			values = append(values, protoreflect.ValueOfInt32(number))
		}
	case protoreflect.Int64Kind:
		for _, number := range []int64{math.MinInt64, -1, 1, 1 << 40, math.MaxInt64} {
			values = append(values, protoreflect.ValueOfInt64(number))
		}
	default: // no request has any other
		p.Fatalf("%s: a field of kind %s", field.FullName(), field.Kind())
	}
	return values
}

// TestInputNotUTF8 sends every string field, the keys and values of every map, and
// the entries of every list, with bytes that no string has.
func TestInputNotUTF8(t *testing.T) {
	onOne(t, func(t *testing.T, s storage) {
		const place = "this text is replaced"
		b := started(t, s, gib)
		p := b.newPatient(s.kinds[0])
		for _, m := range methods() {
			t.Run(filepath.Base(m.name), func(t *testing.T) {
				request := p.requestOf(m)
				eachField(request.ProtoReflect(), "", func(path string, message protoreflect.Message, field protoreflect.FieldDescriptor) {
					original := proto.Clone(message.Interface())
					for _, value := range withText(message, field, place) {
						message.Set(field, value)
						encoded, err := proto.Marshal(request)
						if err != nil {
							t.Fatal(err)
						}
						err = b.call(m, bytes.Replace(encoded, []byte(place), bytes.Repeat([]byte{0xff}, len(place)), 1))
						if !isUndecodable(err) && !isUnserved(err) {
							t.Errorf("%s: %v, with %v", path, err, value)
						}
					}
					proto.Reset(message.Interface())
					proto.Merge(message.Interface(), original)
				})
			})
		}
		p.revive()
		p.dismiss()
	})
}

// withText returns the values of a field that have a text once, wherever strings
// are in it.
func withText(message protoreflect.Message, field protoreflect.FieldDescriptor, text string) []protoreflect.Value {
	switch {
	case field.IsMap():
		return []protoreflect.Value{pair(message, field, text, "x"), pair(message, field, "x", text)}
	case field.Kind() != protoreflect.StringKind:
		return nil
	case field.IsList():
		value := message.NewField(field)
		value.List().Append(protoreflect.ValueOfString("x"))
		value.List().Append(protoreflect.ValueOfString(text))
		return []protoreflect.Value{value}
	}
	return []protoreflect.Value{protoreflect.ValueOfString(text)}
}

// pair returns a map with one entry. All maps of CSI are of strings.
func pair(message protoreflect.Message, field protoreflect.FieldDescriptor, key, entry string) protoreflect.Value {
	value := message.NewField(field)
	value.Map().Set(protoreflect.ValueOfString(key).MapKey(), protoreflect.ValueOfString(entry))
	return value
}

// isUndecodable says whether an error is gRPC's answer to what is no request.
func isUndecodable(err error) bool {
	return status.Code(err) == codes.Internal && strings.Contains(err.Error(), "unmarshal")
}
