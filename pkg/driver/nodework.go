package driver

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"k8s.io/klog/v2"

	"github.com/snapdriver/snapdriver/pkg/backend"
	"github.com/snapdriver/snapdriver/pkg/driver/mounts"
)

// stage makes a volume ready to be published. The same again succeeds; where
// it is staged with other arguments: ErrExists.
func (n *node) stage(ctx context.Context, v held, path string, asked access) error {
	staged, err := v.isStaged(path)
	if err != nil {
		return err
	}
	if err := asked.suits(v.Volume, v.mount); err != nil {
		return fmt.Errorf("%w: %w", err, taken(staged))
	}
	mount, err := n.core().Attach(ctx, v.ID)
	if err != nil || v.Mode == backend.Block {
		return err // a device node needs no mount to be found again
	}
	// Read-only is for each target to be, not for the volume.
	flags := asked.flags &^ mounts.ReadOnly
	if staged {
		if err := checkFlags("staging_target_path", path, mount, flags); err != nil {
			return err
		}
		return growMounted(mount, path) // a crash may have come before it
	}
	err = n.mountStaging(v.ID, mount, path, flags)
	if err != nil && !v.attached {
		err = errors.Join(err, n.core().Detach(context.WithoutCancel(ctx), v.ID))
	}
	return err
}

// mountStaging mounts a volume at the staging path, with its filesystem grown
// to its device.
func (n *node) mountStaging(id backend.VolumeID, mount backend.Mount, path string, flags mounts.Flags) error {
	if err := checkFree("staging_target_path", path); err != nil {
		return err
	}
	if err := mounts.CheckEmptyDir("staging_target_path", path); err != nil {
		return err
	}
	if unmounted, err := mounts.NeedsGrowUnmounted(mount); err != nil {
		return err
	} else if unmounted {
		if err := n.growUnmounted(id, mount); err != nil {
			return err
		}
	}
	if err := mounts.Mount(mount, path, flags); err != nil {
		return err
	}
	if err := growMounted(mount, path); err != nil {
		return errors.Join(err, mounts.Unmount(path))
	}
	return nil
}

// isStaged says whether the volume is staged at the path. A block volume is
// staged when it is attached.
func (v held) isStaged(path string) (bool, error) {
	if v.Mode == backend.Block || !v.attached {
		return v.attached, nil
	}
	return mounts.Holds(path, v.mount)
}

// taken is the class of "cannot be used like this": ErrExists where it is in
// place already, used in another way, ErrPrecondition otherwise.
func taken(inPlace bool) error {
	if inPlace {
		return backend.ErrExists
	}
	return backend.ErrPrecondition
}

// checkFree refuses a path with a mount, which is not this volume's:
// ErrPrecondition.
func checkFree(field, path string) error {
	mounted, err := mounts.Mounted(path)
	if err == nil && mounted {
		err = fmt.Errorf("%s: something else is mounted at %q; unmount it first: %w", field, path, backend.ErrPrecondition)
	}
	return err
}

// checkFlags compares the flags of what is mounted at path with those that are
// asked for: ErrExists when they differ. Those that it would inherit now it need
// not have, for it was mounted before, nor is what it did inherit known.
func checkFlags(field, path string, mount backend.Mount, asked mounts.Flags) error {
	found, err := mounts.FlagsOf(path)
	if err != nil {
		return err
	}
	inherited, err := mounts.Inherited(mount)
	if err == nil && (asked&^found != 0 || found&^(asked|inherited) != 0) {
		err = fmt.Errorf("%s: the volume is mounted at %q with other mount flags or another readonly; undo that first: %w", field, path, backend.ErrExists)
	}
	return err
}

// unstage undoes stage as far as there is anything to undo. The zero ID and
// one of a volume that is gone do not stop it.
func (n *node) unstage(ctx context.Context, id backend.VolumeID, path string) error {
	volume, err := n.core().Volume(id)
	if err != nil {
		return mounts.Unmount(path) // a deleted volume has no device; one that was set aside keeps its own
	}
	mount, attached, err := n.core().Attached(ctx, id)
	if err != nil && volume.Mode != backend.Block {
		// Detaching needs no record, and a device that is mounted elsewhere
		// stays until it is not.
		klog.ErrorS(err, "Unstage all the same", "volume", id)
		if err := mounts.Unmount(path); err != nil {
			return err
		}
		return n.core().Detach(ctx, id)
	}
	if err != nil {
		return err
	}
	if attached {
		// A loop device that is taken from under a published device node may
		// come back as another volume's. So where a raw device cannot be asked
		// about, it stays.
		others, err := mounts.Elsewhere(mount, path)
		if err != nil {
			return err
		}
		if len(others) > 0 {
			return fmt.Errorf("%s is still published at %q; unpublish it first: %w", id, others, backend.ErrPrecondition)
		}
	}
	if err := mounts.Unmount(path); err != nil || !attached {
		return err
	}
	if err := mounts.FreeReader(mount.Source); err != nil {
		return err
	}
	return n.core().Detach(ctx, id)
}

// publish binds a staged volume to a target. The same again succeeds; where it
// is published there with other arguments: ErrExists.
func (n *node) publish(v held, r publishRequest) error {
	staged, err := v.isStaged(r.staging)
	if err != nil {
		return err
	}
	if !staged {
		return fmt.Errorf("staging_target_path: %s is not staged at %q; NodeStageVolume comes first: %w", v.ID, r.staging, backend.ErrPrecondition)
	}
	// What is bound: the staged directory, or the device node.
	source := backend.Mount{Source: r.staging}
	if v.Mode == backend.Block {
		source = v.mount
	}
	published, err := mounts.Holds(r.target, source)
	if err != nil {
		return err
	}
	if err := r.asked.suits(v.Volume, v.mount); err != nil {
		return fmt.Errorf("%w: %w", err, taken(published))
	}
	if published {
		return checkFlags("target_path", r.target, source, r.asked.flags)
	}
	if err := v.checkAlone(r); err != nil {
		return err
	}
	if err := checkFree("target_path", r.target); err != nil {
		return err
	}
	if err := mounts.MakeTarget("target_path", r.target, v.Mode == backend.Filesystem); err != nil {
		return err
	}
	if v.Mode == backend.Block && r.asked.flags&mounts.ReadOnly != 0 {
		source.Source, err = mounts.MakeReader(v.mount.Source)
	}
	if err == nil {
		err = mounts.Bind(source.Source, r.target, r.asked.flags)
	}
	if err != nil {
		return errors.Join(err, mounts.RemoveTarget("target_path", r.target))
	}
	return nil
}

// checkAlone refuses a second target where the access mode allows one only:
// ErrPrecondition. With which mode the first was published is recorded nowhere.
// But a volume that was made for one writer alone is nobody else's, whatever
// this request says.
func (v held) checkAlone(r publishRequest) error {
	mode := r.asked.accessMode
	if slices.Equal(v.AccessModes, []backend.AccessMode{backend.SingleNodeSingleWriter}) {
		mode = backend.SingleNodeSingleWriter
	}
	if !oneTarget(mode) {
		return nil
	}
	others, err := mounts.Elsewhere(v.mount, r.staging, r.target)
	if err == nil && len(others) > 0 {
		err = fmt.Errorf("%s is published at %q, and %s allows one target only: %w", v.ID, others, mode, backend.ErrPrecondition)
	}
	return err
}
