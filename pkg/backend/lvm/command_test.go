package lvm

import (
	"context"
	"errors"
	"os/exec"
	"strings"
	"testing"

	"github.com/snapdriver/snapdriver/internal/testenv"
	"github.com/snapdriver/snapdriver/pkg/backend"
)

// lvm itself says whether it knows every setting.
func TestSettingsAreKnownToLVM(t *testing.T) {
	testenv.RequirePrograms(t, "lvm")
	out, err := exec.Command("lvm", "lvmconfig", "--config", settings, "--validate").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "configuration valid") {
		t.Errorf("lvmconfig --validate: %v\n%s", err, out)
	}
}

func TestCommandErrors(t *testing.T) {
	testenv.RequirePrograms(t, "lvm")
	var r runner
	_, err := report[struct{}](t.Context(), &r, "lvs", "no-such-group")
	for _, part := range []string{"lvm lvs", "no-such-group", "exit status 5", "not found"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("the error does not name %q: %v", part, err)
		}
	}
	if err != nil && strings.Contains(err.Error(), "udev_sync") {
		t.Errorf("the error repeats the settings: %v", err)
	}
	if err := r.change(t.Context(), "lvremove", "no-such-group/volume"); err == nil || !strings.Contains(err.Error(), "lvm lvremove no-such-group/volume: exit status 5") {
		t.Errorf("got %v", err)
	}
	full := &commandError{err: errors.New("exit status 5"), stderr: "Volume group \"vg\" has insufficient free space (0 extents): 1 required."}
	if !errors.Is(full, backend.ErrExhausted) {
		t.Errorf("%v is not of class %v", full, backend.ErrExhausted)
	}
}

// A command that changes something is not begun for a caller who has gone.
func TestChangeLooksAtContextFirst(t *testing.T) {
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	r := runner{step: func(name string) { t.Errorf("began %s", name) }}
	if err := r.change(gone, "lvremove", "no-such-group/volume"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
