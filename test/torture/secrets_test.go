package torture

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// TestInputSecrets puts a secret into every field that CSI marks so, and into
// mount flags, which it says may be one: into requests that succeed, that fail
// and that make no sense, with everything logged that can be. The secret is
// neither in the log nor in the storage afterwards.
func TestInputSecrets(t *testing.T) {
	onOne(t, func(t *testing.T, s storage) {
		b := newTestbed(t, s, gib)
		b.Flags = append(b.Flags, "-v=10")
		b.Env = []string{"GRPC_GO_LOG_SEVERITY_LEVEL=info", "GRPC_GO_LOG_VERBOSITY_LEVEL=99"}
		b.Start()
		p := b.newPatient(s.kinds[0])
		random := newRandom(t)
		sent := 0
		for _, m := range methods() {
			p.revive()
			request := p.requestOf(m)
			hide(request.ProtoReflect())
			variants := []proto.Message{request}
			for i, c := range p.changes(request) {
				if i%s.pace == 0 { // where requests take long, some of them
					variants = append(variants, c.request)
				}
			}
			for _, variant := range variants {
				encoded, err := proto.Marshal(variant)
				if err != nil {
					t.Fatal(err)
				}
				if bytes.Contains(encoded, []byte(secret)) {
					sent++
				}
				_ = b.call(m, variant)
				_ = b.call(m, encoded[:random.IntN(len(encoded)+1)])
			}
		}
		p.revive()
		p.dismiss()
		log := b.Logged()
		if !strings.Contains(log, "request=") || sent < 100 {
			t.Errorf("%d requests with a secret, and a log of %d bytes: nothing was tested", sent, len(log))
		}
		for line := range strings.Lines(log) {
			if strings.Contains(line, secret) {
				t.Errorf("logged: %s", line)
			}
		}
		t.Logf("%d requests with a secret; the log has %d bytes", sent, len(log))
		if b.dir != "" { // lvm keeps what it is told in tags, which are listed
			expectNoSecret(t, b.root)
		}
	})
}

// hide puts a secret wherever a message may have one.
func hide(message protoreflect.Message) {
	fields := message.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		isSecret, _ := proto.GetExtension(field.Options(), csi.E_CsiSecret).(bool)
		switch {
		case isSecret && field.IsMap():
			value := message.NewField(field)
			value.Map().Set(protoreflect.ValueOfString("key").MapKey(), protoreflect.ValueOfString(secret))
			message.Set(field, value)
		case field.Name() == "mount_flags":
			message.Mutable(field).List().Append(protoreflect.ValueOfString(secret))
		case field.Message() == nil || field.IsMap() || !message.Has(field):
		case field.IsList():
			for j := range message.Get(field).List().Len() {
				hide(message.Get(field).List().Get(j).Message())
			}
		default:
			hide(message.Get(field).Message())
		}
	}
}

func expectNoSecret(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if bytes.Contains(data, []byte(secret)) {
			t.Errorf("stored: %s", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
