package hostpath_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/internal/testenv"
	"github.com/snapdriver/snapdriver/pkg/backend"
	"github.com/snapdriver/snapdriver/pkg/backend/backendtest"
	"github.com/snapdriver/snapdriver/pkg/backend/hostpath"
)

// What a pod has written and not synced is in the snapshot, whose filesystem
// needs no repair: it mounts read-only without its journal.
func TestSnapshotOfMountedImageIsClean(t *testing.T) {
	for _, kind := range []string{"ext4 image", "xfs image"} {
		for _, host := range testenv.Filesystems {
			t.Run(kind+" on "+host, func(t *testing.T) {
				root := filepath.Join(testenv.Filesystem(t, host, 2<<30), "root")
				b := opened(t, root, hostpath.Options{})
				id := create(t, b, spec(kind, "volume"))
				dir, unmount := mounted(t, b, id)
				want := bytes.Repeat([]byte("written, not synced "), 1000)
				if err := os.WriteFile(filepath.Join(dir, "file"), want, 0o600); err != nil {
					t.Fatal(err)
				}
				cut, err := snapshot(b, "snapshot", id)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
					t.Fatalf("after the snapshot: %v", err)
				}
				restored := spec(kind, "restored")
				restored.Source.Snapshot = cut
				create(t, b, restored)
				mount := attached(t, b, restored.ID)
				copied := testenv.TempDir(t)
				if err := unix.Mount(mount.Source, copied, mount.FSType, unix.MS_RDONLY, map[string]string{"ext4": "noload", "xfs": "nouuid,norecovery"}[mount.FSType]); err != nil {
					t.Fatal(err)
				}
				got, err := os.ReadFile(filepath.Join(copied, "file"))
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("the snapshot holds %d bytes (%v), expected %d", len(got), err, len(want))
				}
				if err := unix.Unmount(copied, 0); err != nil {
					t.Fatal(err)
				}
				unmount()
				if err := b.DeleteSnapshot(t.Context(), cut); err != nil {
					t.Fatal(err)
				}
				deleteAll(t, b, root, id, restored.ID)
			})
		}
	}
}

