package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/internal/testenv"
)

// BenchmarkSnapshot compares CreateSnapshot of a directory volume with the
// tools that copy the same tree.
func BenchmarkSnapshot(b *testing.B) {
	for _, test := range []struct {
		filesystem string
		tree       tree
		floor      []string // a command; the tree and a new path follow
	}{
		{"xfs", bigFiles, []string{"cp", "-a", "--reflink=always"}},
		{"xfs", sparseFile, []string{"cp", "-a", "--reflink=always"}},
		{"xfs", smallFiles, []string{"tar", "cf"}},
		{"ext4", bigFiles, []string{"cp", "-a"}},
		{"ext4", sparseFile, []string{"cp", "-a"}},
		{"ext4", smallFiles, []string{"cp", "-a"}},
	} {
		b.Run(test.filesystem+"/"+test.tree.name, func(b *testing.B) {
			c := newClient(b, test.filesystem)
			empty := usedBytes(b, c.dir)
			volume, data := c.filled(test.tree)
			reportSpace(b, c, volume, empty)
			compare(b, c.dir,
				func(round int) func() {
					return func() {
						snapshot := c.createSnapshot(fmt.Sprint("snapshot", round), volume)
						b.Cleanup(func() { c.deleteSnapshot(snapshot) })
					}
				},
				func(round int) func() {
					return floorCopy(b, c.dir, test.floor, data, round)
				})
		})
	}
}

// reportSpace takes a snapshot and reports how many blocks are in use because
// of it, in percent of those that the volume's data has.
func reportSpace(b *testing.B, c *client, volume string, empty int64) {
	b.Helper()
	before := usedBytes(b, c.dir)
	snapshot := c.createSnapshot("space", volume)
	b.ReportMetric(100*float64(usedBytes(b, c.dir)-before)/float64(before-empty), "%new-blocks")
	c.deleteSnapshot(snapshot)
}

// floorCopy copies a tree with a tool, which unlike the driver does not wait
// until the copy is durable. tar wants its output first.
func floorCopy(b *testing.B, dir string, command []string, tree string, round int) func() {
	copied := filepath.Join(dir, fmt.Sprint("copy", round))
	arguments := append(slices.Clone(command[1:]), tree, copied)
	if command[0] == "tar" {
		arguments = append(slices.Clone(command[1:]), copied, "-C", tree, ".")
	}
	b.Cleanup(func() { os.RemoveAll(copied) })
	return func() { testenv.Run(b, command[0], arguments...) }
}

// BenchmarkRestore compares CreateVolume from a snapshot with tar xf.
func BenchmarkRestore(b *testing.B) {
	for _, test := range []struct {
		filesystem string
		tree       tree
	}{{"xfs", bigFiles}, {"xfs", sparseFile}, {"xfs", smallFiles}, {"ext4", smallFiles}} {
		b.Run(test.filesystem+"/"+test.tree.name, func(b *testing.B) {
			c := newClient(b, test.filesystem)
			volume, data := c.filled(test.tree)
			snapshot := c.createSnapshot("snapshot", volume)
			archive := filepath.Join(c.dir, "floor.tar")
			testenv.Run(b, "tar", "cSf", archive, "-C", data, ".")
			compare(b, c.dir,
				func(round int) func() {
					return func() {
						restored := c.restore(fmt.Sprint("restored", round), snapshot)
						b.Cleanup(func() { c.deleteVolume(restored) })
					}
				},
				func(round int) func() {
					extracted := mustMkdir(b, c.dir, fmt.Sprint("extracted", round))
					b.Cleanup(func() { os.RemoveAll(extracted) })
					return func() { testenv.Run(b, "tar", "xf", archive, "-C", extracted) }
				})
		})
	}
}

// BenchmarkDevice compares CreateSnapshot of image and block volumes of 1 GiB,
// in use, with one FICLONE plus its fsyncs.
func BenchmarkDevice(b *testing.B) {
	for _, test := range []struct {
		name       string
		block      bool
		parameters map[string]string
	}{
		{"image", false, map[string]string{"layout": "image"}},
		{"block", true, nil},
	} {
		b.Run(test.name, func(b *testing.B) {
			c := newClient(b, "xfs")
			volume := c.createVolume(&csi.CreateVolumeRequest{
				Name: "volume", Parameters: test.parameters,
				CapacityRange:      &csi.CapacityRange{RequiredBytes: gib},
				VolumeCapabilities: []*csi.VolumeCapability{capability(test.block)},
			})
			image := filepath.Join(c.Root, "volumes", volume, "image")
			c.stage(volume, test.block)
			if test.block {
				target := filepath.Join(c.staging, "device")
				publishBlock(c, volume, target)
				writeRandom(b, target, gib)
				unpublish(c, volume, target)
			} else {
				writeRandom(b, filepath.Join(c.staging, "file"), 900*mib)
			}
			compare(b, c.dir,
				func(round int) func() {
					return func() {
						snapshot := c.createSnapshot(fmt.Sprint("snapshot", round), volume)
						b.Cleanup(func() { c.deleteSnapshot(snapshot) })
					}
				},
				func(round int) func() { return floorClone(b, image, filepath.Join(c.dir, fmt.Sprint("clone", round))) })
			c.unstage(volume)
		})
	}
}

func publishBlock(c *client, volume, target string) {
	c.b.Helper()
	if _, err := c.Node.NodePublishVolume(c.b.Context(), &csi.NodePublishVolumeRequest{
		VolumeId: volume, StagingTargetPath: c.staging, TargetPath: target, VolumeCapability: capability(true),
	}); err != nil {
		c.b.Fatal(err)
	}
}

func unpublish(c *client, volume, target string) {
	c.b.Helper()
	if _, err := c.Node.NodeUnpublishVolume(c.b.Context(), &csi.NodeUnpublishVolumeRequest{VolumeId: volume, TargetPath: target}); err != nil {
		c.b.Fatal(err)
	}
}

// floorClone is one FICLONE, an fsync of the clone and one of its directory.
func floorClone(b *testing.B, source, clone string) func() {
	b.Cleanup(func() { os.Remove(clone) })
	return func() {
		from, err := os.Open(source)
		if err != nil {
			b.Fatal(err)
		}
		defer from.Close()
		to, err := os.Create(clone)
		if err != nil {
			b.Fatal(err)
		}
		defer to.Close()
		if err := unix.IoctlFileClone(int(to.Fd()), int(from.Fd())); err != nil {
			b.Fatal(err)
		}
		dir, err := os.Open(filepath.Dir(clone))
		if err != nil {
			b.Fatal(err)
		}
		defer dir.Close()
		for _, file := range []*os.File{to, dir} {
			if err := file.Sync(); err != nil {
				b.Fatal(err)
			}
		}
	}
}
