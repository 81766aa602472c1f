package faults

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

// parameter is the class parameter that asks for a fault.
const parameter = "fault"

// kind is what goes wrong.
type kind string

const (
	slow             kind = "slow"
	notReady         kind = "not-ready"
	failing          kind = "error"
	hang             kind = "hang"
	crashAfterCommit kind = "crash-after-commit"
)

const allowed = "slow=30s, not-ready=60s, error=RESOURCE_EXHAUSTED:2, hang, crash-after-commit"

// longest is how long a fault may last.
const longest = 24 * time.Hour

// fault is what a class asks for.
type fault struct {
	kind     kind
	duration time.Duration // of slow and notReady
	code     codes.Code    // of failing
	times    int           // of failing; 0: always
}

// parse understands the value of the parameter; ErrInvalid.
func parse(text string) (fault, error) {
	name, value, hasValue := strings.Cut(text, "=")
	f := fault{kind: kind(name)}
	var err error
	switch f.kind {
	case slow, notReady:
		f.duration, err = parseDuration(value)
	case failing:
		f.code, f.times, err = parseError(value)
	case hang, crashAfterCommit:
		if hasValue {
			err = fmt.Errorf("%s takes no value", name)
		}
	default:
		err = fmt.Errorf("%q is not known", name)
	}
	if err != nil {
		return fault{}, fmt.Errorf("parameters: %s: %w; allowed are such as %s: %w", parameter, err, allowed, backend.ErrInvalid)
	}
	return f, nil
}

func parseDuration(text string) (time.Duration, error) {
	duration, err := time.ParseDuration(text)
	if err == nil && (duration <= 0 || duration > longest) {
		err = fmt.Errorf("%q is not a time of more than 0 and up to %s", text, longest)
	}
	return duration, err
}

// parseError understands CODE:N, and CODE alone for always.
func parseError(text string) (code codes.Code, times int, err error) {
	name, count, limited := strings.Cut(text, ":")
	quoted, err := json.Marshal(name)
	if err != nil {
		return 0, 0, err
	}
	if err := code.UnmarshalJSON(quoted); err != nil || code == codes.OK {
		return 0, 0, fmt.Errorf("%q is no gRPC code of an error", name)
	}
	if !limited {
		return code, 0, nil
	}
	times, err = strconv.Atoi(count)
	if err != nil || times < 1 {
		return 0, 0, fmt.Errorf("%q is not how often to fail: give 1 or more", count)
	}
	return code, times, nil
}
