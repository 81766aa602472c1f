package hostpath_test

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

	"github.com/snapdriver/snapdriver/internal/testenv"
	"github.com/snapdriver/snapdriver/pkg/backend"
	"github.com/snapdriver/snapdriver/pkg/backend/backendtest"
	"github.com/snapdriver/snapdriver/pkg/backend/hostpath"
)

// profiles are the kinds of volume, and a size that each of them can have.
var profiles = map[string]struct {
	backend.Profile
	size    int64
	formats []map[string]string
}{
	"directory": {
		Profile: backend.Profile{Mode: backend.Filesystem},
		size:    1 << 20,
		formats: []map[string]string{nil, {"format": "tar.zst"}},
	},
	"ext4 image": {
		Profile: backend.Profile{Mode: backend.Filesystem, Parameters: map[string]string{"layout": "image"}},
		size:    16 << 20,
	},
	"xfs image": {
		Profile: backend.Profile{Mode: backend.Filesystem, FSType: "xfs", Parameters: map[string]string{"layout": "image"}},
		size:    300 << 20,
	},
	"block": {
		Profile: backend.Profile{Mode: backend.Block},
		size:    1 << 20,
	},
}

func TestConformance(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	for _, kind := range testenv.Filesystems {
		for name, profile := range profiles {
			t.Run(name+" on "+kind, func(t *testing.T) {
				base := testenv.Filesystem(t, kind, 8<<30)
				backendtest.Run(t, backendtest.Config{
					New: func(t testing.TB) backendtest.Storage {
						root, err := os.MkdirTemp(base, "root")
						if err != nil {
							t.Fatal(err)
						}
						return storage{root}
					},
					Profile:            profile.Profile,
					Size:               profile.size,
					SnapshotParameters: profile.formats,
				})
			})
		}
	}
}

// storage gives the suite a root directory.
type storage struct{ root string }

func (s storage) Open(t testing.TB, step backend.StepFunc) backend.Backend {
	return open(t, s.root, hostpath.Options{Step: step})
}

func open(t testing.TB, root string, options hostpath.Options) *hostpath.Backend {
	t.Helper()
	b, err := hostpath.Open(root, options)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (s storage) Crash(_ testing.TB, b backend.Backend) { b.(*hostpath.Backend).Crash() }

// Write writes to a file, or to the start of a raw device.
func (s storage) Write(t testing.TB, b backend.Backend, id backend.VolumeID, text string) {
	t.Helper()
	use(t, b, id, func(name string, device bool) {
		flag, content := os.O_WRONLY|os.O_CREATE|os.O_TRUNC, []byte(text)
		if device {
			flag, content = os.O_WRONLY, append(content, make([]byte, 512-len(content))...)
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

func (s storage) Read(t testing.TB, b backend.Backend, id backend.VolumeID) (text string) {
	t.Helper()
	use(t, b, id, func(name string, _ bool) {
		file, err := os.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			return // nothing was written yet
		}
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		content := make([]byte, 512)
		n, _ := file.Read(content) // of an empty file: nothing
		text = string(bytes.TrimRight(content[:n], "\x00"))
	})
	return text
}

// use attaches a volume, mounts it if it is to be mounted, and undoes both
// after act, which gets the file to use.
func use(t testing.TB, b backend.Backend, id backend.VolumeID, act func(name string, device bool)) {
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

// Check lets the trash be emptied first, which Close does not wait for.
func (s storage) Check(t testing.TB) {
	t.Helper()
	s.checkEmpty(t, "volumes", "snapshots", "staging", "damaged")
	b := open(t, s.root, hostpath.Options{})
	if _, err := b.Recover(context.Background()); err != nil {
		t.Fatal(err)
	}
	b.WaitForRemovals()
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	s.checkEmpty(t, "trash")
	leaks, err := testenv.Leaks(s.root)
	if err != nil {
		t.Fatal(err)
	}
	for _, leak := range leaks {
		t.Errorf("left behind: %s", leak)
	}
}

func (s storage) checkEmpty(t testing.TB, dirs ...string) {
	t.Helper()
	for _, dir := range dirs {
		entries, err := os.ReadDir(filepath.Join(s.root, dir))
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range entries {
			t.Errorf("left behind: %s/%s", dir, entry.Name())
		}
	}
}
