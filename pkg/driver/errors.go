package driver

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

// codeOf is the one table from classes of errors to gRPC codes.
var codeOf = []struct {
	class error
	code  codes.Code
}{
	{backend.ErrInvalid, codes.InvalidArgument},
	{backend.ErrNotFound, codes.NotFound},
	{backend.ErrExists, codes.AlreadyExists},
	{backend.ErrExhausted, codes.ResourceExhausted},
	{backend.ErrPrecondition, codes.FailedPrecondition},
	{backend.ErrBusy, codes.Aborted},
	{backend.ErrBadToken, codes.Aborted},
	{backend.ErrOutOfRange, codes.OutOfRange},
	{errStarting, codes.Unavailable},
	{errNoAnswer, codes.Unavailable},
	// Sidecars take these two for "may still be running", as it may.
	{context.DeadlineExceeded, codes.DeadlineExceeded},
	{context.Canceled, codes.Canceled},
}

var errStarting = errors.New("the driver is still starting; repeat the call later")

// statusOf turns an error into a gRPC status: the code says the class, the
// message is the error's text, and there are no details (CSI "Error Scheme").
func statusOf(err error) error {
	if err == nil {
		return nil
	}
	if _, is := status.FromError(err); is {
		return err // UNIMPLEMENTED, from the generated code; or a fault
	}
	for _, row := range codeOf {
		if errors.Is(err, row.class) {
			return status.Error(row.code, err.Error())
		}
	}
	return status.Error(codes.Internal, err.Error())
}
