package mounts

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/snapdriver/snapdriver/internal/testenv"
)

// image makes an ext4 in a file, with a file in it that it returns the content of.
func image(t *testing.T, size string) (path string, content []byte) {
	t.Helper()
	testenv.RequireRoot(t)
	path = filepath.Join(testenv.TempDir(t), "image")
	content = bytes.Repeat([]byte("content"), 100_000)
	testenv.Run(t, "truncate", "-s", size, path)
	testenv.Run(t, "mkfs.ext4", "-q", "-b", "4096", "-E", "nodiscard", path)
	whileMounted(t, path, func(dir string) {
		if err := os.WriteFile(filepath.Join(dir, "file"), content, 0o600); err != nil {
			t.Fatal(err)
		}
	})
	return path, content
}

func whileMounted(t *testing.T, image string, do func(dir string)) {
	t.Helper()
	dir := testenv.TempDir(t)
	testenv.Run(t, "mount", "-o", "loop", image, dir)
	defer testenv.Run(t, "umount", dir)
	do(dir)
}

// TestGrowUnmounted: whatever the factor, also past the 1,024 that mkfs makes
// provisions for, the filesystem grows and keeps what it holds.
func TestGrowUnmounted(t *testing.T) {
	for name, test := range map[string]struct{ from, to string }{
		"little":    {"32M", "64M"},
		"in reach":  {"64M", "60G"},
		"smallest":  {"8M", "10G"},
		"past 1024": {"64M", "80G"},
		"far":       {"64M", "2T"},
	} {
		t.Run(name, func(t *testing.T) {
			image, content := image(t, test.from)
			testenv.Run(t, "tune2fs", "-T", "20200101", image) // the last check is long ago
			testenv.Run(t, "truncate", "-s", test.to, image)
			for range 2 {
				if err := GrowUnmounted(image); err != nil {
					t.Fatal(err)
				}
			}
			wantWhole(t, image, content)
		})
	}
}

// wantWhole checks that a filesystem is sound, fills its file, and holds content.
func wantWhole(t *testing.T, image string, content []byte) {
	t.Helper()
	if super, err := readExt4(image); err != nil || !super.full() {
		t.Errorf("it has not grown: %+v %v", super, err)
	}
	whileMounted(t, image, func(dir string) {
		if got, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || !bytes.Equal(got, content) {
			t.Errorf("it does not hold what it held: %v", err)
		}
	})
	testenv.Run(t, "e2fsck", "-f", "-n", image)
}

// TestGrowUnmountedGoesOn after a crash that has left the reserve half-removed.
func TestGrowUnmountedGoesOn(t *testing.T) {
	image, content := image(t, "64M")
	testenv.Run(t, "truncate", "-s", "80G", image)
	testenv.Run(t, "tune2fs", "-O", "^resize_inode", image)
	if err := GrowUnmounted(image); err != nil {
		t.Fatal(err)
	}
	wantWhole(t, image, content)
}

func TestReadExt4(t *testing.T) {
	image, _ := image(t, "64M")
	want := ext4Super{blocks: 64 << 8, device: 64 << 8, reserved: 7, reach: 64 << 18, resizeInode: true}
	if got, err := readExt4(image); got != want || err != nil {
		t.Errorf("%+v %v, want %+v", got, err, want)
	}
	if _, err := parseExt4(make([]byte, superblockSize), 1<<20); err == nil {
		t.Error("zeros are taken for a superblock")
	}
}