// Where blocks cannot be shared, a snapshot of a device in use is a copy, and
// must be of one instant or fail. The writer writes one number to the start
// and then to the end of the device: at no instant is the end ahead.
func TestCopyOfDeviceThatIsWrittenTo(t *testing.T) {
	root := filepath.Join(testenv.Filesystem(t, "ext4", 1<<30), "root")
	b := opened(t, root, hostpath.Options{})
	volume := spec("block", "volume")
	volume.Capacity = 64 << 20
	id := create(t, b, volume)
	device, err := os.OpenFile(attached(t, b, id).Source, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	if _, err := device.Write(make([]byte, volume.Capacity)); err != nil { // no holes: a copy takes its time
		t.Fatal(err)
	}
	cut, err := snapshot(b, "at rest", id)
	if err != nil {
		t.Fatalf("attached, not written to: %v", err)
	}
	if err := b.DeleteSnapshot(t.Context(), cut); err != nil {
		t.Fatal(err)
	}

	var stop atomic.Bool
	ended := make(chan error)
	go func() {
		var err error
		for n := uint64(1); err == nil && !stop.Load(); n++ {
			err = errors.Join(writeNumber(device, 0, n), writeNumber(device, volume.Capacity-blockSize, n))
		}
		ended <- err
	}()
	for range 5 {
		cut, err := snapshot(b, "written to", id)
		if err != nil {
			if !errors.Is(err, backend.ErrPrecondition) {
				t.Errorf("error %v, expected none or ErrPrecondition", err)
			}
			continue
		}
		start, end := readNumbers(t, filepath.Join(root, "snapshots", cut.String(), "image"), volume.Capacity)
		if end > start || start > end+1 {
			t.Errorf("the snapshot is not of one instant: %d at the start, %d at the end", start, end)
		}
		if err := b.DeleteSnapshot(t.Context(), cut); err != nil {
			t.Fatal(err)
		}
	}
	stop.Store(true)
	if err := errors.Join(<-ended, device.Close()); err != nil {
		t.Fatal(err)
	}
	deleteAll(t, b, root, id)
}

const blockSize = 4096

// writeNumber writes a number to the device, through its cache.
func writeNumber(device *os.File, offset int64, n uint64) error {
	if _, err := device.WriteAt(binary.BigEndian.AppendUint64(nil, n), offset); err != nil {
		return err
	}
	const all = unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
	return unix.SyncFileRange(int(device.Fd()), offset, blockSize, all)
}

func readNumbers(t *testing.T, image string, size int64) (start, end uint64) {
	t.Helper()
	content, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	return binary.BigEndian.Uint64(content), binary.BigEndian.Uint64(content[size-blockSize:])
}

// A frozen filesystem stops pods; a copy that takes too long gives up and says
// what to do.
func TestCopyOfMountedImageHasALimit(t *testing.T) {
	root := filepath.Join(testenv.Filesystem(t, "ext4", 1<<30), "root")
	b := opened(t, root, hostpath.Options{FreezeLimit: 1})
	id := create(t, b, spec("ext4 image", "volume"))
	dir, unmount := mounted(t, b, id)
	_, err := snapshot(b, "snapshot", id)
	if !errors.Is(err, backend.ErrPrecondition) {
		t.Errorf("error %v, expected ErrPrecondition", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Errorf("after the attempt: %v", err)
	}
	unmount()
	deleteAll(t, b, root, id)
}

func TestFullFilesystemLeavesNothing(t *testing.T) {
	for kind, size := range map[string]int64{"directory": 24 << 20, "block": 24 << 20} {
		t.Run(kind, func(t *testing.T) {
			root := filepath.Join(testenv.Filesystem(t, "ext4", 48<<20), "root")
			b := opened(t, root, hostpath.Options{})
			volume := spec(kind, "volume")
			volume.Capacity = size
			id := create(t, b, volume)
			backendtest.Use(t, b, id, func(name string, _ bool) {
				if err := os.WriteFile(name, bytes.Repeat([]byte("x"), int(size)), 0o600); err != nil {
					t.Fatal(err)
				}
			})
			clone := spec(kind, "clone")
			clone.Capacity, clone.Source.Volume = size, id
			for range 2 {
				if _, err := b.CreateVolume(t.Context(), clone, nil); !errors.Is(err, backend.ErrExhausted) {
					t.Errorf("clone: error %v, expected ErrExhausted", err)
				}
				if _, err := snapshot(b, "snapshot", id); !errors.Is(err, backend.ErrExhausted) {
					t.Errorf("snapshot: error %v, expected ErrExhausted", err)
				}
			}
			deleteAll(t, b, root, id)
		})
	}
}

// A crash may leave an image larger than its record says, and a filesystem may
// have grown into it: what is made of it keeps all of it.
func TestExcessOfAnImageIsNotCutOff(t *testing.T) {
	testenv.RequireRoot(t)
	root := testenv.TempDir(t)
	b := opened(t, root, hostpath.Options{})
	id := create(t, b, spec("block", "volume"))
	larger := 2 * profiles["block"].size
	if err := os.Truncate(filepath.Join(root, "volumes", id.String(), "image"), larger); err != nil {
		t.Fatal(err)
	}
	clone := spec("block", "clone")
	clone.Source.Volume = id
	create(t, b, clone)
	if info, err := os.Stat(filepath.Join(root, "volumes", clone.ID.String(), "image")); err != nil || info.Size() != larger {
		t.Errorf("the clone's image: %v, %v; expected %d bytes", info, err, larger)
	}
	deleteAll(t, b, root, id, clone.ID)
}

func TestSourceOfAnotherKindIsRefused(t *testing.T) {
	testenv.RequirePrograms(t, "mkfs.ext4")
	b := opened(t, testenv.TempDir(t), hostpath.Options{})
	for _, from := range []string{"directory", "ext4 image"} {
		id := create(t, b, spec(from, from))
		for _, to := range []string{"directory", "xfs image", "block"} {
			made := spec(to, from+" to "+to)
			made.Source.Volume = id
			if _, err := b.CreateVolume(t.Context(), made, nil); from != to && !errors.Is(err, backend.ErrInvalid) {
				t.Errorf("%s: error %v, expected ErrInvalid", made.Name, err)
			}
		}
	}
}
