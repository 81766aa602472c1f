package bench

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

// BenchmarkDirectory measures what is done with directory volumes that hold a
// tree, against the tools that do the same with such a tree.
func BenchmarkDirectory(b *testing.B) {
	for _, test := range []struct {
		filesystem string
		trees      []tree
	}{
		{"xfs", []tree{bigFiles, compressible, sparseFile, smallFiles, toolchain, fragmented}},
		{"btrfs", []tree{bigFiles, sparseFile, smallFiles, toolchain, fragmented}},
		{"ext4", []tree{bigFiles, sparseFile, smallFiles, toolchain}},
	} {
		for _, tree := range test.trees {
			b.Run("fs="+test.filesystem+"/tree="+tree.name, func(b *testing.B) { benchDirectory(b, test.filesystem, tree) })
		}
	}
}

func benchDirectory(b *testing.B, filesystem string, tree tree) {
	c := newClientOn(b, newFilesystem(b, filesystem, tree.room), "directory")
	volume := c.createVolume(nil)
	tree.fill(b, c.publish(volume))
	c.unpublish(volume)
	snapshot := c.createSnapshot(volume, "")
	f := newFloors(c, filesystem, volume)
	if tree.name != fragmented.name { // of which nobody reads the data
		c.sources = []string{c.data(volume), c.archive(snapshot), f.archive()}
	}

	run := func(operation string, ours func() (run, undo func()), floors ...contender) {
		b.Run("op="+operation, func(b *testing.B) { compare(b, c, ours, floors...) })
	}
	copies := f.copies(tree)
	if tree.name == smallFiles.name {
		copies = append(copies, f.writing())
	}
	run("Snapshot", c.snapshotting(volume, ""), copies...)
	if filesystem == "xfs" && tree.name != sparseFile.name && tree.name != fragmented.name {
		run("SnapshotZstd", c.snapshotting(volume, "tar.zst"), f.tarZstd())
	}
	if tree.name != sparseFile.name && tree.name != fragmented.name {
		b.Run("op=SecondSnapshot", func(b *testing.B) { benchSecond(b, c, volume) })
	}
	extraction := []contender{f.copy()}
	if tree.name != fragmented.name {
		extraction = append(extraction, f.extraction())
	}
	run("Restore", c.creating(ofSnapshot(snapshot)), extraction...)
	run("Clone", c.creating(ofVolume(volume)), f.copy())
	run("DeleteSnapshot", c.deletingSnapshot(volume), f.removal())
	run("DeleteVolume", c.deletingVolume(volume), f.removal())
}

// benchSecond measures the snapshot after a hundredth of the tree was changed,
// against the one before, of the tree as it was. That one is measured twice: by
// how much the two differ, the ratios to them say nothing. They are to be equal,
// which takes more runs to see than that something is several times as quick.
func benchSecond(b *testing.B, c *client, volume string) {
	var changed []float64
	var before string
	first := func() { before = c.createSnapshot(volume, "") }
	second := func() (run, undo func()) {
		if before == "" {
			first()
		}
		changed = append(changed, float64(change(b, c.data(volume), len(changed)))/mib)
		run, deleteSecond := c.snapshotting(volume, "")()
		return run, func() {
			deleteSecond()
			c.deleteSnapshot(before)
		}
	}
	compareTimes(b, 3*b.N, c, second,
		contender{name: "first", durable: true, prepare: func() (run, undo func()) { return first, nil }},
		contender{name: "first-again", durable: true, prepare: c.snapshotting(volume, "")})
	c.deleteSnapshot(before)
	b.ReportMetric(median(changed), "changed-MiB")
}

// BenchmarkSmall measures what takes the same time whatever a volume holds,
// against an empty RPC, and what is durable against the least that a new name
// for a new file can cost.
func BenchmarkSmall(b *testing.B) {
	for _, filesystem := range []string{"xfs", "btrfs", "ext4"} {
		b.Run("fs="+filesystem, func(b *testing.B) {
			c := newClient(b, filesystem, "directory")
			run := func(operation string, ours func() (run, undo func()), floors ...contender) {
				b.Run("op="+operation, func(b *testing.B) { compare(b, c, ours, floors...) })
			}
			run("Create", c.creating(nil), c.renaming(), c.probing())
			run("Expand", c.expanding(), c.renaming(), c.probing())
			run("Publish", c.publishing(), c.binding(), c.probing())
		})
	}
}

