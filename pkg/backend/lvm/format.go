package lvm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"unsafe"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/internal/dm"
	"github.com/snapdriver/snapdriver/pkg/backend"
)

// prepare brings the filesystem of an active volume to where it can be mounted.
func (b *Backend) prepare(ctx context.Context, o object) error {
	if o.isNew() {
		return b.format(ctx, o.id)
	}
	if err := b.verify(ctx, o); err != nil || o.fsType != "btrfs" {
		return err
	}
	return identify(dm.Path(b.device(o.id)), identityOf(o.id))
}

// format makes the filesystem of a volume that never had one. This is the only
// place where this program ever makes one. All of this has to hold, and where
// it cannot be told whether it does, it does not:
//
//   - the record says that no filesystem was ever made here, nor in what the
//     volume was made from;
//   - the device is there, is one thin volume, and has exactly its size;
//   - what blkid looks at can be read;
//   - blkid finds nothing, or what an earlier attempt of ours has left, here or
//     in what the volume was made from: a filesystem of the type and with one of
//     the UUIDs on record. It was never mounted, since the record changes first.
//
// Then what an attempt has written is discarded, and mkfs is run if the kernel
// confirms that not one block of the volume is written.
func (b *Backend) format(ctx context.Context, id string) error {
	release, err := b.busy.exclude(id)
	if err != nil {
		return err
	}
	defer release()
	o, err := b.find(ctx, id) // nobody changes it now
	if err != nil || !o.isNew() {
		return err
	}
	device := dm.Path(b.device(id))
	if err := b.checkFormattable(ctx, o, device); err != nil {
		return fmt.Errorf("it has no filesystem yet, and gets none: %w", err)
	}
	if err := b.empty(ctx, o, device); err != nil {
		return err
	}
	if err := b.runner.write(ctx, "mkfs."+o.fsType, filesystems[o.fsType].makeArguments(identityOf(id), device)...); err != nil {
		return err
	}
	// It may have outlasted its caller. Without the record of it, the next attempt
	// would discard it.
	ctx = context.WithoutCancel(ctx)
	if o.fsType == "btrfs" {
		if err := identify(device, identityOf(id)); err != nil {
			return err
		}
	}
	if err := flushDevice(device); err != nil {
		return err
	}
	var arguments []string
	for _, tag := range o.newTags() {
		arguments = append(arguments, "--deltag", tag)
	}
	if err := b.runner.change(ctx, "lvchange", append(arguments, b.path(id))...); err != nil {
		return err
	}
	o.unformatted = nil
	b.index.put(o)
	return nil
}

// checkFormattable returns nil when all holds of what format says, or else the
// reason and the remedy.
func (b *Backend) checkFormattable(ctx context.Context, o object, device string) error {
	found, targets, err := b.status(o.id)
	if err != nil {
		return err
	}
	if thin, err := thinOf(targets); err != nil {
		return fmt.Errorf("%s is not the thin volume that lvm makes: %w: deactivate it (lvchange -an %s) and try again: %w", device, err, b.path(o.id), backend.ErrPrecondition)
	} else if thin.Failed {
		return fmt.Errorf("every request to %s fails: repair the pool %s: %w", device, b.pool, backend.ErrPrecondition)
	}
	if err := checkReadable(device, found.Number, o.size); err != nil {
		return fmt.Errorf("cannot tell what it holds: %w: %w", err, backend.ErrPrecondition)
	}
	there, err := probe(ctx, device)
	if err != nil {
		return err
	}
	ours := func(id uuid.UUID) bool {
		return there.fsType == o.fsType && (there.uuid == id.String() || there.label == id.String())
	}
	if there != (signature{}) && !slices.ContainsFunc(o.unformatted, ours) {
		return fmt.Errorf("%s holds %s, which somebody else has put there: save it if it is of use, delete the volume, and make a new one: %w", device, there, backend.ErrPrecondition)
	}
	return nil
}

// empty discards what an attempt before has written to a device.
func (b *Backend) empty(ctx context.Context, o object, device string) error {
	for discarded := false; ; discarded = true {
		_, targets, err := b.status(o.id)
		if err != nil {
			return err
		}
		thin, err := thinOf(targets)
		if err != nil || thin.Mapped == 0 && !thin.Failed {
			return err
		}
		if discarded {
			return fmt.Errorf("an attempt to make its filesystem was cut off, and what it has written cannot be discarded (does the pool %s ignore discards?): delete the volume, and make a new one: %w", b.pool, backend.ErrPrecondition)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		b.runner.step.At("discard " + device)
		if err := discardDevice(device, o.size); err != nil {
			return err
		}
	}
}

// discardDevice discards the first bytes of a device, as many as that.
func discardDevice(path string, size int64) error {
	device, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer device.Close()
	stretch := [2]uint64{0, uint64(size)}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, device.Fd(), unix.BLKDISCARD, uintptr(unsafe.Pointer(&stretch))); errno != 0 {
		return fmt.Errorf("discard %s: %w", path, errno)
	}
	return nil
}

// flushDevice makes what was written to a device durable.
func flushDevice(path string) error {
	device, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(device.Sync(), device.Close())
}

// verify looks whether a formatted volume holds its filesystem still, before it
// is mounted. What does not is not touched, least of all formatted.
func (b *Backend) verify(ctx context.Context, o object) error {
	name := b.device(o.id)
	if device, err := dm.Lookup(name); err != nil || device.OpenCount > 0 {
		return err // somebody uses it, so that it is mounted already
	}
	found, err := probe(ctx, dm.Path(name))
	if err == nil && found.fsType != o.fsType && found != ambiguous {
		err = fmt.Errorf("it was formatted with %s, and %s holds %s: its data may be lost, or the device cannot be read; look at it, and at the kernel's log, before anything is written to it: %w",
			o.fsType, dm.Path(name), found, backend.ErrPrecondition)
	}
	return err
}
