package lvm_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/snapdriver/snapdriver/internal/dm"
	"github.com/snapdriver/snapdriver/internal/testenv"
	"github.com/snapdriver/snapdriver/pkg/backend"
	"github.com/snapdriver/snapdriver/pkg/backend/backendtest"
	"github.com/snapdriver/snapdriver/pkg/backend/lvm"
)

const mib = 1 << 20

// profiles are the kinds of volume, and a size that each of them can have.
var profiles = map[string]struct {
	backend.Profile
	size int64
}{
	"ext4":  {backend.Profile{Mode: backend.Filesystem}, 16 * mib},
	"xfs":   {backend.Profile{Mode: backend.Filesystem, FSType: "xfs"}, 300 * mib},
	"btrfs": {backend.Profile{Mode: backend.Filesystem, FSType: "btrfs"}, 128 * mib},
	"block": {backend.Profile{Mode: backend.Block}, 4 * mib},
}

func TestConformance(t *testing.T) {
	for name, profile := range profiles {
		t.Run(name, func(t *testing.T) {
			s := newStorage(t)
			backendtest.Run(t, backendtest.Config{
				New: func(testing.TB) backendtest.Storage {
					if t.Failed() { // then something is left, and would be taken for this test's
						s = newStorage(t)
					}
					return s
				},
				Profile: profile.Profile,
				Size:    profile.size,
				Commands: &backendtest.Commands{
					Create: 1, Restore: 1, Clone: 1, LargerRestore: 2, Snapshot: 1,
					Expand: 1, Delete: 1, FirstAttach: 1, Attach: 1, Detach: 1,
				},
			})
		})
	}
}

// storage is a thin pool, and a directory for lock files.
type storage struct {
	testenv.Pool
	lockDir string
}

// newStorage makes a thin pool for a test.
func newStorage(t testing.TB) storage {
	return storage{testenv.ThinPool(t, testenv.PoolOptions{}), testenv.TempDir(t)}
}

func (s storage) Open(t testing.TB, step backend.StepFunc) backend.Backend {
	t.Helper()
	b, err := lvm.Open(s.options(step))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (s storage) options(step backend.StepFunc) lvm.Options {
	return lvm.Options{VolumeGroup: s.Group, ThinPool: s.Name, LockDir: s.lockDir, Step: step}
}

func (s storage) Crash(_ testing.TB, b backend.Backend) { b.(*lvm.Backend).Crash() }

func (s storage) Write(t testing.TB, b backend.Backend, id backend.VolumeID, text string) {
	backendtest.Write(t, b, id, text)
}

func (s storage) Read(t testing.TB, b backend.Backend, id backend.VolumeID) string {
	return backendtest.Read(t, b, id)
}

func (s storage) Commands(b backend.Backend) (changing, asking int) {
	changing, asking, _ = b.(*lvm.Backend).Commands()
	return changing, asking
}

// Check looks for logical volumes and devices beside the pool's own.
func (s storage) Check(t testing.TB) {
	t.Helper()
	if volumes := strings.Fields(s.LVM(t, "lvs", "--noheadings", "--options", "lv_name", s.Group)); len(volumes) != 1 || volumes[0] != s.Name {
		t.Errorf("left behind: logical volumes %q", volumes)
	}
	devices, err := filepath.Glob(dm.Path(dm.Name(s.Group, "*")))
	if err != nil {
		t.Fatal(err)
	}
	for _, device := range devices {
		if !strings.HasPrefix(device, dm.Path(dm.Name(s.Group, s.Name))) {
			t.Errorf("left behind: device %s", device)
		}
	}
}
