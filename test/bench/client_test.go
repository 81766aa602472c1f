package bench

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/snapdriver/snapdriver/internal/testdriver"
	"github.com/snapdriver/snapdriver/internal/testenv"
)

// client is a running driver whose root lies on a filesystem of its own.
type client struct {
	*testdriver.Driver
	b       testing.TB
	dir     string // where the filesystem is mounted
	staging string
}

func newClient(b testing.TB, filesystem string) *client {
	b.Helper()
	dir := testenv.Filesystem(b, filesystem, 24*gib)
	c := &client{Driver: testdriver.New(b, filepath.Join(dir, "root")), b: b, dir: dir, staging: mustMkdir(b, testenv.TempDir(b), "staging")}
	c.Start()
	b.Cleanup(c.Stop)
	return c
}

func capability(block bool) *csi.VolumeCapability {
	c := &csi.VolumeCapability{
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
	}
	if block {
		c.AccessType = &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}
	} else {
		c.AccessType = &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}}
	}
	return c
}

func (c *client) createVolume(request *csi.CreateVolumeRequest) string {
	c.b.Helper()
	if len(request.VolumeCapabilities) == 0 {
		request.VolumeCapabilities = []*csi.VolumeCapability{capability(false)}
	}
	response, err := c.Controller.CreateVolume(context.Background(), request)
	if err != nil {
		c.b.Fatal(err)
	}
	return response.GetVolume().GetVolumeId()
}

func (c *client) restore(name, snapshot string) string {
	c.b.Helper()
	return c.createVolume(&csi.CreateVolumeRequest{Name: name, VolumeContentSource: &csi.VolumeContentSource{
		Type: &csi.VolumeContentSource_Snapshot{Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: snapshot}},
	}})
}

func (c *client) createSnapshot(name, volume string) string {
	c.b.Helper()
	response, err := c.Controller.CreateSnapshot(context.Background(), &csi.CreateSnapshotRequest{Name: name, SourceVolumeId: volume})
	if err != nil {
		c.b.Fatal(err)
	}
	return response.GetSnapshot().GetSnapshotId()
}

func (c *client) deleteVolume(id string) {
	c.b.Helper()
	if _, err := c.Controller.DeleteVolume(context.Background(), &csi.DeleteVolumeRequest{VolumeId: id}); err != nil {
		c.b.Fatal(err)
	}
}

func (c *client) deleteSnapshot(id string) {
	c.b.Helper()
	if _, err := c.Controller.DeleteSnapshot(context.Background(), &csi.DeleteSnapshotRequest{SnapshotId: id}); err != nil {
		c.b.Fatal(err)
	}
}

// stage mounts a volume at c.staging.
func (c *client) stage(id string, block bool) {
	c.b.Helper()
	if _, err := c.Node.NodeStageVolume(context.Background(), &csi.NodeStageVolumeRequest{
		VolumeId: id, StagingTargetPath: c.staging, VolumeCapability: capability(block),
	}); err != nil {
		c.b.Fatal(err)
	}
}

func (c *client) unstage(id string) {
	c.b.Helper()
	if _, err := c.Node.NodeUnstageVolume(context.Background(), &csi.NodeUnstageVolumeRequest{VolumeId: id, StagingTargetPath: c.staging}); err != nil {
		c.b.Fatal(err)
	}
}

// filled returns a directory volume that holds a tree, and where it lies.
func (c *client) filled(t tree) (id, data string) {
	c.b.Helper()
	id = c.createVolume(&csi.CreateVolumeRequest{Name: t.name})
	c.stage(id, false)
	t.fill(c.b, c.staging)
	c.unstage(id)
	return id, filepath.Join(c.Root, "volumes", id, "data")
}
