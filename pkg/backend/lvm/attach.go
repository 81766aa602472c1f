package lvm

import (
	"context"
	"errors"
	"fmt"

	"k8s.io/klog/v2"

	"github.com/snapdriver/snapdriver/internal/dm"
	"github.com/snapdriver/snapdriver/pkg/backend"
)

// Attach implements backend.Backend. It makes the device, and the filesystem of
// a volume that never had one.
func (b *Backend) Attach(ctx context.Context, id backend.VolumeID) (backend.Mount, error) {
	mount, err := b.attach(ctx, id.String())
	if err != nil {
		return backend.Mount{}, fmt.Errorf("attach %s: %w", id, err)
	}
	return mount, nil
}

func (b *Backend) attach(ctx context.Context, id string) (backend.Mount, error) {
	o, err := b.find(ctx, id)
	if err != nil {
		return backend.Mount{}, err
	}
	if err := b.activate(ctx, o); err != nil {
		return backend.Mount{}, err
	}
	if o.fsType != "" {
		if err := b.prepare(ctx, o); err != nil {
			return backend.Mount{}, err
		}
	}
	return b.mount(o, dm.Path(b.device(id))), nil
}

// mount says what to mount. source is empty while the volume is not attached.
func (b *Backend) mount(o object, source string) backend.Mount {
	return backend.Mount{Source: source, FSType: o.fsType, Options: filesystems[o.fsType].options}
}

// activate makes the device of an object, and brings it to the object's size.
func (b *Backend) activate(ctx context.Context, o object) error {
	device, targets, err := b.status(o.id)
	switch {
	case errors.Is(err, dm.ErrNotFound):
		return b.activateAbsent(ctx, o)
	case err != nil:
		return err
	case device.Suspended || dm.Size(targets) < o.size: // a command was killed
		return b.change(ctx, "lvchange", "--refresh", b.path(o.id))
	}
	return nil
}

// activateAbsent activates an object that has no device.
func (b *Backend) activateAbsent(ctx context.Context, o object) error {
	if err := b.runner.change(ctx, "lvchange", "--activate", "y", "--ignoreactivationskip", b.path(o.id)); err != nil {
		return err
	}
	_, _, err := b.status(o.id)
	if errors.Is(err, dm.ErrNotFound) {
		return fmt.Errorf("lvm has not activated it, and calls that a success: does volume_list of lvm.conf leave it out?: %w", backend.ErrPrecondition)
	}
	return err
}

// Attached implements backend.Backend. A volume without its filesystem is not
// attached, whether it has a device or not: there is nothing yet to mount.
func (b *Backend) Attached(ctx context.Context, id backend.VolumeID) (backend.Mount, bool, error) {
	o, err := b.find(ctx, id.String())
	if err == nil && !o.isNew() {
		_, _, err = b.status(o.id)
		if err == nil {
			return b.mount(o, dm.Path(b.device(o.id))), true, nil
		}
		if errors.Is(err, dm.ErrNotFound) {
			err = nil
		}
	}
	if err != nil {
		return backend.Mount{}, false, fmt.Errorf("look whether %s is attached: %w", id, err)
	}
	return b.mount(o, ""), false, nil
}

// Detach implements backend.Backend. A device that is still open stays: the
// next Detach takes it, or the deletion of the volume.
func (b *Backend) Detach(ctx context.Context, id backend.VolumeID) error {
	if err := b.detach(ctx, id.String()); err != nil {
		return fmt.Errorf("detach %s: %w", id, err)
	}
	return nil
}

func (b *Backend) detach(ctx context.Context, id string) error {
	if _, found := b.index.get(id); !found {
		return nil
	}
	if _, err := dm.Lookup(b.device(id)); errors.Is(err, dm.ErrNotFound) {
		return nil
	} else if err != nil {
		return err
	}
	// lvm tries again for some seconds while somebody has the device open for
	// a moment, as udev does.
	err := b.runner.change(ctx, "lvchange", "--activate", "n", b.path(id))
	if err == nil {
		return nil
	}
	if device, lookErr := dm.Lookup(b.device(id)); lookErr == nil && device.OpenCount > 0 {
		klog.InfoS("A device stays, for it is still open", "id", id)
		return nil
	}
	return err
}
