package hostpath_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/snapdriver/snapdriver/internal/testenv"
	"github.com/snapdriver/snapdriver/pkg/backend/hostpath"
)

// failingSync opens a root directory in which the sync of volumes/ that
// follows a rename fails, once fail is set, and nothing else does.
func failingSync(t *testing.T) (b *hostpath.Backend, root string, fail *bool) {
	t.Helper()
	root, fail = testenv.TempDir(t), new(bool)
	volumes, hidden := filepath.Join(root, "volumes"), filepath.Join(root, "hidden")
	move := func(from, to string) {
		if err := os.Rename(from, to); err != nil {
			t.Error(err)
		}
	}
	b = opened(t, root, hostpath.Options{Step: func(name string) {
		switch {
		case !*fail:
		case name == "sync":
			move(volumes, hidden)
		case name == "take back" || name == "discard":
			move(hidden, volumes)
		}
	}})
	return b, root, fail
}

// An object that was not deleted for good is still there.
func TestFailedDeletionChangesNothing(t *testing.T) {
	b, root, fail := failingSync(t)
	id := create(t, b, spec("directory", "volume"))
	(storage{root}).Write(t, b, id, "content")
	*fail = true
	if err := b.DeleteVolume(t.Context(), id); err == nil {
		t.Error("the sync failed, and yet no error")
	}
	*fail = false
	if got := (storage{root}).Read(t, b, id); got != "content" {
		t.Errorf("the volume holds %q", got)
	}
	(storage{root}).checkEmpty(t, "trash")
	deleteAll(t, b, root, id)
}

// A volume that was not committed for good is not there.
func TestFailedCommitLeavesNothing(t *testing.T) {
	b, root, fail := failingSync(t)
	*fail = true
	if _, err := b.CreateVolume(t.Context(), spec("directory", "volume"), nil); err == nil {
		t.Error("the sync failed, and yet no error")
	}
	*fail = false
	(storage{root}).checkEmpty(t, "volumes", "staging", "trash")
	deleteAll(t, b, root, create(t, b, spec("directory", "volume")))
}
