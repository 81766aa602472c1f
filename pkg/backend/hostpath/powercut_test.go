package hostpath_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/internal/testenv"
	"github.com/snapdriver/snapdriver/pkg/backend"
	"github.com/snapdriver/snapdriver/pkg/backend/hostpath"
)

// onEachCuttable runs a test for each filesystem that can be shut down, each
// kind of volume, and each format of its snapshots.
func onEachCuttable(t *testing.T, kinds []string, run func(t *testing.T, host, kind string, format map[string]string)) {
	for _, host := range []string{"ext4", "xfs"} { // btrfs cannot be shut down
		for _, kind := range kinds {
			formats := profiles[kind].formats
			if len(formats) == 0 {
				formats = []map[string]string{nil}
			}
			for _, format := range formats {
				t.Run(fmt.Sprintf("%s %s on %s", kind, format["format"], host), func(t *testing.T) { run(t, host, kind, format) })
			}
		}
	}
}

// What was acknowledged survives a power cut, with what it holds.
func TestPowerCut(t *testing.T) {
	onEachCuttable(t, slices.Sorted(maps.Keys(profiles)), testPowerCut)
}

func testPowerCut(t *testing.T, host, kind string, format map[string]string) {
	node := newCuttable(t, host)
	source := create(t, node.b, spec(kind, "volume"))
	node.cut("create", source.String())

	// The pod does not sync what it writes: to make it durable in the
	// snapshot and in the clone is up to the backend.
	node.Write(t, node.b, source, "content")
	cut := backend.SnapshotSpec{ID: backend.NewSnapshotID("node", "snapshot"), Name: "snapshot", Source: source, Parameters: format}
	if _, err := node.b.CreateSnapshot(t.Context(), cut, nil); err != nil {
		t.Fatal(err)
	}
	node.cut("snapshot", source.String(), cut.ID.String())

	restored, clone := spec(kind, "restored"), spec(kind, "clone")
	restored.Source.Snapshot, clone.Source.Volume = cut.ID, source
	create(t, node.b, restored)
	node.cut("restore", source.String(), cut.ID.String(), restored.ID.String())
	node.expect(restored.ID, "content")

	node.Write(t, node.b, source, "more content")
	create(t, node.b, clone)
	node.cut("clone", source.String(), cut.ID.String(), restored.ID.String(), clone.ID.String())
	node.expect(clone.ID, "more content")
	node.expect(restored.ID, "content")

	capacity := 2 * clone.Capacity
	if _, err := node.b.ExpandVolume(t.Context(), clone.ID, capacity); err != nil {
		t.Fatal(err)
	}
	for _, volume := range node.cut("expand", source.String(), cut.ID.String(), restored.ID.String(), clone.ID.String()).Volumes {
		if volume.ID == clone.ID && volume.Capacity != capacity {
			t.Errorf("grown to %d, and after the cut it has %d", capacity, volume.Capacity)
		}
	}
	node.expect(clone.ID, "more content")
	node.expectImage(clone.ID, capacity)

	if err := node.b.DeleteVolume(t.Context(), source); err != nil {
		t.Fatal(err)
	}
	node.cut("delete volume", cut.ID.String(), restored.ID.String(), clone.ID.String())
	if err := node.b.DeleteSnapshot(t.Context(), cut.ID); err != nil {
		t.Fatal(err)
	}
	node.cut("delete snapshot", restored.ID.String(), clone.ID.String())
	node.expect(restored.ID, "content")
	deleteAll(t, node.b, node.root, restored.ID, clone.ID)
}

// Of few files each is made durable, of many the filesystem.
func TestPowerCutOfTrees(t *testing.T) {
	for _, host := range []string{"ext4", "xfs"} {
		for _, files := range []int{3, 100} {
			t.Run(fmt.Sprintf("%d files on %s", files, host), func(t *testing.T) { testPowerCutOfTree(t, host, files) })
		}
	}
}

func testPowerCutOfTree(t *testing.T, host string, files int) {
	node := newCuttable(t, host)
	source, clone := spec("directory", "volume"), spec("directory", "clone")
	create(t, node.b, source)
	tree := filepath.Join(node.root, "volumes", source.ID.String(), "data")
	for i := range files {
		dir := filepath.Join(tree, fmt.Sprint("dir", i%3), "deeper")
		err := os.MkdirAll(dir, 0o755)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, fmt.Sprint("file", i)), []byte(fmt.Sprint("content ", i)), 0o000)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(unix.Mkfifo(filepath.Join(tree, "fifo"), 0o600), os.Symlink("nowhere", filepath.Join(tree, "link"))); err != nil {
		t.Fatal(err)
	}
	clone.Source.Volume = source.ID
	create(t, node.b, clone)
	copied := filepath.Join(node.root, "volumes", clone.ID.String(), "data")
	node.cut("clone", source.ID.String(), clone.ID.String())
	if info, err := os.Lstat(filepath.Join(copied, "fifo")); err != nil || info.Mode().Type() != os.ModeNamedPipe {
		t.Errorf("the fifo: %v, %v", info, err)
	}
	if target, err := os.Readlink(filepath.Join(copied, "link")); err != nil || target != "nowhere" {
		t.Errorf("the link leads to %q, %v", target, err)
	}
	for i := range files {
		name := filepath.Join(copied, fmt.Sprint("dir", i%3), "deeper", fmt.Sprint("file", i))
		if content, err := os.ReadFile(name); err != nil || string(content) != fmt.Sprint("content ", i) {
			t.Errorf("%s holds %q, %v", name, content, err)
		}
	}
	deleteAll(t, node.b, node.root, source.ID, clone.ID)
}

