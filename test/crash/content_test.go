package crash

import (
	"bytes"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// content writes and recognises what differs by its tag: on a device a blob,
// in a directory a small file, one that is large enough to be cloned, and a
// link.
type content struct{ tag uint64 }

func (c content) bytes(n int) []byte {
	data := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(c.tag), byte(c.tag >> 8), byte(c.tag >> 16)}).Read(data) // never fails
	return data
}

func (c content) files() map[string][]byte {
	return map[string][]byte{"small": c.bytes(100), "dir/large": c.bytes(300_001)}
}

// write may be cut off and repeated.
func (c content) write(t testing.TB, path string) {
	t.Helper()
	if isDevice(t, path) {
		c.writeDevice(t, path)
		return
	}
	if err := os.MkdirAll(filepath.Join(path, "dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, data := range c.files() {
		if err := os.WriteFile(filepath.Join(path, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../small", filepath.Join(path, "dir/link")); err != nil && !os.IsExist(err) {
		t.Fatal(err)
	}
}

func (c content) writeDevice(t testing.TB, path string) {
	t.Helper()
	device, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	if _, err := device.Write(c.bytes(300_001)); err != nil {
		t.Fatal(err)
	}
	if err := device.Sync(); err != nil {
		t.Fatal(err)
	}
}

func (c content) check(t testing.TB, what, path string) {
	t.Helper()
	if isDevice(t, path) {
		c.checkDevice(t, what, path)
		return
	}
	for name, data := range c.files() {
		if got, err := os.ReadFile(filepath.Join(path, name)); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: %s is not whole: %d bytes, %v", what, name, len(got), err)
		}
	}
	if target, err := os.Readlink(filepath.Join(path, "dir/link")); err != nil || target != "../small" {
		t.Errorf("%s: link: %q, %v", what, target, err)
	}
}

func (c content) checkDevice(t testing.TB, what, path string) {
	t.Helper()
	device, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	got := make([]byte, 300_001)
	if _, err := io.ReadFull(device, got); err != nil || !bytes.Equal(got, c.bytes(len(got))) {
		t.Errorf("%s: the device is not what was written: %v", what, err)
	}
}

func isDevice(t testing.TB, path string) bool {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode()&fs.ModeDevice != 0
}
