package hostpath

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

// A stop waits for no removal, not even within one directory: the next start
// goes on with it.
func TestCloseEndsRemovals(t *testing.T) {
	root := t.TempDir()
	b, err := Open(root, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.WaitForRemovals()
	file, empty := filepath.Join(root, trashDir, "directory", "file"), filepath.Join(root, trashDir, "empty")
	for _, dir := range []string{filepath.Dir(file), empty} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	b.background.Go(func() {
		for !b.closing.Load() {
			runtime.Gosched()
		}
		b.removeTrash(trashDir+"/directory", trashDir+"/empty")
		if moved, err := b.flatten(trashDir + "/directory"); err != nil || len(moved) > 0 {
			t.Errorf("flatten: %q, %v", moved, err)
		}
	})
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	for _, left := range []string{file, empty} {
		if _, err := os.Stat(left); err != nil {
			t.Errorf("removed after Close had begun: %v", err)
		}
	}
}
