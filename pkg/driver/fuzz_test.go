package driver

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

// FuzzCalls sends random requests to every RPC. Whatever comes, the answer is
// an answer, and neither a panic nor what looks like a fault of the machine.
func FuzzCalls(f *testing.F) {
	var services []protoreflect.ServiceDescriptor
	for _, name := range []protoreflect.Name{"Identity", "Controller", "GroupController", "Node"} {
		services = append(services, csi.File_csi_proto.Services().ByName(name))
	}
	for seed := range uint64(300) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		c := startMemory(t)
		random := rand.New(rand.NewPCG(seed, 0))
		for range 20 {
			service := services[random.IntN(len(services))]
			method := service.Methods().Get(random.IntN(service.Methods().Len()))
			request, response := newMessage(t, method.Input()), newMessage(t, method.Output())
			fill(random, request.ProtoReflect())
			err := c.conn.Invoke(t.Context(), "/"+string(service.FullName())+"/"+string(method.Name()), request, response)
			if status.Code(err) == codes.Internal {
				t.Errorf("%s %v: %v", method.Name(), request, err)
			}
		}
	})
}

func newMessage(t testing.TB, kind protoreflect.MessageDescriptor) proto.Message {
	t.Helper()
	found, err := protoregistry.GlobalTypes.FindMessageByName(kind.FullName())
	if err != nil {
		t.Fatal(err)
	}
	return found.New().Interface()
}

// texts are strings that mean something in one field or another. The paths do
// not exist: the tests may run as root.
var texts = []string{
	"", "a", "b", "\x00", "../..", "/none/staging", "/none/target", "relative", "ext4", "ro", "bind", "csi.storage.k8s.io/x",
	"topology.csi.snapdriver.dev/node", testNode, strings.Repeat("x", 128), strings.Repeat("x", 5000),
	backend.NewVolumeID(testNode, "a").String(), backend.NewSnapshotID(testNode, "a").String(), elsewhere,
}

// fill gives random values to some fields of a message.
func fill(random *rand.Rand, message protoreflect.Message) {
	fields := message.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		switch {
		case random.IntN(4) == 0:
		case field.IsMap():
			value := message.Mutable(field).Map()
			value.Set(protoreflect.ValueOfString(randomText(random)).MapKey(), protoreflect.ValueOfString(randomText(random)))
		case field.IsList():
			list := message.Mutable(field).List()
			for range random.IntN(3) {
				if field.Message() != nil {
					fill(random, list.AppendMutable().Message())
				} else {
					list.Append(protoreflect.ValueOfString(randomText(random)))
				}
			}
		case field.Message() != nil:
			fill(random, message.Mutable(field).Message())
		default:
			message.Set(field, randomValue(random, field))
		}
	}
}

func randomText(random *rand.Rand) string { return texts[random.IntN(len(texts))] }

func randomValue(random *rand.Rand, field protoreflect.FieldDescriptor) protoreflect.Value {
	numbers := []int64{0, 1, -1, 4096, 16 * mib, 1 << 62}
	number := numbers[random.IntN(len(numbers))]
	switch field.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(randomText(random))
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(number > 0)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(random.IntN(9)))
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(int32(number))
	default:
		return protoreflect.ValueOfInt64(number)
	}
}
