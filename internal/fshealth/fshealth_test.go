package fshealth_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/moby/sys/mountinfo"

	"github.com/snapdriver/snapdriver/internal/fshealth"
	"github.com/snapdriver/snapdriver/internal/testenv"
	"github.com/snapdriver/snapdriver/pkg/backend"
)

// check fails t unless the filesystem at dir has exactly one condition, or none
// where the reason is empty.
func check(t *testing.T, dir string, severity backend.Severity, reason string) {
	t.Helper()
	mounts, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(dir))
	if err != nil || len(mounts) != 1 {
		t.Fatalf("mounts at %s: %v %v", dir, mounts, err)
	}
	got := fshealth.Conditions(mounts[0])
	if reason == "" && len(got) == 0 {
		return
	}
	if len(got) != 1 || got[0].Severity != severity || got[0].Reason != reason || got[0].Message == "" {
		t.Errorf("%s: %+v, expected %s %s", mounts[0].FSType, got, severity, reason)
	}
}

func TestHealthy(t *testing.T) {
	for _, kind := range testenv.Filesystems {
		dir := testenv.Filesystem(t, kind, 512<<20)
		check(t, dir, "", "")
		if err := os.WriteFile(filepath.Join(dir, "file"), []byte("text"), 0o600); err != nil {
			t.Fatal(err)
		}
		check(t, dir, "", "")
	}
}

// A filesystem that is bound read-only somewhere is writable all the same.
func TestReadOnlyMount(t *testing.T) {
	dir, bound := testenv.Filesystem(t, "ext4", 64<<20), testenv.TempDir(t)
	testenv.Run(t, "mount", "-o", "bind,ro", dir, bound)
	defer testenv.Run(t, "umount", bound)
	check(t, bound, "", "")
}

func TestReadOnlyFilesystem(t *testing.T) {
	for _, kind := range testenv.Filesystems {
		dir := testenv.Filesystem(t, kind, 512<<20)
		testenv.Run(t, "mount", "-o", "remount,ro", dir)
		check(t, dir, backend.Inaccessible, "FilesystemReadOnly")
		testenv.Run(t, "mount", "-o", "remount,rw", dir)
		check(t, dir, "", "")
	}
}

func TestShutDown(t *testing.T) {
	for _, kind := range []string{"ext4", "xfs"} { // btrfs cannot be
		dir := testenv.Filesystem(t, kind, 512<<20)
		testenv.ShutDown(t, dir)
		check(t, dir, backend.Inaccessible, "FilesystemShutDown")
	}
}

// An ext4 notes the errors that it meets, and goes on.
func TestErrors(t *testing.T) {
	dir := testenv.Filesystem(t, "ext4", 64<<20)
	testenv.FailExt4(t, dir)
	check(t, dir, backend.Degraded, "FilesystemErrors")
}
