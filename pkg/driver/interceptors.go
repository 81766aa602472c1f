package driver

import (
	"context"
	"fmt"
	"path"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/kubernetes-csi/csi-lib-utils/protosanitizer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"k8s.io/klog/v2"
)

// mapErrors turns the errors of all that is below it into gRPC statuses.
func mapErrors(ctx context.Context, request any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	response, err := next(ctx, request)
	return response, statusOf(err)
}

// recoverPanics turns a panic into an error.
func recoverPanics(ctx context.Context, request any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (response any, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = panicked(info.FullMethod, p)
		}
	}()
	return next(ctx, request)
}

// panicked logs a panic, where it was recovered from, and makes it an error.
func panicked(where string, p any) error {
	klog.ErrorS(nil, "Panic", "where", where, "panic", p, "stack", string(debug.Stack()))
	return fmt.Errorf("panic: %v; the log has the stack", p)
}

// withoutCore are the calls that do not need the core: what the kubelet asks
// before it knows a driver, and what it takes a pod's volume away by.
var withoutCore = map[string]bool{
	csi.Identity_GetPluginInfo_FullMethodName: true, csi.Identity_GetPluginCapabilities_FullMethodName: true, csi.Identity_Probe_FullMethodName: true,
	csi.Controller_ControllerGetCapabilities_FullMethodName: true,
	csi.Node_NodeGetCapabilities_FullMethodName:             true, csi.Node_NodeGetInfo_FullMethodName: true, csi.Node_NodeUnpublishVolume_FullMethodName: true,
}

// waitForCore refuses calls that need the core before it is open.
func (s *Server) waitForCore(ctx context.Context, request any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if s.core() == nil && !withoutCore[info.FullMethod] {
		return nil, s.starting()
	}
	return next(ctx, request)
}

// starting is the error of a call that comes before the core is open.
func (s *Server) starting() error {
	if err := s.notOpened.Load(); err != nil {
		return fmt.Errorf("%w; so far the storage cannot be opened: %v", errStarting, *err) //nolint:errorlint // the class is that of errStarting
	}
	return errStarting
}

// pollsAt is the verbosity at which successful calls are logged that sidecars
// make again and again and that change nothing.
const (
	pollsAt    klog.Level = 4
	messagesAt klog.Level = 5
)

var polls = map[string]bool{
	"Probe": true, "GetPluginInfo": true, "GetPluginCapabilities": true, "ControllerGetCapabilities": true,
	"NodeGetCapabilities": true, "NodeGetVolumeStats": true, "GetCapacity": true, "NodeGetVolumeHealth": true,
	"NodeGetStorageHealth": true, "ControllerGetVolumeHealth": true, "ControllerListVolumeHealth": true,
}

// logCalls writes one line for every call, and at -v=5 the messages, without
// what is secret.
func logCalls(ctx context.Context, request any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	began := time.Now()
	response, err := next(ctx, request)
	fields := append([]any{"method", path.Base(info.FullMethod)}, subjects(request, response)...)
	fields = append(fields, "duration", time.Since(began), "code", status.Code(err))
	if klog.V(messagesAt).Enabled() {
		fields = append(fields, "request", printable(request), "response", printable(response))
	}
	switch {
	case status.Code(err) == codes.Internal:
		klog.ErrorS(err, "Call", fields...)
	case err != nil:
		klog.InfoS("Call", append(fields, "err", oneLine(status.Convert(err).Message()))...)
	case !polls[path.Base(info.FullMethod)]:
		klog.InfoS("Call", fields...)
	default:
		klog.V(pollsAt).InfoS("Call", fields...)
	}
	return response, err
}

// oneLine keeps a text with line feeds, which names and paths may have, from
// being logged as several lines.
func oneLine(text string) string {
	if strings.Contains(text, "\n") {
		return strconv.Quote(text)
	}
	return text
}

// subjects returns what a call is about, as fields for the log.
func subjects(request, response any) []any {
	var fields []any
	add := func(key, value string) {
		if value != "" {
			fields = append(fields, key, oneLine(value))
		}
	}
	if r, has := request.(interface{ GetName() string }); has {
		add("name", r.GetName())
	}
	if r, has := request.(interface{ GetVolumeId() string }); has {
		add("volume", r.GetVolumeId())
	}
	if r, has := request.(interface{ GetSnapshotId() string }); has {
		add("snapshot", r.GetSnapshotId())
	}
	if r, has := request.(interface{ GetSourceVolumeId() string }); has {
		add("source", r.GetSourceVolumeId())
	}
	switch r := request.(type) {
	case *csi.CreateVolumeRequest:
		add("source", r.GetVolumeContentSource().GetSnapshot().GetSnapshotId()+r.GetVolumeContentSource().GetVolume().GetVolumeId())
	case *csi.NodePublishVolumeRequest:
		add("target", r.GetTargetPath())
	case *csi.NodeUnpublishVolumeRequest:
		add("target", r.GetTargetPath())
	}
	switch r := response.(type) {
	case *csi.CreateVolumeResponse:
		add("volume", r.GetVolume().GetVolumeId())
	case *csi.CreateSnapshotResponse:
		add("snapshot", r.GetSnapshot().GetSnapshotId())
	}
	return fields
}

// printable returns a message as text without what is secret: the fields that
// CSI marks so, and mount flags, which it says may be.
func printable(message any) string {
	original, is := message.(proto.Message)
	if !is || !original.ProtoReflect().IsValid() {
		return ""
	}
	clone := proto.Clone(original)
	blankMountFlags(clone.ProtoReflect())
	return protosanitizer.StripSecrets(clone).String()
}

func blankMountFlags(message protoreflect.Message) {
	if capability, is := message.Interface().(*csi.VolumeCapability_MountVolume); is && len(capability.MountFlags) > 0 {
		capability.MountFlags = []string{"***stripped***"}
	}
	eachMessage(message, func(inner protoreflect.Message) bool {
		blankMountFlags(inner)
		return true
	})
}

// eachMessage calls visit for every message directly in a message, until it
// says false.
func eachMessage(message protoreflect.Message, visit func(protoreflect.Message) bool) {
	message.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		switch {
		case field.Message() == nil || field.IsMap(): // all maps of CSI are of strings
			return true
		case field.IsList():
			for i := range value.List().Len() {
				if !visit(value.List().Get(i).Message()) {
					return false
				}
			}
			return true
		default:
			return visit(value.Message())
		}
	})
}
