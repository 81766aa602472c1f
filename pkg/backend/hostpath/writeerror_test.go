package hostpath_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/internal/testenv"
	"github.com/snapdriver/snapdriver/pkg/backend/hostpath"
)

// A write that failed is an error, also when somebody else had the kernel do it,
// and was told of it, before the backend asks, and when the disk is well again
// then. The files are larger than 64 KiB: for smaller ones ext4 takes 2 MiB ahead
// for each processor, which fill cannot take away and another copy can go to.
func TestFailedWriteIsNotLost(t *testing.T) {
	for files, size := range map[int]int{3: 1 << 20, 70: 128 << 10} {
		t.Run(fmt.Sprintf("%d files", files), func(t *testing.T) { testFailedWrite(t, files, size) })
	}
}

func testFailedWrite(t *testing.T, files, size int) {
	disk := newFailingDisk(t, "130m", func(image string) {
		testenv.Run(t, "fallocate", "-l", "128M", image)
		testenv.Run(t, "mkfs.ext4", "-q", "-b", "4096", "-I", "2048", "-O", "inline_data", image)
		testenv.Run(t, "fallocate", "-l", "128M", image) // what mkfs has made a hole
	})
	b := open(t, filepath.Join(disk.dir, "root"), hostpath.Options{Step: disk.step})
	t.Cleanup(func() { _ = b.Close() }) // closed before, unless the test failed
	recovered(t, b)
	source, clone := spec("directory", "volume"), spec("directory", "clone")
	create(t, b, source)
	for i := range files {
		name := filepath.Join(disk.dir, "root", "volumes", source.ID.String(), "data", fmt.Sprint(i))
		if err := os.WriteFile(name, bytes.Repeat([]byte{1}, size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	disk.fill()
	clone.Source.Volume = source.ID
	if _, err := b.CreateVolume(t.Context(), clone, nil); err == nil {
		t.Error("a copy whose data did not reach the disk was acknowledged")
	}
	if _, err := b.CreateVolume(t.Context(), clone, nil); err != nil {
		t.Errorf("a copy to a disk that is well again: %v", err)
	}
	deleteAll(t, b, filepath.Join(disk.dir, "root"), source.ID, clone.ID)
}

// writeAndMap is FIBMAP of linux/fs.h, which asks where a block of a file lies.
// ext4 writes the data before it knows, and leaves an error for fsync to tell.
const writeAndMap = 1

// The filesystem's log cannot be written any more, and somebody else has been
// told. The next fsync of the same directory is a success then: ext4 has given up
// what was to be written.
func TestFailedLogIsNotLost(t *testing.T) {
	first, second := spec("directory", "first"), spec("directory", "second")
	for operation, request := range map[string]func(b *hostpath.Backend) error{
		"creation": func(b *hostpath.Backend) error { _, err := b.CreateVolume(t.Context(), second, nil); return err },
		"expansion": func(b *hostpath.Backend) error {
			_, err := b.ExpandVolume(t.Context(), first.ID, 2*first.Capacity)
			return err
		},
		"deletion": func(b *hostpath.Backend) error { return b.DeleteVolume(t.Context(), first.ID) },
	} {
		t.Run(operation, func(t *testing.T) {
			disk := newFailingDisk(t, "32m", func(image string) {
				testenv.Run(t, "truncate", "--size", "128M", image)
				testenv.Run(t, "mkfs.ext4", "-q", "-E", "lazy_journal_init=1", image) // the log is a hole
			})
			root := filepath.Join(disk.dir, "root")
			var fails bool
			step := func(name string) {
				if fails && name == "sync" {
					disk.takeRoom()
					if err := syncDirectory(filepath.Join(root, "volumes")); err == nil {
						t.Error("nothing has failed")
					}
				}
			}
			b := open(t, root, hostpath.Options{Step: step})
			recovered(t, b)
			create(t, b, first)
			fails = true
			for range 2 { // the repeat meets what the first has left
				if err := request(b); err == nil {
					t.Error("what did not reach the disk was acknowledged")
				}
				fails = false
			}
			b.WaitForRemovals()
			b.Crash()
			disk.repair()
			b = open(t, root, hostpath.Options{})
			t.Cleanup(func() { _ = b.Close() }) // closed before, unless the test failed
			if inventory := recovered(t, b); len(inventory.Volumes) != 1 || inventory.Volumes[0].ID != first.ID || inventory.Volumes[0].Capacity != first.Capacity {
				t.Errorf("found %v, expected the first volume as it was", inventory.Volumes)
			}
			deleteAll(t, b, root, first.ID)
		})
	}
}

func syncDirectory(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// failingDisk is an ext4 that can write where there is something already, and
// when the room under it is taken nowhere else. Small directories and files lie
// in the table of inodes, where there is something.
type failingDisk struct {
	t     *testing.T
	under string // a tmpfs; has the disk
	dir   string
}

// newFailingDisk has make fill an image with an ext4, in a filesystem of that
// size.
func newFailingDisk(t *testing.T, size string, make func(image string)) *failingDisk {
	t.Helper()
	testenv.RequireRoot(t)
	testenv.RequirePrograms(t, "mkfs.ext4", "mount", "fallocate", "fstrim")
	base := testenv.TempDir(t)
	d := &failingDisk{t, filepath.Join(base, "under"), filepath.Join(base, "disk")}
	for _, dir := range []string{d.under, d.dir} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	testenv.Run(t, "mount", "-t", "tmpfs", "-o", "size="+size, "tmpfs", d.under)
	t.Cleanup(func() { testenv.Unmount(t, d.under) })
	make(d.image())
	testenv.Run(t, "mount", "-o", "loop", d.image(), d.dir)
	t.Cleanup(func() { testenv.UnmountDevice(t, d.dir) })
	return d
}

func (d *failingDisk) image() string { return filepath.Join(d.under, "image") }

// fill takes the room from under all that is free on the disk.
func (d *failingDisk) fill() {
	d.t.Helper()
	if err := d.sync(); err != nil {
		d.t.Fatal(err)
	}
	testenv.Run(d.t, "fstrim", d.dir)
	d.takeRoom()
}

func (d *failingDisk) takeRoom() {
	d.t.Helper()
	for size := int64(0); ; {
		var under unix.Statfs_t
		if err := unix.Statfs(d.under, &under); err != nil {
			d.t.Fatal(err)
		}
		if under.Bfree == 0 {
			return
		}
		size += int64(under.Bfree) * under.Bsize
		testenv.Run(d.t, "fallocate", "-l", fmt.Sprint(size), d.filler())
	}
}

// repair gives the room back, and mounts the disk anew.
func (d *failingDisk) repair() {
	d.t.Helper()
	testenv.UnmountDevice(d.t, d.dir)
	if err := os.Remove(d.filler()); err != nil {
		d.t.Fatal(err)
	}
	testenv.Run(d.t, "mount", "-o", "loop", d.image(), d.dir)
}

func (d *failingDisk) filler() string { return filepath.Join(d.under, "filler") }

// step has the data of what is staged written before its record is. Then the
// disk is well again, and somebody else asks for errors.
func (d *failingDisk) step(name string) {
	if name != "record" {
		return
	}
	if _, err := os.Lstat(d.filler()); err != nil {
		return // it is well
	}
	staged, err := filepath.Glob(filepath.Join(d.dir, "root", "staging", "*", "data", "*"))
	if err != nil || len(staged) == 0 {
		d.t.Errorf("staged: %q, %v", staged, err)
	}
	for _, name := range staged {
		file, err := os.Open(name)
		if err != nil {
			d.t.Error(err)
			continue
		}
		_ = unix.IoctlSetPointerInt(int(file.Fd()), writeAndMap, 0)
		_ = file.Close()
	}
	if err := os.Remove(d.filler()); err != nil {
		d.t.Error(err)
	}
	if err := d.sync(); err == nil {
		d.t.Error("nothing has failed")
	}
}

func (d *failingDisk) sync() error {
	dir, err := os.Open(d.dir)
	if err != nil {
		return err
	}
	defer dir.Close()
	return unix.Syncfs(int(dir.Fd()))
}
