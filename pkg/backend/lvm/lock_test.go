package lvm

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func takenLocks(t *testing.T, dir string) locks {
	t.Helper()
	l, err := takeLocks(dir, "group-pool")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestSecondDriverIsRefused(t *testing.T) {
	dir := t.TempDir()
	first := takenLocks(t, dir)
	_, err := takeLocks(dir, "group-pool")
	if want := fmt.Sprintf("another driver (pid %d)", os.Getpid()); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got error %v, expected one that says %q", err, want)
	}
	other, err := takeLocks(dir, "group-pool2")
	if err != nil {
		t.Errorf("another pool: %v", err)
	}
	for _, l := range []locks{first, other, takenLocks(t, t.TempDir())} {
		if err := l.free(); err != nil {
			t.Error(err)
		}
	}
	if err := takenLocks(t, dir).free(); err != nil {
		t.Error(err)
	}
}

// A command that outlives the driver that has started it is waited for, and
// named when that takes too long.
func TestOrphanedCommandIsWaitedFor(t *testing.T) {
	dir := t.TempDir()
	killed := takenLocks(t, dir)
	if err := killed.awaitOrphans(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
	wait, end, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	orphan := exec.Command("cat", "/proc/self/fd/3")
	orphan.Stdin, orphan.ExtraFiles = killed.commands, []*os.File{wait}
	if err := orphan.Start(); err != nil {
		t.Fatal(err)
	}
	if err := killed.free(); err != nil {
		t.Fatal(err)
	}
	next := takenLocks(t, dir)
	err = next.awaitOrphans(t.Context(), time.Millisecond)
	if want := fmt.Sprintf("pid %d: cat /proc/self/fd/3", orphan.Process.Pid); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got error %v, expected one that says %q", err, want)
	}
	if err := end.Close(); err != nil {
		t.Fatal(err)
	}
	if err := next.awaitOrphans(t.Context(), time.Minute); err != nil {
		t.Error(err)
	}
	if err := orphan.Wait(); err != nil {
		t.Error(err)
	}
	if err := next.free(); err != nil {
		t.Error(err)
	}
}
