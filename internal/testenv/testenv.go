// Package testenv gives tests the machine they need: root, programs, and real
// filesystems on loop devices. What cannot be had skips the test with a
// reason; with SNAPDRIVER_REQUIRE_ALL=1 it fails it instead, so that a run that
// tested nothing is not taken for one that passed.
package testenv

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
)

// Filesystems are the kinds that Filesystem can make.
var Filesystems = []string{"ext4", "xfs", "btrfs"}

// RequireAll says whether a skip counts as a failure.
func RequireAll() bool { return os.Getenv("SNAPDRIVER_REQUIRE_ALL") == "1" }

// Skip skips t, or fails it when RequireAll.
func Skip(t testing.TB, format string, args ...any) {
	t.Helper()
	if RequireAll() {
		t.Fatalf("SNAPDRIVER_REQUIRE_ALL=1 allows no skip: "+format, args...)
	}
	t.Skipf(format, args...)
}

// RequireRoot skips t unless it runs as root.
func RequireRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Skip(t, "needs root, for mounts and loop devices")
	}
}

// RequirePrograms skips t unless all these programs are on the PATH.
func RequirePrograms(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			Skip(t, "needs the program %s: run hack/setup.sh", name)
		}
	}
}

// Filesystem mounts a fresh filesystem of a kind (see Filesystems) and size in
// bytes, sparse in a file, and returns where. It goes when the test ends.
func Filesystem(t testing.TB, kind string, size int64) string {
	t.Helper()
	RequireRoot(t)
	RequirePrograms(t, "mkfs."+kind, "mount")
	base := TempDir(t)
	image, dir := filepath.Join(base, kind+".img"), filepath.Join(base, kind)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	file, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := file.Truncate(size); err != nil {
		t.Fatal(err)
	}
	Run(t, "mkfs."+kind, "-q", image)
	Run(t, "mount", "-o", "loop", image, dir)
	t.Cleanup(func() { Unmount(t, dir) })
	return dir
}

// TempDir is t.TempDir with symbolic links resolved, as the mount table has it.
func TempDir(t testing.TB) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// Context is the context of a test, and ends a minute before the test's time is
// up: what hangs can be shown then.
func Context(t *testing.T) context.Context {
	t.Helper()
	deadline, has := t.Deadline()
	if !has {
		return t.Context()
	}
	ctx, cancel := context.WithDeadline(t.Context(), deadline.Add(-time.Minute))
	t.Cleanup(cancel)
	return ctx
}

// Run runs a program and fails t, with what it printed, when it fails.
func Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Leaks lists the mounts at or below dir and the loop devices whose file lies
// below it.
func Leaks(dir string) ([]string, error) {
	var leaks []string
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return nil, err
	}
	for _, mount := range mounts {
		leaks = append(leaks, "mount "+mount.Mountpoint)
	}
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		// A device that is detached meanwhile has no such file any more.
		if text, err := os.ReadFile(file); err == nil && strings.HasPrefix(string(text), dir+"/") {
			leaks = append(leaks, fmt.Sprintf("loop device %s of %s", strings.Split(file, "/")[3], strings.TrimSpace(string(text))))
		}
	}
	return leaks, nil
}

// ExpectNoLeaks fails t when there are mounts below dir, other than one at dir
// itself, or loop devices whose file lies below it.
func ExpectNoLeaks(t testing.TB, dir string) {
	t.Helper()
	leaks, err := Leaks(dir)
	leaks = slices.DeleteFunc(leaks, func(leak string) bool { return leak == "mount "+dir })
	if err != nil || len(leaks) > 0 {
		t.Errorf("left behind: %q %v", leaks, err)
	}
}

// InBackground runs a server until the test ends, which fails when the server
// returns an error.
func InBackground(t testing.TB, run func(context.Context) error) {
	ctx, stop := context.WithCancel(context.Background())
	stopped := make(chan error)
	go func() { stopped <- run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-stopped; err != nil {
			t.Errorf("the server ended with: %v", err)
		}
	})
}
