package hostpath_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

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

func (s storage) Write(t testing.TB, b backend.Backend, id backend.VolumeID, text string) {
	backendtest.Write(t, b, id, text)
}

func (s storage) Read(t testing.TB, b backend.Backend, id backend.VolumeID) string {
	return backendtest.Read(t, b, id)
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
