package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/snapdriver/snapdriver/internal/testdriver"
	"github.com/snapdriver/snapdriver/internal/testenv"
)

// client is a running driver whose root lies on a filesystem of its own, and
// its RPCs. One that fails ends the benchmark, or, called from another
// goroutine, that goroutine, and the benchmark has failed.
type client struct {
	*testdriver.Driver
	b       testing.TB
	dir     string   // where the filesystem is mounted
	targets string   // where volumes are staged and published
	layout  string   // of new volumes: directory, image, block
	sources []string // what copies will read: files and trees
	names   atomic.Int64
}

func newClient(b testing.TB, filesystem, layout string) *client {
	b.Helper()
	return newClientOn(b, newFilesystem(b, filesystem, 40*gib), layout)
}

func newClientOn(b testing.TB, dir, layout string) *client {
	b.Helper()
	c := &client{
		Driver: testdriver.New(b, filepath.Join(dir, "root")), b: b, dir: dir, targets: testenv.TempDir(b), layout: layout,
	}
	c.Start()
	b.Cleanup(c.Stop)
	return c
}

// within has what fails, until outside is called, fail b, a part of the client's
// benchmark.
func (c *client) within(b testing.TB) (outside func()) {
	whole := c.b
	c.b = b
	return func() { c.b = whole }
}

// newFilesystem makes a filesystem in a file or, with SNAPDRIVER_BENCH_DIR, takes
// a directory of the one that is mounted there under the name of its kind.
func newFilesystem(b testing.TB, kind string, size int64) string {
	b.Helper()
	mounted := os.Getenv("SNAPDRIVER_BENCH_DIR")
	if mounted == "" {
		dir := testenv.Filesystem(b, kind, size)
		if size <= 6*gib { // all of a larger one would take minutes
			occupy(b, dir)
		}
		return dir
	}
	dir, err := os.MkdirTemp(filepath.Join(mounted, kind), "bench")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// name returns one that no other call returns.
func (c *client) name() string { return fmt.Sprint("object-", c.names.Add(1)) }

func (c *client) check(err error) {
	if err != nil {
		c.b.Helper()
		c.b.Fatal(err)
	}
}

func (c *client) capability() *csi.VolumeCapability {
	capability := &csi.VolumeCapability{
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
	}
	if c.layout == "block" {
		capability.AccessType = &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}
	}
	return capability
}

// createVolume makes a volume of 1 GiB from a source, nil for an empty one.
func (c *client) createVolume(source *csi.VolumeContentSource) (id string) {
	c.b.Helper()
	request := &csi.CreateVolumeRequest{
		Name: c.name(), VolumeContentSource: source, VolumeCapabilities: []*csi.VolumeCapability{c.capability()},
		CapacityRange: &csi.CapacityRange{RequiredBytes: gib},
	}
	if c.layout == "image" {
		request.Parameters = map[string]string{"layout": "image"}
	}
	response, err := c.Controller.CreateVolume(c.b.Context(), request)
	c.check(err)
	return response.GetVolume().GetVolumeId()
}

func ofSnapshot(id string) *csi.VolumeContentSource {
	return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
		Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: id},
	}}
}

func ofVolume(id string) *csi.VolumeContentSource {
	return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{
		Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: id},
	}}
}

func (c *client) expandVolume(id string, size int64) {
	c.b.Helper()
	_, err := c.Controller.ControllerExpandVolume(c.b.Context(), &csi.ControllerExpandVolumeRequest{
		VolumeId: id, CapacityRange: &csi.CapacityRange{RequiredBytes: size},
	})
	c.check(err)
}

func (c *client) deleteVolume(id string) {
	c.b.Helper()
	_, err := c.Controller.DeleteVolume(c.b.Context(), &csi.DeleteVolumeRequest{VolumeId: id})
	c.check(err)
}

// createSnapshot makes a snapshot; empty format: the default.
func (c *client) createSnapshot(volume, format string) (id string) {
	c.b.Helper()
	request := &csi.CreateSnapshotRequest{Name: c.name(), SourceVolumeId: volume}
	if format != "" {
		request.Parameters = map[string]string{"format": format}
	}
	response, err := c.Controller.CreateSnapshot(c.b.Context(), request)
	c.check(err)
	return response.GetSnapshot().GetSnapshotId()
}

func (c *client) deleteSnapshot(id string) {
	c.b.Helper()
	_, err := c.Controller.DeleteSnapshot(c.b.Context(), &csi.DeleteSnapshotRequest{SnapshotId: id})
	c.check(err)
}

// list lists all snapshots, in pages, and returns how many there are.
func (c *client) list(page int32) (n int) {
	c.b.Helper()
	for token := ""; ; {
		response, err := c.Controller.ListSnapshots(c.b.Context(), &csi.ListSnapshotsRequest{MaxEntries: page, StartingToken: token})
		c.check(err)
		n += len(response.GetEntries())
		if token = response.GetNextToken(); token == "" {
			return n
		}
	}
}

// publish stages and publishes a volume and returns where: a directory or a
// device. As with a kubelet, the volume's directories are there before.
func (c *client) publish(id string) (target string) {
	c.b.Helper()
	staging, target := c.staging(id), c.target(id)
	_, err := c.Node.NodeStageVolume(c.b.Context(), &csi.NodeStageVolumeRequest{
		VolumeId: id, StagingTargetPath: staging, VolumeCapability: c.capability(),
	})
	c.check(err)
	_, err = c.Node.NodePublishVolume(c.b.Context(), &csi.NodePublishVolumeRequest{
		VolumeId: id, StagingTargetPath: staging, TargetPath: target, VolumeCapability: c.capability(),
	})
	c.check(err)
	return target
}

func (c *client) unpublish(id string) {
	c.b.Helper()
	_, err := c.Node.NodeUnpublishVolume(c.b.Context(), &csi.NodeUnpublishVolumeRequest{VolumeId: id, TargetPath: c.target(id)})
	c.check(err)
	_, err = c.Node.NodeUnstageVolume(c.b.Context(), &csi.NodeUnstageVolumeRequest{VolumeId: id, StagingTargetPath: c.staging(id)})
	c.check(err)
}

func (c *client) staging(id string) string { return mustMkdir(c.b, c.targets, id, "staging") }
func (c *client) target(id string) string  { return filepath.Join(c.targets, id, "target") }

// data is where the driver keeps what a volume holds.
func (c *client) data(volume string) string {
	name := "image"
	if c.layout == "directory" {
		name = "data"
	}
	return filepath.Join(c.Root, "volumes", volume, name)
}

// archive is where the driver keeps a snapshot.
func (c *client) archive(snapshot string) string { return filepath.Join(c.Root, "snapshots", snapshot) }
