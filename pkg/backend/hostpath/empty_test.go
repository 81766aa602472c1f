package hostpath_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/internal/testenv"
	"github.com/snapdriver/snapdriver/pkg/backend/hostpath"
)

// deepPath is deeper than so many directories are opened in each other.
var deepPath = strings.Repeat("d/", 300)

// On btrfs, anybody makes a subvolume in a directory that is his, out of which
// the kernel moves no directory. One may be read-only, with protected files in
// it, and with stubs of those that were in the one that it is a snapshot of.
func TestSubvolumesAreRemoved(t *testing.T) {
	testenv.RequirePrograms(t, "btrfs", "chattr")
	root := filepath.Join(testenv.Filesystem(t, "btrfs", 512<<20), "root")
	b := opened(t, root, hostpath.Options{})
	id := create(t, b, spec("directory", "volume"))
	data := attached(t, b, id).Source
	sub := filepath.Join(data, "directory", "sub")
	makeFile(t, filepath.Join(data, "directory", "file"))
	testenv.Run(t, "btrfs", "subvolume", "create", sub)
	makeFile(t, filepath.Join(sub, deepPath, "file"))
	makeFile(t, filepath.Join(sub, "protected", "file"))
	testenv.Run(t, "btrfs", "subvolume", "create", filepath.Join(sub, "inner"))
	makeFile(t, filepath.Join(sub, "inner", "directory", "file"))
	testenv.Run(t, "chattr", "+i", filepath.Join(sub, "protected", "file"), filepath.Join(sub, "protected"))
	testenv.Run(t, "btrfs", "subvolume", "snapshot", "-r", sub, filepath.Join(data, "read-only"))
	testenv.Run(t, "btrfs", "subvolume", "snapshot", "-r", sub, filepath.Join(sub, "inner", "read-only"))
	if err := b.DeleteVolume(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	b.WaitForRemovals()
	storage{root}.checkEmpty(t, "trash")
}

func makeFile(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A mount in a subvolume is not taken for what just cannot be moved.
func TestMountsInDeletedSubvolumesAreLeftAlone(t *testing.T) {
	testenv.RequirePrograms(t, "btrfs")
	base := testenv.Filesystem(t, "btrfs", 512<<20)
	root, outside := filepath.Join(base, "root"), filepath.Join(base, "outside")
	precious := filepath.Join(outside, "precious")
	makeFile(t, precious)
	b := opened(t, root, hostpath.Options{})
	id := create(t, b, spec("directory", "volume"))
	sub := filepath.Join(attached(t, b, id).Source, "sub")
	testenv.Run(t, "btrfs", "subvolume", "create", sub)
	mounted := filepath.Join(sub, "directory", "mount")
	if err := os.MkdirAll(mounted, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(outside, mounted, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	err := b.DeleteVolume(t.Context(), id)
	b.WaitForRemovals()
	leaks, _ := testenv.Leaks(root)
	for _, leak := range leaks {
		testenv.Unmount(t, strings.TrimPrefix(leak, "mount "))
	}
	if err != nil || len(leaks) != 1 {
		t.Errorf("deleted: %v; mounts below the root: %q, expected the one", err, leaks)
	}
	if _, err := os.Stat(precious); err != nil {
		t.Errorf("what was mounted in the volume: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	storage{root}.Check(t) // the next start removes what had to stay
}

// Where a project is inherited, the kernel moves no directory of another one in.
func TestDirectoriesOfOtherProjectsAreRemoved(t *testing.T) {
	testenv.RequirePrograms(t, "xfs_io")
	root := filepath.Join(testenv.Filesystem(t, "xfs", 512<<20), "root")
	if err := os.Mkdir(root, 0o700); err != nil {
		t.Fatal(err)
	}
	testenv.Run(t, "xfs_io", "-c", "chproj 42", "-c", "chattr +P", root)
	b := opened(t, root, hostpath.Options{})
	id := create(t, b, spec("directory", "volume"))
	other := filepath.Join(attached(t, b, id).Source, "other")
	makeFile(t, filepath.Join(other, "directory", "file"))
	testenv.Run(t, "xfs_io", "-c", "chproj -R 43", other)
	if err := b.DeleteVolume(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	b.WaitForRemovals()
	storage{root}.checkEmpty(t, "trash")
}
