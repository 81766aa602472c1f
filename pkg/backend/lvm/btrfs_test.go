package lvm

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/snapdriver/snapdriver/internal/testenv"
	"github.com/snapdriver/snapdriver/pkg/backend"
)

const btrfsLogRoot = 0x60

// btrfsImage is a btrfs in a file of a size at which it has two superblocks.
func btrfsImage(t *testing.T) string {
	t.Helper()
	testenv.RequireRoot(t)
	testenv.RequirePrograms(t, "mkfs.btrfs", "blkid", "mount", "umount", "losetup", "cp")
	image := filepath.Join(testenv.TempDir(t), "original")
	testenv.Run(t, "truncate", "--size=256M", image)
	testenv.Run(t, "mkfs.btrfs", "-q", image)
	return image
}

// mountImage mounts an image until the test ends, or unmount is called.
func mountImage(t *testing.T, image string) (dir string, unmount func()) {
	t.Helper()
	dir = testenv.TempDir(t)
	testenv.Run(t, "mount", "-o", "loop", image, dir)
	mounted := true
	unmount = func() {
		if mounted {
			testenv.Run(t, "umount", dir)
		}
		mounted = false
	}
	t.Cleanup(unmount)
	return dir, unmount
}

func copyImage(t *testing.T, image, name string) string {
	t.Helper()
	to := filepath.Join(filepath.Dir(image), name)
	testenv.Run(t, "cp", "--sparse=always", image, to)
	return to
}

func superOf(t *testing.T, image string, at int64) btrfsSuper {
	t.Helper()
	file, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	super, err := readBtrfs(file, at)
	if err != nil {
		t.Fatal(err)
	}
	return super
}

// writeSynced makes a file durable without committing the whole filesystem.
func writeSynced(t *testing.T, path, text string) {
	t.Helper()
	file, err := os.Create(path)
	if err == nil {
		_, err = file.WriteString(text)
	}
	if err == nil {
		err = errors.Join(file.Sync(), file.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A copy of a mounted btrfs, with a log that was not replayed, is mounted beside
// its original, whole.
func TestBtrfsCopyBesideOriginal(t *testing.T) {
	image := btrfsImage(t)
	original, _ := mountImage(t, image)
	testenv.Run(t, "sync", "--file-system", original)
	writeSynced(t, filepath.Join(original, "file"), "synced")
	copied := copyImage(t, image, "copy")
	if superOf(t, copied, btrfsCopies[0]).number(btrfsLogRoot) == 0 {
		t.Fatal("the copy has no log: this tests nothing")
	}
	id := uuid.New()
	for range 2 {
		if err := identify(copied, id); err != nil {
			t.Fatal(err)
		}
	}
	dir, _ := mountImage(t, copied)
	if text, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(text) != "synced" {
		t.Errorf("the copy holds %q, %v", text, err)
	}
	for _, at := range btrfsCopies[:2] {
		if got := superOf(t, copied, at).fsid(); got != id {
			t.Errorf("the superblock at %d has the UUID %s, expected %s", at, got, id)
		}
	}
}

// A copy of a copy, and one that gets back the UUID of the original.
func TestBtrfsUUIDChangesAgain(t *testing.T) {
	image := btrfsImage(t)
	first := superOf(t, image, btrfsCopies[0]).fsid()
	for _, id := range []uuid.UUID{uuid.New(), uuid.New(), first} {
		if err := identify(image, id); err != nil {
			t.Fatal(err)
		}
		if out := testenv.Run(t, "blkid", "--probe", image); !strings.Contains(out, id.String()) {
			t.Errorf("blkid finds %s, expected the UUID %s", out, id)
		}
		dir, unmount := mountImage(t, image)
		writeSynced(t, filepath.Join(dir, id.String()), "")
		unmount()
	}
	if superOf(t, image, btrfsCopies[0]).number(btrfsIncompat)&hasMetadataUUID != 0 {
		t.Error("the original UUID is recorded as one that was changed")
	}
}

// A crash may come between the superblocks.
func TestBtrfsUUIDAfterCrash(t *testing.T) {
	image := btrfsImage(t)
	before := superOf(t, image, btrfsCopies[0])
	id := uuid.New()
	if err := identify(image, id); err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(image, os.O_RDWR, 0)
	if err == nil {
		_, err = file.WriteAt(before, btrfsCopies[0])
	}
	if err := errors.Join(err, file.Close()); err != nil {
		t.Fatal(err)
	}
	_, unmount := mountImage(t, image)
	unmount()
	if err := identify(image, id); err != nil {
		t.Fatal(err)
	}
	mountImage(t, image)
}

func TestBtrfsUUIDIsRefused(t *testing.T) {
	image := btrfsImage(t)
	dir, _ := mountImage(t, image)
	device := strings.TrimSpace(testenv.Run(t, "losetup", "--noheadings", "--output", "NAME", "--associated", image))
	if err := identify(device, uuid.New()); !errors.Is(err, backend.ErrPrecondition) {
		t.Errorf("mounted at %s: %v", dir, err)
	}
	broken := copyImage(t, image, "broken")
	file, err := os.OpenFile(broken, os.O_RDWR, 0)
	if err == nil {
		_, err = file.WriteAt([]byte{0xff}, btrfsCopies[0]+btrfsSuperSize-1)
	}
	if err := errors.Join(err, file.Close()); err != nil {
		t.Fatal(err)
	}
	if err := identify(broken, uuid.New()); err == nil || !strings.Contains(err.Error(), "checksum") {
		t.Errorf("broken superblock: %v", err)
	}
	empty := filepath.Join(filepath.Dir(image), "empty")
	testenv.Run(t, "truncate", "--size=256M", empty)
	if err := identify(empty, uuid.New()); err == nil {
		t.Error("no superblock, and no error")
	}
}
