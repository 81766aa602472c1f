package compat

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/snapdriver/snapdriver/internal/testdriver"
)

const (
	mib = 1 << 20
	gib = 1 << 30
)

// bed is a driver with storage of its own. What it is asked for, it must do.
type bed struct {
	*testdriver.Driver
	t     *testing.T
	dir   string // has root, if there is one, and what is mounted
	kinds map[string]kind
}

func newBed(t *testing.T, dir string, kinds map[string]kind) *bed {
	return &bed{testdriver.New(t, filepath.Join(dir, "root")), t, dir, kinds}
}

// kind is how a kind of volume is asked for.
type kind struct {
	fsType     string
	block      bool
	parameters map[string]string
	size       int64
	formats    []string // of snapshots; empty: as usual
}

func (k kind) capability() *csi.VolumeCapability {
	c := &csi.VolumeCapability{AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER}}
	if k.block {
		c.AccessType = &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}
	} else {
		c.AccessType = &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: k.fsType}}
	}
	return c
}

// must ends the test when the driver has answered with an error.
func (b *bed) must(what string, err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatalf("%s: %v", what, err)
	}
}

// create returns the volume with its ID and size.
func (b *bed) create(v volume) volume {
	b.t.Helper()
	k := b.kinds[v.Kind]
	request := &csi.CreateVolumeRequest{
		Name: v.Name, CapacityRange: &csi.CapacityRange{RequiredBytes: v.Asked},
		VolumeCapabilities: []*csi.VolumeCapability{k.capability()}, Parameters: k.parameters,
	}
	switch {
	case v.SourceSnapshot != "":
		request.VolumeContentSource = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
			Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: v.SourceSnapshot},
		}}
	case v.SourceVolume != "":
		request.VolumeContentSource = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{
			Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: v.SourceVolume},
		}}
	}
	response, err := b.Controller.CreateVolume(b.t.Context(), request)
	b.must("create "+v.Name, err)
	v.ID, v.Size = response.GetVolume().GetVolumeId(), response.GetVolume().GetCapacityBytes()
	return v
}

// cut returns the snapshot with its ID, size and time.
func (b *bed) cut(s snapshot) snapshot {
	b.t.Helper()
	request := &csi.CreateSnapshotRequest{Name: s.Name, SourceVolumeId: s.Source}
	if s.Format != "" {
		request.Parameters = map[string]string{"format": s.Format}
	}
	response, err := b.Controller.CreateSnapshot(b.t.Context(), request)
	b.must("create "+s.Name, err)
	s.ID, s.Size, s.Created = response.GetSnapshot().GetSnapshotId(), response.GetSnapshot().GetSizeBytes(), response.GetSnapshot().GetCreationTime().AsTime()
	return s
}

func (b *bed) grow(v volume, size int64) int64 {
	b.t.Helper()
	response, err := b.Controller.ControllerExpandVolume(b.t.Context(), &csi.ControllerExpandVolumeRequest{
		VolumeId: v.ID, CapacityRange: &csi.CapacityRange{RequiredBytes: size}, VolumeCapability: b.kinds[v.Kind].capability(),
	})
	b.must("grow "+v.Name, err)
	return response.GetCapacityBytes()
}

func (b *bed) delete(id string) {
	b.t.Helper()
	_, err := b.Controller.DeleteVolume(b.t.Context(), &csi.DeleteVolumeRequest{VolumeId: id})
	b.must("delete "+id, err)
}

func (b *bed) deleteSnapshot(id string) {
	b.t.Helper()
	_, err := b.Controller.DeleteSnapshot(b.t.Context(), &csi.DeleteSnapshotRequest{SnapshotId: id})
	b.must("delete "+id, err)
}

// published calls use with the path at which a pod would have the volume.
func (b *bed) published(v volume, use func(target string) error) {
	b.t.Helper()
	capability, ctx := b.kinds[v.Kind].capability(), b.t.Context()
	staging, target := filepath.Join(b.dir, "pods", v.ID, "staging"), filepath.Join(b.dir, "pods", v.ID, "target")
	b.must("make the staging directory", os.MkdirAll(staging, 0o700))
	_, err := b.Node.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{VolumeId: v.ID, StagingTargetPath: staging, VolumeCapability: capability})
	b.must("stage "+v.Name, err)
	_, err = b.Node.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{VolumeId: v.ID, StagingTargetPath: staging, TargetPath: target, VolumeCapability: capability})
	b.must("publish "+v.Name, err)
	used := use(target)
	_, err = b.Node.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: v.ID, TargetPath: target})
	b.must("unpublish "+v.Name, err)
	_, err = b.Node.NodeUnstageVolume(ctx, &csi.NodeUnstageVolumeRequest{VolumeId: v.ID, StagingTargetPath: staging})
	b.must("unstage "+v.Name, err)
	b.must("use "+v.Name, used)
}

func (b *bed) write(v volume, generation int) {
	b.t.Helper()
	b.published(v, func(target string) error { return write(target, b.kinds[v.Kind].block, generation) })
}

func (b *bed) read(v volume) (c content) {
	b.t.Helper()
	b.published(v, func(target string) (err error) {
		c, err = read(target, b.kinds[v.Kind].block)
		return err
	})
	return c
}

// restored returns what a volume from the snapshot holds.
func (b *bed) restored(s snapshot) content {
	b.t.Helper()
	v := b.create(volume{Name: "volume from " + s.Name, Kind: s.Kind, Asked: s.Size, SourceSnapshot: s.ID})
	defer b.delete(v.ID)
	return b.read(v)
}

// list returns what the driver lists, with what lists do not tell taken from
// what is expected.
func (b *bed) list(expected manifest) (found manifest) {
	b.t.Helper()
	volumes, err := b.Controller.ListVolumes(b.t.Context(), &csi.ListVolumesRequest{})
	b.must("list volumes", err)
	for _, entry := range volumes.GetEntries() {
		listed := entry.GetVolume()
		at := slices.IndexFunc(expected.Volumes, func(v volume) bool { return v.ID == listed.GetVolumeId() })
		v := volume{ID: listed.GetVolumeId()}
		if at >= 0 {
			v = expected.Volumes[at]
		}
		v.Size = listed.GetCapacityBytes()
		v.SourceVolume = listed.GetContentSource().GetVolume().GetVolumeId()
		v.SourceSnapshot = listed.GetContentSource().GetSnapshot().GetSnapshotId()
		found.Volumes = append(found.Volumes, v)
	}
	snapshots, err := b.Controller.ListSnapshots(b.t.Context(), &csi.ListSnapshotsRequest{})
	b.must("list snapshots", err)
	for _, entry := range snapshots.GetEntries() {
		listed := entry.GetSnapshot()
		at := slices.IndexFunc(expected.Snapshots, func(s snapshot) bool { return s.ID == listed.GetSnapshotId() })
		s := snapshot{ID: listed.GetSnapshotId()}
		if at >= 0 {
			s = expected.Snapshots[at]
		}
		s.Size, s.Source, s.Created = listed.GetSizeBytes(), listed.GetSourceVolumeId(), listed.GetCreationTime().AsTime()
		found.Snapshots = append(found.Snapshots, s)
	}
	found.sort()
	return found
}
