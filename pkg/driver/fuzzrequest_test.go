package driver

import (
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/snapdriver/snapdriver/pkg/backend"
	"github.com/snapdriver/snapdriver/pkg/backend/memory"
	"github.com/snapdriver/snapdriver/pkg/driver/mounts"
	"github.com/snapdriver/snapdriver/pkg/snapshotcore"
)

// rpc is a method of a service that the driver serves.
type rpc struct {
	grpc.MethodDesc
	path    string
	service func(*Server) any
	request protoreflect.MessageDescriptor
}

func rpcs() (all []rpc) {
	for _, s := range []struct {
		desc grpc.ServiceDesc
		of   func(*Server) any
	}{
		{csi.Identity_ServiceDesc, func(s *Server) any { return &identity{Server: s} }},
		{csi.Controller_ServiceDesc, func(s *Server) any { return &controller{Server: s} }},
		{csi.Node_ServiceDesc, func(s *Server) any { return &node{Server: s} }},
	} {
		_, name, _ := strings.Cut(s.desc.ServiceName, "csi.v1.")
		methods := csi.File_csi_proto.Services().ByName(protoreflect.Name(name)).Methods()
		for _, m := range s.desc.Methods {
			request := methods.ByName(protoreflect.Name(m.MethodName)).Input()
			all = append(all, rpc{m, "/" + s.desc.ServiceName + "/" + m.MethodName, s.of, request})
		}
	}
	return all
}

// FuzzRequest sends bytes to an RPC as they come from the wire. Whatever they
// are, the answer is one that can be sent, and neither a panic nor what looks
// like a fault of the machine.
func FuzzRequest(f *testing.F) {
	methods := rpcs()
	for i, m := range methods {
		for seed := range uint64(4) {
			request := newMessage(f, m.request)
			fill(rand.New(rand.NewPCG(seed, uint64(i))), request.ProtoReflect())
			data, err := proto.Marshal(request)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(uint8(i), data)
		}
	}
	f.Fuzz(func(t *testing.T, method uint8, data []byte) {
		m := methods[int(method)%len(methods)]
		s := serveMemory(t)
		decode := func(request any) error {
			if err := proto.Unmarshal(data, request.(proto.Message)); err != nil {
				return status.Error(codes.InvalidArgument, err.Error()) // as gRPC itself has it, with another code
			}
			keepPaths(request.(proto.Message).ProtoReflect())
			return nil
		}
		response, err := m.Handler(m.service(s), t.Context(), decode, s.intercept(m.path))
		switch {
		case err == nil:
			if _, err := proto.Marshal(response.(proto.Message)); err != nil {
				t.Errorf("%s: the response cannot be sent: %v", m.path, err)
			}
		case status.Code(err) == codes.Internal || !utf8.ValidString(status.Convert(err).Message()):
			t.Errorf("%s: %v", m.path, err)
		}
	})
}

// serveMemory returns a server that does not listen, with a volume and a
// snapshot that fill knows.
func serveMemory(t *testing.T) *Server {
	t.Helper()
	b, err := memory.Open(memory.NewDisk(100*gib), nil)
	if err != nil {
		t.Fatal(err)
	}
	core, err := snapshotcore.Open(t.Context(), b, snapshotcore.Options{NodeID: testNode, InUse: mounts.InUse})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = core.Close() })
	s, err := New(testConfig(t, b))
	if err != nil {
		t.Fatal(err)
	}
	s.opened.Store(core)
	volume, err := core.CreateVolume(t.Context(), snapshotcore.VolumeRequest{
		Name: "a", Profile: backend.Profile{Mode: backend.Filesystem}, AccessModes: []backend.AccessMode{backend.SingleNodeWriter},
	})
	if err == nil {
		_, err = core.CreateSnapshot(t.Context(), snapshotcore.SnapshotRequest{Name: "a", Source: volume.ID})
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// intercept is all interceptors in one.
func (s *Server) intercept(path string) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, request any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		for _, interceptor := range slices.Backward(s.interceptors()) {
			inner := next
			next = func(ctx context.Context, request any) (any, error) {
				return interceptor(ctx, request, &grpc.UnaryServerInfo{FullMethod: path, Server: info.Server}, inner)
			}
		}
		return next(ctx, request)
	}
}

// keepPaths makes absolute paths in a request those of nothing, for this may
// run as root, and calls unmount and remove what they name.
func keepPaths(message protoreflect.Message) {
	fields := message.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		if !strings.HasSuffix(string(field.Name()), "_path") {
			continue
		}
		if path := message.Get(field).String(); strings.HasPrefix(path, "/") {
			message.Set(field, protoreflect.ValueOfString("/none/"+strings.ReplaceAll(path, "..", "")))
		}
	}
}
