package hostpath

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/internal/testenv"
	"github.com/snapdriver/snapdriver/pkg/backend"
)

// frozen says whether a filesystem is frozen, by trying to freeze it.
func frozen(t *testing.T, mount *os.File) bool {
	t.Helper()
	err := ioctl(mount, fifreeze)
	switch {
	case errors.Is(err, unix.EBUSY):
		return true
	case err != nil:
		t.Fatal(err)
	}
	if err := thaw(mount); err != nil {
		t.Fatal(err)
	}
	return false
}

func openMounted(t *testing.T) *os.File {
	t.Helper()
	mount, err := os.Open(testenv.Filesystem(t, "ext4", 32<<20))
	if err != nil {
		t.Fatal(err)
	}
	// Cleanups run in reverse: this comes before the filesystem's umount, and
	// a test that failed leaves nothing frozen.
	t.Cleanup(func() {
		_ = thaw(mount)
		_ = mount.Close()
	})
	return mount
}

func TestFreezeEndsWithTheWork(t *testing.T) {
	mount := openMounted(t)
	failure := errors.New("failure")
	err := new(freezes).whileFrozen(t.Context(), mount, time.Hour, func(context.Context) error {
		if !frozen(t, mount) {
			t.Error("not frozen")
		}
		return failure
	})
	if !errors.Is(err, failure) {
		t.Errorf("got error %v, expected the work's", err)
	}
	if frozen(t, mount) {
		t.Error("still frozen")
	}
}

// The end of one would thaw what the other takes for frozen.
func TestOneFreezeAtATime(t *testing.T) {
	mount := openMounted(t)
	var f freezes
	nothing := func(context.Context) error { return nil }
	if err := f.whileFrozen(t.Context(), mount, time.Hour, func(ctx context.Context) error {
		if err := f.whileFrozen(ctx, mount, time.Hour, nothing); !errors.Is(err, backend.ErrBusy) {
			t.Errorf("a second one meanwhile: %v", err)
		}
		if !frozen(t, mount) {
			t.Error("it has thawed the filesystem")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := f.whileFrozen(t.Context(), mount, time.Hour, nothing); err != nil {
		t.Errorf("a second one after it: %v", err)
	}
}

func TestFreezesAreMeasuredUntilTheThaw(t *testing.T) {
	mount := openMounted(t)
	var f freezes
	const long = 20 * time.Millisecond
	for _, wait := range []time.Duration{long, 0} {
		if err := f.whileFrozen(t.Context(), mount, time.Hour, func(context.Context) error {
			time.Sleep(wait)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	if f.count != 2 || f.longest < long || f.total <= f.longest {
		t.Errorf("%d freezes, the longest %v, %v in all; expected 2, at least %v, and more than that", f.count, f.longest, f.total, long)
	}
}

func TestFreezeEndsWhenTheWorkPanics(t *testing.T) {
	mount := openMounted(t)
	func() {
		defer func() { _ = recover() }()
		_ = new(freezes).whileFrozen(t.Context(), mount, time.Hour, func(context.Context) error { panic("in the work") })
	}()
	if frozen(t, mount) {
		t.Error("still frozen")
	}
}

// The work waits for what only a thawed filesystem does: it would wait for
// ever, did the freeze not end by itself.
func TestFreezeEndsWhenTheWorkHangs(t *testing.T) {
	mount := openMounted(t)
	err := new(freezes).whileFrozen(t.Context(), mount, 10*time.Millisecond, func(ctx context.Context) error {
		if err := os.WriteFile(filepath.Join(mount.Name(), "file"), nil, 0o600); err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got error %v, expected the deadline's", err)
	}
}

func TestFreezeOfOthersIsLeftAlone(t *testing.T) {
	mount := openMounted(t)
	if err := ioctl(mount, fifreeze); err != nil {
		t.Fatal(err)
	}
	worked := false
	if err := new(freezes).whileFrozen(t.Context(), mount, time.Hour, func(context.Context) error {
		worked = true
		return nil
	}); err != nil || !worked {
		t.Errorf("frozen by somebody else: worked %v, %v", worked, err)
	}
	if !frozen(t, mount) {
		t.Error("somebody else's freeze was ended")
	}
}
