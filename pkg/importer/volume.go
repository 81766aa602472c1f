package importer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/moby/sys/mountinfo"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// volume is the volume that the archive is unpacked into.
type volume struct {
	controller csi.ControllerClient
	node       csi.NodeClient

	name      string
	size      int64
	directory string // for the mounts of volumes
	id        string // once it was created
}

// A plain filesystem volume, as the driver makes one that is asked for no more.
var capability = &csi.VolumeCapability{
	AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
	AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
}

// Paths that follow from the ID: the next import finds what this one leaves.
func (v *volume) place() string   { return filepath.Join(v.directory, "snapdriver-import-"+v.id) }
func (v *volume) staging() string { return filepath.Join(v.place(), "staging") }
func (v *volume) target() string  { return filepath.Join(v.place(), "target") }

// create makes the volume, unless it exists.
func (v *volume) create(ctx context.Context) error {
	response, err := v.controller.CreateVolume(ctx, &csi.CreateVolumeRequest{
		Name:               v.name,
		CapacityRange:      &csi.CapacityRange{RequiredBytes: v.size},
		VolumeCapabilities: []*csi.VolumeCapability{capability},
	})
	if err != nil {
		return fmt.Errorf("create a volume of %d bytes for the archive: %w", v.size, err)
	}
	v.id = response.GetVolume().GetVolumeId()
	return nil
}

// publish mounts the volume at target.
func (v *volume) publish(ctx context.Context) error {
	if err := os.MkdirAll(v.staging(), 0o700); err != nil {
		return err
	}
	if _, err := v.node.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{
		VolumeId: v.id, StagingTargetPath: v.staging(), VolumeCapability: capability,
	}); err != nil {
		return fmt.Errorf("stage the volume: %w", err)
	}
	if _, err := v.node.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
		VolumeId: v.id, StagingTargetPath: v.staging(), TargetPath: v.target(), VolumeCapability: capability,
	}); err != nil {
		return fmt.Errorf("publish the volume: %w", err)
	}
	// Else the archive would be unpacked beside the volume.
	mounted, err := mountinfo.Mounted(v.target())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if !mounted {
		return fmt.Errorf("the driver has mounted the volume at %s, and it is not to be seen here: run the import where the driver runs, in its container", v.target())
	}
	return nil
}

// cut takes the snapshot. That may take as long as it takes.
func (v *volume) cut(ctx context.Context) (*csi.Snapshot, error) {
	response, err := v.controller.CreateSnapshot(ctx, &csi.CreateSnapshotRequest{SourceVolumeId: v.id, Name: v.name})
	if err != nil {
		return nil, fmt.Errorf("take the snapshot: %w", err)
	}
	return response.GetSnapshot(), nil
}

// snapshot returns the volume's snapshot, nil if there is none.
func (v *volume) snapshot(ctx context.Context) (*csi.Snapshot, error) {
	response, err := v.controller.ListSnapshots(ctx, &csi.ListSnapshotsRequest{SourceVolumeId: v.id})
	if err != nil {
		return nil, fmt.Errorf("look for an earlier import: %w", err)
	}
	if len(response.GetEntries()) == 0 {
		return nil, nil
	}
	return response.GetEntries()[0].GetSnapshot(), nil
}

// remove deletes the volume and takes its mounts away. It goes on after an
// error, but that what is mounted is not deleted.
func (v *volume) remove(ctx context.Context) error {
	_, err := v.node.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: v.id, TargetPath: v.target()})
	if err == nil {
		_, err = v.node.NodeUnstageVolume(ctx, &csi.NodeUnstageVolumeRequest{VolumeId: v.id, StagingTargetPath: v.staging()})
	}
	if err == nil {
		_, err = v.controller.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: v.id})
	}
	if err != nil {
		if status.Code(err) == codes.Aborted || status.Code(err) == codes.FailedPrecondition {
			err = fmt.Errorf("is another import of this archive running? %w", err)
		}
		return fmt.Errorf("remove volume %s, which the archive was unpacked into: %w", v.id, err)
	}
	for _, dir := range []string{v.staging(), v.place()} {
		if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
