package hostpath

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/internal/testenv"
)

// What cannot be removed from the spare directory does not keep the next
// deletion on a full filesystem from having one.
func TestSpareDirectoryIsMadeAnew(t *testing.T) {
	testenv.RequireRoot(t)
	root := testenv.TempDir(t)
	b, err := Open(root, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if _, err := b.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.WaitForRemovals()
	spare := filepath.Join(root, spareDir)
	for name, prepare := range map[string]func(t *testing.T) error{
		"something is mounted in it": func(t *testing.T) error {
			mounted := filepath.Join(spare, "mounted")
			if err := os.Mkdir(mounted, 0o700); err != nil {
				return err
			}
			t.Cleanup(func() {
				for _, moved := range glob(t, filepath.Join(root, trashDir, "*", "mounted")) {
					testenv.Unmount(t, moved)
				}
			})
			return unix.Mount("tmpfs", mounted, "tmpfs", 0, "")
		},
		"it is gone": func(*testing.T) error { return os.Remove(spare) },
	} {
		t.Run(name, func(t *testing.T) {
			if err := prepare(t); err != nil {
				t.Fatal(err)
			}
			b.spare.Lock()
			b.removeTrash(spareDir)
			if !b.spare.TryLock() {
				t.Fatal("the spare directory is in use for ever")
			}
			b.spare.Unlock()
			if entries, err := os.ReadDir(spare); err != nil || len(entries) > 0 {
				t.Errorf("the spare directory has %v: %v", entries, err)
			}
		})
	}
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	names, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return names
}
