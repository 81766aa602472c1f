package lvm_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/internal/testenv"
	"github.com/snapdriver/snapdriver/pkg/backend"
)

func open(t testing.TB, path string) *os.File {
	t.Helper()
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	return file
}

// mounted attaches and mounts a volume until the test ends.
func (f *fixture) mounted(t testing.TB, id backend.VolumeID, flags uintptr) string {
	t.Helper()
	mount, dir := f.attach(id), testenv.TempDir(t)
	if err := unix.Mount(mount.Source, dir, mount.FSType, flags, strings.Join(mount.Options, ",")); err != nil {
		t.Fatalf("mount %s: %v", id, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
		if err := f.Detach(context.Background(), id); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func expectFile(t testing.TB, dir, text string) {
	t.Helper()
	if got, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(got) != text {
		t.Errorf("%s holds %q, %v; expected %q", dir, got, err, text)
	}
}

// What is made from a volume has its filesystem. One that is asked for and is not
// there is refused, and one that was not asked for is told.
func TestCopiesHaveTheirSourcesFilesystem(t *testing.T) {
	f := newFixture(t)
	id := f.create("xfs", "xfs", backend.Source{})
	f.write(id, "content")
	for kind, source := range map[string]backend.Source{"clone": {Volume: id}, "restore": {Snapshot: f.snapshot("snapshot", id)}} {
		spec := backend.VolumeSpec{Name: kind, Profile: backend.Profile{Mode: backend.Filesystem}, Capacity: profiles["xfs"].size, Source: source}
		for fsType, text := range map[string]string{"": "", "xfs": "", "ext4": "the source holds xfs and cannot become a volume with ext4"} {
			spec.ID, spec.FSType = backend.NewVolumeID("node", kind+fsType), fsType
			_, err := f.CreateVolume(t.Context(), spec, nil)
			if text != "" {
				if !errors.Is(err, backend.ErrInvalid) || !strings.Contains(err.Error(), text) {
					t.Errorf("%s as %q: %v, expected %q", kind, fsType, err, text)
				}
				continue
			}
			if err != nil {
				t.Errorf("%s as %q: %v", kind, fsType, err)
				continue
			}
			if mount := f.attach(spec.ID); mount.FSType != "xfs" {
				t.Errorf("%s as %q is %s", kind, fsType, mount.FSType)
			}
			f.detach(spec.ID)
			f.expect(spec.ID, "content")
		}
	}
}

// What was made from a volume is mounted while the volume is, also read-only,
// and has what was written before, synced or not.
func TestCopiesMountBesideOriginal(t *testing.T) {
	for _, profile := range []string{"ext4", "xfs", "btrfs"} {
		t.Run(profile, func(t *testing.T) {
			f := newFixture(t)
			original := f.create("original", profile, backend.Source{})
			dir := f.mounted(t, original, 0)
			if err := os.WriteFile(filepath.Join(dir, "file"), []byte("not synced"), 0o600); err != nil {
				t.Fatal(err)
			}
			restored := f.create("restored", profile, backend.Source{Snapshot: f.snapshot("snapshot", original)})
			clone := f.create("clone", profile, backend.Source{Volume: original})
			copied := f.create("clone of clone", profile, backend.Source{Volume: clone})
			expectFile(t, f.mounted(t, restored, 0), "not synced")
			expectFile(t, f.mounted(t, clone, unix.MS_RDONLY), "not synced")
			expectFile(t, f.mounted(t, copied, 0), "not synced")
		})
	}
}

// A copy of a filesystem that was cut off is mounted read-only, and its journal
// replayed.
func TestCopyWithDirtyJournal(t *testing.T) {
	for _, profile := range []string{"ext4", "xfs"} {
		t.Run(profile, func(t *testing.T) {
			testenv.RequireThinPools(t)
			testenv.RequirePrograms(t, "xfs_io")
			f := newFixture(t)
			original := f.create("original", profile, backend.Source{})
			t.Run("cut off", func(t *testing.T) {
				dir := f.mounted(t, original, 0)
				testenv.Run(t, "xfs_io", "-f", "-c", "pwrite -q 0 6", "-c", "fsync", filepath.Join(dir, "file"))
				testenv.Run(t, "xfs_io", "-x", "-c", "shutdown", dir)
			})
			clone := f.create("clone", profile, backend.Source{Volume: original})
			expectFile(t, f.mounted(t, clone, unix.MS_RDONLY), "\xcd\xcd\xcd\xcd\xcd\xcd")
		})
	}
}

const (
	places  = 16
	stride  = 64 << 10 // bytes from one place to the next
	rounds  = 5        // of two snapshots each
	directs = 4096     // what O_DIRECT wants buffers and offsets to be multiples of

	pause = 100 * time.Microsecond // between two writes: a guest has one processor, and lvm needs it
)

// A snapshot is of one instant. A writer puts a counter into one place after the
// other, again and again: in no copy is a later place ahead of an earlier one,
// nor an earlier one by more than one round.
func TestSnapshotIsOfOneInstant(t *testing.T) {
	for profile, flag := range map[string]int{"ext4": 0, "block": unix.O_DIRECT} {
		t.Run(profile, func(t *testing.T) {
			f := newFixture(t)
			id := f.create("volume", profile, backend.Source{})
			path := f.attach(id).Source
			if profile != "block" {
				path = filepath.Join(f.mounted(t, id, 0), "file")
			}
			file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|flag, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			counter := startCounting(t, file)
			last := uint64(0)
			for round := range rounds {
				copies, atLeast := []backend.VolumeID{}, []uint64{}
				for i := range 2 {
					name := fmt.Sprint(round, ".", i)
					atLeast = append(atLeast, counter.await(t, last))
					last = atLeast[i]
					copies = append(copies, f.create(name, profile, backend.Source{Snapshot: f.snapshot(name, id)}))
				}
				for i, id := range copies {
					if now := f.checkInstant(t, id); now < atLeast[i] {
						t.Errorf("the counter stands at %d, and did at %d before the snapshot", now, atLeast[i])
					}
				}
			}
		})
	}
}

// counter writes a counter to all places of a file, again and again.
type counter struct {
	written atomic.Uint64 // what is in all places
	stop    atomic.Bool
	ended   chan error
}

// startCounting counts until the test ends.
func startCounting(t *testing.T, file *os.File) *counter {
	c := &counter{ended: make(chan error, 1)}
	go func() { c.ended <- c.count(file) }()
	t.Cleanup(func() {
		c.stop.Store(true)
		if err := errors.Join(<-c.ended, file.Close()); err != nil {
			t.Error(err)
		}
	})
	return c
}

func (c *counter) count(file *os.File) error {
	buffer := aligned()
	for n := uint64(1); !c.stop.Load(); n++ {
		for place := range places {
			binary.LittleEndian.PutUint64(buffer, n)
			if _, err := file.WriteAt(buffer, int64(place)*stride); err != nil {
				return err
			}
			time.Sleep(pause)
		}
		c.written.Store(n)
	}
	return nil
}

// await returns where the counter stands once it has passed a value: a slow
// machine may take two snapshots while it counts once.
func (c *counter) await(t *testing.T, last uint64) uint64 {
	t.Helper()
	for len(c.ended) == 0 {
		if now := c.written.Load(); now > last {
			return now
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatal("the counter has stopped")
	return 0
}

// aligned returns a buffer that O_DIRECT takes.
func aligned() []byte {
	buffer := make([]byte, 2*directs)
	past := int(uintptr(unsafe.Pointer(&buffer[0])) % directs)
	return buffer[directs-past:][:directs]
}

// checkInstant returns what the counter was then.
func (f *fixture) checkInstant(t *testing.T, id backend.VolumeID) uint64 {
	t.Helper()
	var content []byte
	read := func(path string) {
		file := open(t, path)
		content = make([]byte, places*stride)
		if n, err := file.ReadAt(content, 0); n <= (places-1)*stride {
			t.Errorf("read %d bytes: %v", n, err)
		}
		file.Close()
	}
	if mount := f.attach(id); mount.FSType == "" {
		read(mount.Source)
	} else {
		t.Run("copy", func(t *testing.T) { read(filepath.Join(f.mounted(t, id, 0), "file")) })
	}
	var seen []uint64
	for place := range places {
		seen = append(seen, binary.LittleEndian.Uint64(bytes.Clone(content[place*stride:][:8])))
	}
	for place := 1; place < places; place++ {
		if seen[place] > seen[place-1] || seen[0]-seen[place] > 1 || seen[place] == 0 {
			t.Fatalf("%s is of no one instant: %d", id, seen)
		}
	}
	return seen[0]
}