// BenchmarkDevice measures what is done with image and block volumes of 1 GiB
// in use, against one FICLONE and its fsyncs, or against cp.
func BenchmarkDevice(b *testing.B) {
	for _, filesystem := range []string{"xfs", "btrfs", "ext4"} {
		for _, layout := range []string{"image", "block"} {
			b.Run("fs="+filesystem+"/layout="+layout, func(b *testing.B) { benchDevice(b, filesystem, layout) })
		}
	}
}

func benchDevice(b *testing.B, filesystem, layout string) {
	c := newClient(b, filesystem, layout)
	volume := c.createVolume(nil)
	target := c.publish(volume)
	defer c.unpublish(volume)
	if layout == "block" {
		write(b, target, noise(0), gib)
	} else {
		write(b, filepath.Join(target, "file"), noise(0), 900*mib)
	}
	snapshot := c.createSnapshot(volume, "")
	floors := []contender{c.cloning(volume), c.probing()}
	if filesystem == "ext4" {
		floors = []contender{newFloors(c, filesystem, volume).copy()}
	}
	run := func(operation string, ours func() (run, undo func()), floors ...contender) {
		b.Run("op="+operation, func(b *testing.B) { compare(b, c, ours, floors...) })
	}
	b.Run("op=Snapshot", func(b *testing.B) {
		floors := slices.Clone(floors)
		if filesystem != "ext4" {
			floors = append(floors, c.committing(volume))
		}
		if layout == "image" {
			floors = append(floors, c.freezing(target))
		}
		compare(b, c, c.snapshotting(volume, ""), floors...)
		if layout == "image" {
			b.ReportMetric(c.Metric("snapdriver_storage_longest_freeze_seconds")*1000, "frozen-ms")
		}
	})
	run("Restore", c.creating(ofSnapshot(snapshot)), floors...)
	run("Clone", c.creating(ofVolume(volume)), floors...)
	run("DeleteSnapshot", c.deletingSnapshot(volume), c.renaming(), c.probing())
	run("Create", c.creating(nil), c.renaming(), c.probing())
	run("Expand", c.expanding(), c.renaming(), c.probing())
	run("Publish", c.publishing(), c.binding(), c.probing())
}

// What follows prepares what the driver does.

func (c *client) snapshotting(volume, format string) func() (run, undo func()) {
	return func() (run, undo func()) {
		var id string
		return func() { id = c.createSnapshot(volume, format) }, func() { c.deleteSnapshot(id) }
	}
}

func (c *client) creating(source *csi.VolumeContentSource) func() (run, undo func()) {
	return func() (run, undo func()) {
		var id string
		return func() { id = c.createVolume(source) }, func() { c.deleteVolume(id) }
	}
}

func (c *client) deletingSnapshot(volume string) func() (run, undo func()) {
	return func() (run, undo func()) {
		id := c.createSnapshot(volume, "")
		return func() { c.deleteSnapshot(id) }, nil
	}
}

func (c *client) deletingVolume(source string) func() (run, undo func()) {
	return func() (run, undo func()) {
		id := c.createVolume(ofVolume(source))
		return func() { c.deleteVolume(id) }, nil
	}
}

func (c *client) expanding() func() (run, undo func()) {
	return func() (run, undo func()) {
		id := c.createVolume(nil)
		return func() { c.expandVolume(id, 2*gib) }, func() { c.deleteVolume(id) }
	}
}

func (c *client) publishing() func() (run, undo func()) {
	return func() (run, undo func()) {
		id := c.createVolume(nil)
		return func() { c.publish(id) }, func() {
			c.unpublish(id)
			c.deleteVolume(id)
		}
	}
}
