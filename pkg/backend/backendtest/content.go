package backendtest

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

// sector is the least that a raw device takes at once, in bytes.
const sector = 512

// Write is Storage.Write for a backend whose volumes the kernel can mount: it
// writes to a file, or to the start of a raw device.
func Write(t testing.TB, b backend.Backend, id backend.VolumeID, text string) {
	t.Helper()
	Use(t, b, id, func(name string, device bool) {
		flag, content := os.O_WRONLY|os.O_CREATE|os.O_TRUNC, []byte(text)
		if device {
			flag, content = os.O_WRONLY, append(content, make([]byte, sector-len(content))...)
		}
		file, err := os.OpenFile(name, flag, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		_, err = file.Write(content)
		if err := errors.Join(err, file.Close()); err != nil {
			t.Fatal(err)
		}
	})
}

// Read is Storage.Read for what Write has written.
func Read(t testing.TB, b backend.Backend, id backend.VolumeID) (text string) {
	t.Helper()
	Use(t, b, id, func(name string, _ bool) {
		file, err := os.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			return // nothing was written yet
		}
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		content := make([]byte, sector)
		n, _ := file.Read(content) // of an empty file: nothing
		text = string(bytes.TrimRight(content[:n], "\x00"))
	})
	return text
}

// Use attaches a volume, mounts it if it is to be mounted, and undoes both
// after act, which gets the file to use.
func Use(t testing.TB, b backend.Backend, id backend.VolumeID, act func(name string, device bool)) {
	t.Helper()
	mount, err := b.Attach(context.Background(), id)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := b.Detach(context.Background(), id); err != nil {
			t.Fatal(err)
		}
	}()
	switch {
	case mount.FSType != "":
		dir := t.TempDir()
		if err := unix.Mount(mount.Source, dir, mount.FSType, 0, strings.Join(mount.Options, ",")); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := unix.Unmount(dir, 0); err != nil {
				t.Fatal(err)
			}
		}()
		act(filepath.Join(dir, "file"), false)
	case strings.HasPrefix(mount.Source, "/dev/"):
		act(mount.Source, true)
	default:
		act(filepath.Join(mount.Source, "file"), false)
	}
}
