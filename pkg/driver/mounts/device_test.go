package mounts

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/snapdriver/snapdriver/internal/testenv"
	"github.com/snapdriver/snapdriver/pkg/backend"
)

// loopDevice makes a device with a filesystem of a kind, which goes when the
// test ends.
func loopDevice(t *testing.T, kind string) string {
	t.Helper()
	testenv.RequireRoot(t)
	testenv.RequirePrograms(t, "mkfs."+kind, "losetup", "truncate")
	image := filepath.Join(testenv.TempDir(t), "image")
	testenv.Run(t, "truncate", "--size=512M", image)
	testenv.Run(t, "mkfs."+kind, "-q", image)
	device := strings.TrimSpace(testenv.Run(t, "losetup", "--find", "--show", image))
	t.Cleanup(func() { testenv.Run(t, "losetup", "--detach", device) })
	return device
}

// What is mounted of a device is found, also where files have another device
// number than the device, as on btrfs.
func TestMountsOfDevices(t *testing.T) {
	for _, kind := range testenv.Filesystems {
		t.Run(kind, func(t *testing.T) {
			mounted := backend.Mount{Source: loopDevice(t, kind), FSType: kind}
			other := backend.Mount{Source: loopDevice(t, kind), FSType: kind}
			base := testenv.TempDir(t)
			staged, published := filepath.Join(base, "staged"), filepath.Join(base, "published")
			for _, dir := range []string{staged, published} {
				if err := os.Mkdir(dir, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if err := Mount(mounted, staged, 0); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = Unmount(staged) })
			if err := Bind(staged, published, 0); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = Unmount(published) })
			for _, test := range []struct {
				mount backend.Mount
				there bool
			}{{mounted, true}, {other, false}} {
				for _, path := range []string{staged, published} {
					if holds, err := Holds(path, test.mount); err != nil || holds != test.there {
						t.Errorf("Holds(%s, %s): %v, %v", path, test.mount.Source, holds, err)
					}
				}
				if used, err := InUse(test.mount); err != nil || used != test.there {
					t.Errorf("InUse(%s): %v, %v", test.mount.Source, used, err)
				}
			}
			if elsewhere, err := Elsewhere(mounted, staged); err != nil || len(elsewhere) != 1 || elsewhere[0] != published {
				t.Errorf("Elsewhere: %q, %v", elsewhere, err)
			}
			if err := Grow(mounted, staged); err != nil {
				t.Errorf("Grow: %v", err)
			}
		})
	}
}
