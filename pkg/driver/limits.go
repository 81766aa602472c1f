package driver

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

// The limits of CSI "Size Limits", in bytes, and the fields that have others.
const (
	maxString = 128
	maxMap    = 4 << 10 // keys and values; mount_flags have the same limit
	maxPath   = 4096 - 1
)

var maxOf = map[protoreflect.Name]int{
	"staging_target_path": maxPath,
	"target_path":         maxPath,
	"volume_path":         maxPath,
	"volume_publish_path": maxPath,
	"node_id":             maxNodeID,
}

// checkLimits refuses requests with fields that are larger than CSI allows.
func checkLimits(ctx context.Context, request any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if err := checkSizes(request.(proto.Message).ProtoReflect()); err != nil {
		return nil, err
	}
	return next(ctx, request)
}

func checkSizes(message protoreflect.Message) (err error) {
	message.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		size, limit := 0, maxMap
		switch {
		case field.IsMap():
			value.Map().Range(func(key protoreflect.MapKey, value protoreflect.Value) bool {
				size += len(key.String()) + len(value.String())
				return true
			})
		case field.Kind() != protoreflect.StringKind:
		case field.IsList():
			for i := range value.List().Len() {
				size += len(value.List().Get(i).String())
			}
		default:
			size, limit = len(value.String()), maxString
			if other, has := maxOf[field.Name()]; has {
				limit = other
			}
		}
		if size > limit {
			err = fmt.Errorf("%s: it has %d bytes, CSI allows %d: %w", field.Name(), size, limit, backend.ErrInvalid)
		}
		return err == nil
	})
	eachMessage(message, func(inner protoreflect.Message) bool {
		if err == nil {
			err = checkSizes(inner)
		}
		return err == nil
	})
	return err
}
