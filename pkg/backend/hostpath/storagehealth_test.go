package hostpath_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/internal/testenv"
	"github.com/snapdriver/snapdriver/pkg/backend/hostpath"
)

func TestStorageHealth(t *testing.T) {
	for name, test := range map[string]struct {
		filesystem string
		harm       func(t *testing.T, root string)
		expected   string
	}{
		"moved away": {"ext4", func(t *testing.T, root string) {
			if err := os.Rename(root, root+".old"); err != nil {
				t.Fatal(err)
			}
		}, "Inaccessible RootUnreadable"},
		"replaced": {"ext4", func(t *testing.T, root string) {
			if err := errors.Join(os.Rename(root, root+".old"), os.Mkdir(root, 0o700)); err != nil {
				t.Fatal(err)
			}
		}, "Inaccessible RootUnreadable"},
		"mounted over": {"ext4", func(t *testing.T, root string) {
			testenv.Run(t, "mount", "-t", "tmpfs", "none", root)
			t.Cleanup(func() { testenv.Run(t, "umount", root) })
		}, "Inaccessible RootUnreadable"},
		"emptied": {"ext4", func(t *testing.T, root string) {
			if err := os.Remove(filepath.Join(root, "volumes")); err != nil {
				t.Fatal(err)
			}
		}, "Inaccessible RootUnreadable"},
		"XFS shut down":  {"xfs", func(t *testing.T, root string) { testenv.ShutDown(t, filepath.Dir(root)) }, "Inaccessible RootUnreadable"},
		"ext4 shut down": {"ext4", func(t *testing.T, root string) { testenv.ShutDown(t, filepath.Dir(root)) }, "Inaccessible FilesystemShutDown"},
		"ext4 errors":    {"ext4", func(t *testing.T, root string) { testenv.FailExt4(t, filepath.Dir(root)) }, "Degraded FilesystemErrors"},
		"mounted read-only": {"ext4", func(t *testing.T, root string) {
			testenv.Run(t, "mount", "-o", "remount,bind,ro", filepath.Dir(root))
		}, "Inaccessible MountReadOnly"},
		"full": {"ext4", func(t *testing.T, root string) {
			fill(t, filepath.Dir(root))
		}, "Degraded SpaceLow"},
		"without inodes": {"ext4", func(t *testing.T, root string) {
			takeInodes(t, filepath.Dir(root))
		}, "Degraded InodesLow"},
	} {
		t.Run(name, func(t *testing.T) {
			size := int64(64 << 20)
			if test.filesystem == "xfs" {
				size = 300 << 20
			}
			root := filepath.Join(testenv.Filesystem(t, test.filesystem, size), "root")
			b := opened(t, root, hostpath.Options{})
			t.Cleanup(b.Crash) // before the filesystem is unmounted
			checkStorageHealth(t, b)
			test.harm(t, root)
			checkStorageHealth(t, b, test.expected)
		})
	}
}

// fill leaves a twentieth of a filesystem's bytes free.
func fill(t *testing.T, dir string) {
	t.Helper()
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil {
		t.Fatal(err)
	}
	file, err := os.Create(filepath.Join(dir, "large"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := unix.Fallocate(int(file.Fd()), 0, 0, (int64(stat.Bavail)-int64(stat.Blocks)/20)*stat.Bsize); err != nil {
		t.Fatal(err)
	}
}

// takeInodes leaves a fiftieth of a filesystem's inodes free.
func takeInodes(t *testing.T, dir string) {
	t.Helper()
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil {
		t.Fatal(err)
	}
	for n := range stat.Ffree - stat.Files/50 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(n)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
