package driver

import (
	"cmp"
	"context"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/pkg/backend"
	"github.com/snapdriver/snapdriver/pkg/driver/mounts"
	"github.com/snapdriver/snapdriver/pkg/snapshotcore"
)

// growMounted grows a mounted filesystem, unless it cannot grow while it is
// mounted: then it does so when it is staged the next time.
func growMounted(mount backend.Mount, path string) error {
	if unmounted, err := mounts.NeedsGrowUnmounted(mount); err != nil || unmounted {
		return err
	}
	return mounts.Grow(mount, path)
}

// growUnmounted grows a filesystem that cannot grow while it is mounted, and
// keeps snapshots, clones and expansions of the volume away meanwhile.
func (n *node) growUnmounted(id backend.VolumeID, mount backend.Mount) error {
	release, err := n.core().LockVolume(id)
	if err != nil {
		return err
	}
	defer release()
	return mounts.GrowUnmounted(mount.Source)
}

// expand brings the device and the filesystem to the volume's size, and first
// the volume to the size asked for, if that is the node's part. It returns the
// volume's size.
func (n *node) expand(ctx context.Context, v held, at places, asked *csi.CapacityRange) (int64, error) {
	if _, err := n.volumeAt(ctx, v.Volume, at); err != nil {
		return 0, err
	}
	volume := v.Volume
	if err := snapshotcore.CheckRange(asked.GetRequiredBytes(), asked.GetLimitBytes()); err != nil {
		return 0, err
	}
	if limit := asked.GetLimitBytes(); limit > 0 && limit < volume.Capacity {
		return 0, fmt.Errorf("capacity_range.limit_bytes: %d is less than the volume's %d, and no volume shrinks: %w", limit, volume.Capacity, backend.ErrOutOfRange)
	}
	if asked.GetRequiredBytes() > volume.Capacity {
		if !n.config.ExpandOnNode {
			return 0, fmt.Errorf("capacity_range.required_bytes: %d is more than the volume's %d; ControllerExpandVolume comes first: %w", asked.GetRequiredBytes(), volume.Capacity, backend.ErrOutOfRange)
		}
		var err error
		if volume, err = n.core().ExpandVolume(ctx, volume.ID, asked.GetRequiredBytes(), asked.GetLimitBytes()); err != nil {
			return 0, err
		}
	}
	if !volume.OnDevice {
		return volume.Capacity, nil
	}
	mount, err := n.core().Attach(ctx, volume.ID)
	if err != nil {
		return 0, err
	}
	if volume.Mode == backend.Block {
		return volume.Capacity, mounts.GrowReader(mount.Source)
	}
	// The staging path is writable even where the target is not.
	return volume.Capacity, mounts.Grow(mount, cmp.Or(at.staging, at.volume))
}

// volumeAt returns the mount of a volume that is to be found at all the places
// given: ErrNotFound when it is not.
func (n *node) volumeAt(ctx context.Context, volume backend.Volume, at places) (backend.Mount, error) {
	mount, attached, err := n.core().Attached(ctx, volume.ID)
	if err != nil {
		return mount, err
	}
	check := func(field, path string) error {
		there := attached
		// A block volume is not to be seen at its staging path, and so taken
		// to be there.
		if attached && (volume.Mode != backend.Block || path != at.staging) {
			if there, err = mounts.Holds(path, mount); err != nil {
				return err
			}
		}
		if !there {
			return fmt.Errorf("%s: %s is not at %q: %w", field, volume.ID, path, backend.ErrNotFound)
		}
		return nil
	}
	if err := check("volume_path", at.volume); err != nil || at.staging == "" {
		return mount, err
	}
	return mount, check("staging_target_path", at.staging)
}

// usage measures a volume. It takes no lock: when the volume is taken away
// meanwhile, what was measured may be what lies below.
func (n *node) usage(ctx context.Context, volume backend.Volume, at places) ([]*csi.VolumeUsage, error) {
	mount, err := n.volumeAt(ctx, volume, at)
	if err != nil {
		return nil, err
	}
	usage, err := usageOf(volume, mount, at.volume)
	if _, gone := n.volumeAt(ctx, volume, at); gone != nil {
		return nil, gone
	}
	return usage, err
}

// usageOf measures a volume that is at path.
func usageOf(volume backend.Volume, mount backend.Mount, path string) ([]*csi.VolumeUsage, error) {
	if volume.Mode == backend.Block {
		size, err := mounts.DeviceSize(mount.Source)
		return []*csi.VolumeUsage{{Unit: csi.VolumeUsage_BYTES, Total: size}}, err
	}
	var stat unix.Statfs_t
	if err := unix.Statfs(path, &stat); err != nil {
		return nil, fmt.Errorf("measure %q: %w", path, err)
	}
	block := stat.Frsize
	usage := []*csi.VolumeUsage{{
		Unit:      csi.VolumeUsage_BYTES,
		Total:     int64(stat.Blocks) * block,
		Used:      int64(stat.Blocks-stat.Bfree) * block,
		Available: int64(stat.Bavail) * block,
	}}
	if stat.Files > 0 { // filesystems that make inodes as they need them say zero
		usage = append(usage, &csi.VolumeUsage{
			Unit:      csi.VolumeUsage_INODES,
			Total:     int64(stat.Files),
			Used:      int64(stat.Files - stat.Ffree),
			Available: int64(stat.Ffree),
		})
	}
	return usage, nil
}
