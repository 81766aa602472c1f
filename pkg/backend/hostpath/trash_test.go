package hostpath_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/internal/testenv"
	"github.com/snapdriver/snapdriver/pkg/backend"
	"github.com/snapdriver/snapdriver/pkg/backend/hostpath"
)

func TestDeletedTreesAreRemovedWhateverIsInThem(t *testing.T) {
	testenv.RequireRoot(t)
	root, outside := testenv.TempDir(t), testenv.TempDir(t)
	precious := filepath.Join(outside, "precious")
	if err := os.WriteFile(precious, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := opened(t, root, hostpath.Options{})
	id := create(t, b, spec("directory", "volume"))
	mount, err := b.Attach(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	for name, put := range map[string]func(path string) error{
		"symlink":   func(path string) error { return os.Symlink(outside, path) },
		"fifo":      func(path string) error { return unix.Mkfifo(path, 0o600) },
		"hard link": func(path string) error { return os.Link(precious, path) },
		"deep":      deepTree,
		"many": func(path string) error {
			if err := os.Mkdir(path, 0o500); err != nil {
				return err
			}
			for i := range 3000 {
				if err := os.WriteFile(filepath.Join(path, fmt.Sprint(i)), nil, 0o000); err != nil {
					return err
				}
			}
			return nil
		},
	} {
		if err := put(filepath.Join(mount.Source, name)); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	if err := b.DeleteVolume(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	b.WaitForRemovals()
	storage{root}.checkEmpty(t, "trash")
	if text, err := os.ReadFile(precious); err != nil || string(text) != "precious" {
		t.Errorf("outside of the volume is now %q, %v", text, err)
	}
}

// deepTree makes directories in each other whose path is longer than any path
// may be.
func deepTree(path string) error {
	if err := os.Mkdir(path, 0o755); err != nil {
		return err
	}
	dir, err := os.OpenRoot(path)
	if err != nil {
		return err
	}
	name := strings.Repeat("d", 200)
	for range 2 * unix.PathMax / len(name) {
		if err := dir.Mkdir(name, 0o755); err != nil {
			return err
		}
		next, err := dir.OpenRoot(name)
		if err != nil {
			return err
		}
		if err := dir.Close(); err != nil {
			return err
		}
		dir = next
	}
	return dir.Close()
}

// What a privileged pod has mounted inside its volume is not the volume's.
func TestMountsInDeletedVolumesAreLeftAlone(t *testing.T) {
	root, outside := testenv.TempDir(t), testenv.Filesystem(t, "ext4", 16<<20)
	precious := filepath.Join(outside, "precious")
	if err := os.WriteFile(precious, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	b := opened(t, root, hostpath.Options{})
	id := create(t, b, spec("directory", "volume"))
	mount, err := b.Attach(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	inside := filepath.Join(mount.Source, "directory", "mount")
	if err := os.MkdirAll(inside, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(outside, inside, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	if err := b.DeleteVolume(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	b.WaitForRemovals()
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(precious); err != nil {
		t.Errorf("what was mounted in the volume: %v", err)
	}
	leaks, err := testenv.Leaks(root)
	if err != nil || len(leaks) != 1 {
		t.Fatalf("mounts below the root: %q, %v; expected the one", leaks, err)
	}
	if err := unix.Unmount(strings.TrimPrefix(leaks[0], "mount "), 0); err != nil {
		t.Fatal(err)
	}
	storage{root}.Check(t) // the next start removes what had to stay
}

// Without the trash, a deletion that does nothing would be acknowledged.
func TestMissingTrashIsMadeAgain(t *testing.T) {
	root := testenv.TempDir(t)
	b := opened(t, root, hostpath.Options{})
	id := create(t, b, spec("directory", "volume"))
	snap, err := snapshot(b, "snapshot", id)
	if err != nil {
		t.Fatal(err)
	}
	trash := filepath.Join(root, "trash")
	for what, remove := range map[string]func() error{
		"volume":     func() error { return b.DeleteVolume(t.Context(), id) },
		"snapshot":   func() error { return b.DeleteSnapshot(t.Context(), snap) },
		"absent one": func() error { return b.DeleteVolume(t.Context(), backend.NewVolumeID("node", "absent")) },
	} {
		b.WaitForRemovals()
		if err := os.Remove(trash); err != nil {
			t.Fatal(err)
		}
		if err := remove(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if err := os.MkdirAll(trash, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	b.WaitForRemovals()
	storage{root}.checkEmpty(t, "volumes", "snapshots", "trash")

	id = create(t, b, spec("directory", "volume"))
	if err := os.Remove(trash); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("nowhere", trash); err != nil {
		t.Fatal(err)
	}
	if err := b.DeleteVolume(t.Context(), id); err == nil {
		t.Error("the trash leads nowhere, and yet no error")
	}
	if err := os.Remove(trash); err != nil {
		t.Fatal(err)
	}
	if err := b.DeleteVolume(t.Context(), id); err != nil {
		t.Error(err)
	}
}

// A pod with the privilege can protect its files from everybody.
func TestProtectedFilesAreRemoved(t *testing.T) {
	testenv.RequirePrograms(t, "chattr")
	for _, kind := range testenv.Filesystems {
		t.Run(kind, func(t *testing.T) {
			root := filepath.Join(testenv.Filesystem(t, kind, 512<<20), "root")
			b := opened(t, root, hostpath.Options{})
			id := create(t, b, spec("directory", "volume"))
			data := attached(t, b, id).Source
			if err := os.MkdirAll(filepath.Join(data, "directory", "below"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := unix.Mkfifo(filepath.Join(data, "fifo"), 0o600); err != nil { // blocks who opens it
				t.Fatal(err)
			}
			for _, name := range []string{"file", "directory/file", "directory/below/file"} {
				if err := os.WriteFile(filepath.Join(data, name), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			testenv.Run(t, "chattr", "+a", filepath.Join(data, "directory/file"), filepath.Join(data, "directory/below"))
			testenv.Run(t, "chattr", "+i", filepath.Join(data, "directory/below/file"), filepath.Join(data, "directory"), filepath.Join(data, "file"), data)
			if err := b.DeleteVolume(t.Context(), id); err != nil {
				t.Fatal(err)
			}
			b.WaitForRemovals()
			storage{root}.checkEmpty(t, "trash")
		})
	}
}
