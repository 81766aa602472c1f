package testenv

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// patience is how long others may take to let go of a filesystem: a process that
// was forked a moment ago, one that a killed driver had started, a mount
// namespace that somebody else is making.
const patience = 30 * time.Second

// Unmount unmounts what is mounted at a path, when nobody uses it any more.
func Unmount(t testing.TB, path string) {
	t.Helper()
	err := unix.Unmount(path, unix.UMOUNT_NOFOLLOW)
	for deadline := time.Now().Add(patience); errors.Is(err, unix.EBUSY) && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
		err = unix.Unmount(path, unix.UMOUNT_NOFOLLOW)
	}
	if err != nil {
		t.Fatalf("unmount %s: %v", path, err)
	}
}

// UnmountDevice unmounts the filesystem at a path, which is mounted nowhere
// else, and waits until the kernel has put it away: mounted again before that, it
// would be the one in memory, with all that has happened to it.
func UnmountDevice(t testing.TB, path string) {
	t.Helper()
	mounts, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(path))
	if err != nil || len(mounts) != 1 {
		t.Fatalf("%s: %v, %v", path, mounts, err)
	}
	device := mounts[0].Source
	file := loopFile(device)
	Unmount(t, path)
	for deadline := time.Now().Add(patience); loopFile(device) == file && inUse(device); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s is unmounted, and %s is in use: does another mount namespace have it?", path, device)
		}
	}
}

// loopFile returns the file of a loop device; empty: it has none, or is none.
func loopFile(device string) string {
	text, _ := os.ReadFile(filepath.Join("/sys/block", filepath.Base(device), "loop/backing_file"))
	return string(text)
}

// inUse says whether a device is mounted, or somebody else's alone for another
// reason.
func inUse(device string) bool {
	fd, err := unix.Open(device, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
	if err == nil {
		_ = unix.Close(fd)
	}
	return errors.Is(err, unix.EBUSY)
}
