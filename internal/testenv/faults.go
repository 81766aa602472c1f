package testenv

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The request and the arguments of linux/fs.h and of XFS's xfs_fs.h that end a
// filesystem's life at once: no file in memory is written any more, and of the
// log only what the argument says.
const (
	goingDown  = 0x8004587d // XFS_IOC_GOINGDOWN, EXT4_IOC_SHUTDOWN
	logFlush   = 1          // XFS_FSOP_GOING_FLAGS_LOGFLUSH, EXT4_GOING_FLAGS_LOGFLUSH
	noLogFlush = 2          // XFS_FSOP_GOING_FLAGS_NOLOGFLUSH, EXT4_GOING_FLAGS_NOLOGFLUSH
)

// ShutDown ends the life of the ext4 or XFS mounted at dir as a power cut would:
// what was not synced is lost. btrfs cannot be shut down.
func ShutDown(t testing.TB, dir string) {
	t.Helper()
	shutDown(t, dir, noLogFlush)
}

// ShutDownLogged is ShutDown just after the filesystem has written its log, as it
// may at any time: names and records of files are as they were last, what is in
// the files is lost.
func ShutDownLogged(t testing.TB, dir string) {
	t.Helper()
	shutDown(t, dir, logFlush)
}

func shutDown(t testing.TB, dir string, how int) {
	t.Helper()
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := unix.IoctlSetPointerInt(int(root.Fd()), goingDown, how); err != nil {
		t.Fatalf("shut the filesystem at %s down: %v", dir, err)
	}
}

// FailExt4 makes the kernel meet an error in the ext4 mounted at dir, as if its
// data structures contradicted each other.
func FailExt4(t testing.TB, dir string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(ext4Shown(t, dir), "trigger_fs_error"), []byte("test"), 0); err != nil {
		t.Fatal(err)
	}
	AwaitExt4Error(t, dir)
}

// AwaitExt4Error waits until the kernel has noted an error of the ext4 mounted
// at dir, which it does in the background.
func AwaitExt4Error(t testing.TB, dir string) {
	t.Helper()
	file := filepath.Join(ext4Shown(t, dir), "errors_count")
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		if count, err := os.ReadFile(file); err != nil || time.Now().After(deadline) {
			t.Fatalf("no error is noted: %q, %v", count, err)
		} else if string(count) != "0\n" {
			return
		}
	}
}

// ext4Shown returns where the kernel shows what it knows of an ext4.
func ext4Shown(t testing.TB, dir string) string {
	t.Helper()
	var stat unix.Stat_t
	if err := unix.Stat(dir, &stat); err != nil {
		t.Fatal(err)
	}
	device, err := filepath.EvalSymlinks(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(stat.Dev), unix.Minor(stat.Dev)))
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join("/sys/fs/ext4", filepath.Base(device))
}