// What Recover told others of must not change any more, although the process
// that died before had not made it durable.
func TestPowerCutAfterRecovery(t *testing.T) {
	for _, host := range []string{"ext4", "xfs"} {
		t.Run(host, func(t *testing.T) {
			node := newCuttable(t, host)
			deleted := create(t, node.b, spec("directory", "deleted"))
			node.dieAt("sync", func(b *hostpath.Backend) { _ = b.DeleteVolume(t.Context(), deleted) })
			node.cut("recovery from a deletion")
			created := spec("directory", "created")
			node.dieAt("sync", func(b *hostpath.Backend) { _, _ = b.CreateVolume(t.Context(), created, nil) })
			node.cut("recovery from a creation", created.ID.String())
			told := node.dieAt("sync", func(b *hostpath.Backend) { _, _ = b.ExpandVolume(t.Context(), created.ID, 2*created.Capacity) })
			kept := node.cut("recovery from an expansion", created.ID.String())
			if told, kept := told.Volumes[0].Capacity, kept.Volumes[0].Capacity; told != 2*created.Capacity || kept != told {
				t.Errorf("it was told to have %d bytes, and has %d", told, kept)
			}
			deleteAll(t, node.b, node.root, created.ID)
		})
	}
}

// dieAt runs an operation in a process that dies at one of its steps, and
// starts the next one, which tells what there is.
func (c *cuttable) dieAt(step string, operation func(b *hostpath.Backend)) backend.Inventory {
	c.t.Helper()
	c.step = func(name string) {
		if name == step {
			c.b.Crash() // all that comes after it fails
		}
	}
	operation(c.b)
	c.step = nil
	return c.restart()
}

// cuttable is a root directory on a filesystem whose power can be cut.
type cuttable struct {
	storage
	t      *testing.T
	mount  *mountinfo.Info
	device *os.File // open, so that it outlives the mount
	b      *hostpath.Backend
	step   backend.StepFunc // of all backends opened here
}

func newCuttable(t *testing.T, kind string) *cuttable {
	t.Helper()
	dir := testenv.Filesystem(t, kind, 4<<30)
	mounts, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(dir))
	if err != nil || len(mounts) != 1 {
		t.Fatalf("mounts at %s: %v, %v", dir, mounts, err)
	}
	device, err := os.Open(mounts[0].Source)
	if err != nil {
		t.Fatal(err)
	}
	c := &cuttable{storage: storage{filepath.Join(dir, "root")}, t: t, mount: mounts[0], device: device}
	t.Cleanup(func() {
		if c.b != nil {
			_ = c.b.Close() // closed before, unless the test failed
		}
		_ = device.Close()
	})
	c.restart()
	return c
}

// restart opens and recovers the root as a new process would.
func (c *cuttable) restart() backend.Inventory {
	c.t.Helper()
	c.b = open(c.t, c.root, hostpath.Options{Step: func(name string) { c.step.At(name) }})
	return recovered(c.t, c.b)
}

// cut cuts the power after an operation, starts anew, and fails the test
// unless there are just these objects.
func (c *cuttable) cut(after string, expected ...string) backend.Inventory {
	c.t.Helper()
	testenv.ShutDown(c.t, c.mount.Mountpoint)
	inventory := c.boot()
	found := map[string]bool{}
	for _, volume := range inventory.Volumes {
		found[volume.ID.String()] = true
	}
	for _, snapshot := range inventory.Snapshots {
		found[snapshot.ID.String()] = true
	}
	slices.Sort(expected)
	if got := slices.Sorted(maps.Keys(found)); !slices.Equal(got, expected) || len(inventory.Damaged) > 0 {
		c.t.Fatalf("%s, power cut: found %q, damaged %q; expected %q", after, got, inventory.Damaged, expected)
	}
	return inventory
}

// boot starts anew after the filesystem was shut down.
func (c *cuttable) boot() backend.Inventory {
	c.t.Helper()
	c.b.WaitForRemovals()
	c.b.Crash()
	testenv.Unmount(c.t, c.mount.Mountpoint)
	if err := unix.Mount(c.mount.Source, c.mount.Mountpoint, c.mount.FSType, 0, ""); err != nil {
		c.t.Fatal(err)
	}
	return c.restart()
}

func (c *cuttable) expect(id backend.VolumeID, content string) {
	c.t.Helper()
	if got := c.Read(c.t, c.b, id); got != content {
		c.t.Errorf("after a power cut %s holds %q, expected %q", id, got, content)
	}
}

// expectImage fails the test when a volume has an image of another size.
func (c *cuttable) expectImage(id backend.VolumeID, size int64) {
	c.t.Helper()
	info, err := os.Stat(filepath.Join(c.root, "volumes", id.String(), "image"))
	if err == nil && info.Size() != size {
		c.t.Errorf("after a power cut the image of %s has %d bytes, expected %d", id, info.Size(), size)
	}
}
