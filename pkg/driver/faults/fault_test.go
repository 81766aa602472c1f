package faults

import (
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]fault{
		"slow=1.5s":                  {kind: slow, duration: 1500 * time.Millisecond},
		"not-ready=24h":              {kind: notReady, duration: 24 * time.Hour},
		"error=RESOURCE_EXHAUSTED:2": {kind: failing, code: codes.ResourceExhausted, times: 2},
		"error=CANCELLED":            {kind: failing, code: codes.Canceled},
		"hang":                       {kind: hang},
		"crash-after-commit":         {kind: crashAfterCommit},
	} {
		if got, err := parse(text); err != nil || got != want {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
}

// TestParseRefuses: what is wrong is named, and so is what would be right.
func TestParseRefuses(t *testing.T) {
	for text, says := range map[string]string{
		"":                        `"" is not known`,
		"Hang":                    `"Hang" is not known`,
		"slow":                    "invalid duration",
		"slow=30":                 "missing unit",
		"slow=0s":                 "more than 0",
		"slow=-1s":                "more than 0",
		"slow=25h":                "up to 24h",
		"not-ready=soon":          "invalid duration",
		"error":                   "no gRPC code",
		"error=OK":                "no gRPC code",
		"error=ResourceExhausted": "no gRPC code",
		"error=8":                 "no gRPC code",
		"error=ABORTED:":          "how often",
		"error=ABORTED:0":         "how often",
		"error=ABORTED:1:1":       "how often",
		"hang=1s":                 "no value",
		"crash-after-commit=":     "no value",
		"slow=1s,hang":            "unknown unit",
	} {
		got, err := parse(text)
		if !errors.Is(err, backend.ErrInvalid) || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), allowed) {
			t.Errorf("%q: %+v, %v; want an error that says %q", text, got, err, says)
		}
	}
}

// FuzzParse: what is accepted ends some time, and what is not is the caller's
// fault.
func FuzzParse(f *testing.F) {
	for _, text := range strings.Split(allowed, ", ") {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := parse(text)
		if err != nil && !errors.Is(err, backend.ErrInvalid) {
			t.Error(err)
		}
		timed := got.kind == slow || got.kind == notReady
		if err == nil && (timed != (got.duration > 0) || got.duration > longest || got.times < 0 || (got.kind == failing) != (got.code != codes.OK)) {
			t.Errorf("%q: %+v", text, got)
		}
	})
}
