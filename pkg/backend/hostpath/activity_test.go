package hostpath

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/internal/loop"
	"github.com/snapdriver/snapdriver/internal/testenv"
	"github.com/snapdriver/snapdriver/pkg/backend"
)

// attachImage attaches a new image of 1 MiB on a filesystem of this kind.
func attachImage(t *testing.T, kind string) (*os.File, *loop.Device) {
	t.Helper()
	id := backend.NewVolumeID("node", "volume")
	name := filepath.Join(testenv.Filesystem(t, kind, 512<<20), volumePath(id), imageFile)
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		t.Fatal(err)
	}
	image, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := image.Truncate(1 << 20); err != nil {
		t.Fatal(err)
	}
	var loops loops
	if _, err := loops.attach(id, image); err != nil {
		t.Fatal(err)
	}
	device, err := loops.find(id, image)
	if err != nil || device == nil {
		t.Fatalf("%v, %v; expected the device", device, err)
	}
	t.Cleanup(func() {
		device.Close()
		if err := errors.Join(loops.detach(id, image), image.Close()); err != nil {
			t.Error(err)
		}
	})
	return image, device
}

func TestActivityShowsEveryWrite(t *testing.T) {
	for _, kind := range testenv.Filesystems {
		t.Run(kind, func(t *testing.T) {
			image, device := attachImage(t, kind)
			writer, err := os.OpenFile(device.Path(), os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer writer.Close()
			for name, write := range map[string]func() error{
				"nothing": func() error { return nil },
				"write": func() error {
					_, err := writer.WriteAt(make([]byte, 4096), 0)
					return errors.Join(err, writer.Sync())
				},
				"discard": func() error { return blockDiscard(writer, 8192, 4096) },
			} {
				before, err := observe(image, device)
				if err != nil {
					t.Fatal(err)
				}
				if err := write(); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				after, err := observe(image, device)
				if err != nil {
					t.Fatal(err)
				}
				if (before == after) != (name == "nothing") {
					t.Errorf("%s: before %+v, after %+v", name, before, after)
				}
			}
		})
	}
}

func blockDiscard(device *os.File, offset, length uint64) error {
	return unix.Fallocate(int(device.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(offset), int64(length))
}
