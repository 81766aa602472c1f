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
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// volume is the volume that the archive is unpacked into.
type volume struct {
	controller csi.ControllerClient
	node       csi.NodeClient

	name      string
	size      int64  // in bytes
	largest   int64  // that the size may become if the archive does not fit
	directory string // for the mounts of volumes
	locked    string // a directory that is locked meanwhile
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

// find makes the volume, unless it exists, of whatever size.
func (v *volume) find(ctx context.Context) error {
	err := v.create(ctx)
	if status.Code(err) == codes.AlreadyExists {
		// An import that was cut off has left it, and was told of another size.
		err = v.request(ctx, nil)
	}
	return err
}

// create makes the volume, unless it exists.
func (v *volume) create(ctx context.Context) error {
	return v.request(ctx, &csi.CapacityRange{RequiredBytes: v.size})
}

func (v *volume) request(ctx context.Context, size *csi.CapacityRange) error {
	response, err := v.controller.CreateVolume(ctx, &csi.CreateVolumeRequest{
		Name:               v.name,
		CapacityRange:      size,
		VolumeCapabilities: []*csi.VolumeCapability{capability},
	})
	if err != nil {
		return fmt.Errorf("create a volume of %d bytes for the archive: %w", v.size, err)
	}
	v.id = response.GetVolume().GetVolumeId()
	return nil
}

// takePlace makes the directory that the mounts are to lie in, or takes the one
// of an import that was cut off. The directory for mounts may be /tmp, where
// anybody can make one of this name: what others may change is refused, for
// they could have the archive unpacked anywhere.
func (v *volume) takePlace() error {
	if err := os.Mkdir(v.place(), 0o700); !errors.Is(err, fs.ErrExist) {
		return err
	}
	var stat unix.Stat_t
	if err := unix.Lstat(v.place(), &stat); err != nil {
		return &fs.PathError{Op: "lstat", Path: v.place(), Err: err}
	}
	if stat.Mode != unix.S_IFDIR|0o700 || int(stat.Uid) != os.Geteuid() {
		return fmt.Errorf("%s is in the way, which is not a directory of this user's alone: remove it, if nothing is mounted there", v.place())
	}
	return nil
}

// publish mounts the volume at target.
func (v *volume) publish(ctx context.Context) error {
	if err := v.takePlace(); err != nil {
		return err
	}
	if err := os.Mkdir(v.staging(), 0o700); err != nil {
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
		err = v.delete(ctx)
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

// delete deletes the volume alone.
func (v *volume) delete(ctx context.Context) error {
	_, err := v.controller.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: v.id})
	return err
}
