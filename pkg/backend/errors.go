package backend

import "errors"

// The classes of errors. Wrap one with %w and say which field or object is
// meant, what is wrong with it, and what to do; the driver turns the class
// into a gRPC code and keeps the text.
var (
	// ErrInvalid: the request can never succeed as it is (INVALID_ARGUMENT).
	ErrInvalid = errors.New("invalid argument")
	// ErrNotFound: the object named does not exist (NOT_FOUND).
	ErrNotFound = errors.New("not found")
	// ErrExists: the name is taken by a different object (ALREADY_EXISTS).
	ErrExists = errors.New("already exists")
	// ErrExhausted: no room, here or now (RESOURCE_EXHAUSTED).
	ErrExhausted = errors.New("resource exhausted")
	// ErrPrecondition: the object is in a state that rules this out (FAILED_PRECONDITION).
	ErrPrecondition = errors.New("failed precondition")
	// ErrBusy: another operation is running; repeat the call (ABORTED).
	ErrBusy = errors.New("operation pending")
	// ErrOutOfRange: the size asked for cannot be had (OUT_OF_RANGE).
	ErrOutOfRange = errors.New("out of range")
	// ErrBadToken: a page token that this driver did not make (ABORTED, as
	// CSI asks of ListVolumes and ListSnapshots).
	ErrBadToken = errors.New("invalid page token")
)
