package crash

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// content writes and recognises trees that differ by their tag: a small file,
// one that is large enough to be cloned, and a link.
type content struct{ tag uint64 }

func (c content) files() map[string][]byte {
	source := rand.NewChaCha8([32]byte{byte(c.tag), byte(c.tag >> 8), byte(c.tag >> 16)})
	files := map[string][]byte{"small": make([]byte, 100), "dir/large": make([]byte, 300_001)}
	for _, name := range []string{"small", "dir/large"} {
		_, _ = source.Read(files[name]) // never fails
	}
	return files
}

func (c content) write(t testing.TB, dir string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(dir, "dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, data := range c.files() {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../small", filepath.Join(dir, "dir/link")); err != nil {
		t.Fatal(err)
	}
}

func (c content) check(t testing.TB, what, dir string) {
	t.Helper()
	for name, data := range c.files() {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: %s is not whole: %d bytes, %v", what, name, len(got), err)
		}
	}
	if target, err := os.Readlink(filepath.Join(dir, "dir/link")); err != nil || target != "../small" {
		t.Errorf("%s: link: %q, %v", what, target, err)
	}
}
