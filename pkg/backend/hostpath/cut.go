package hostpath

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/internal/loop"
	"github.com/snapdriver/snapdriver/pkg/backend"
	"github.com/snapdriver/snapdriver/pkg/backend/hostpath/treecopy"
)

// maxCopies is how often a copy of an image is begun before it is given up
// because the volume is written to.
const maxCopies = 3

// cut copies the image of a volume, which may be in use, to dst as it is at
// one instant, and returns that instant.
//
// A clone is of one instant by nature: writes to the image wait for it. What
// makes it a good instant is done before. Of a mounted filesystem, what pods
// have written is flushed and the filesystem frozen, so that the image holds
// all of it and needs no repair. Of a raw device, what pods wrote through the
// device's cache is flushed into the image. A filesystem that is mounted
// where this process does not see it is treated as a raw device; the
// image is then what a power cut would leave.
func (b *Backend) cut(ctx context.Context, id backend.VolumeID, of layout, dst *os.File, progress *backend.Progress) (moment time.Time, err error) {
	if err := ctx.Err(); err != nil {
		return time.Time{}, err
	}
	src, err := b.root.Open(path.Join(volumePath(id), imageFile))
	if err != nil {
		return time.Time{}, err
	}
	defer src.Close()
	device, err := b.loops.find(id, src)
	if err != nil {
		return time.Time{}, err
	}
	defer device.Close()
	var mount *os.File
	if of == layoutImage {
		if mount, err = mountOf(device); err != nil {
			return time.Time{}, err
		}
	}
	take := func(ctx context.Context) error {
		b.step.At("cut")
		moment = now()
		err := treecopy.CloneFile(dst, src)
		if errors.Is(err, treecopy.ErrCannotClone) {
			moment, err = copyStill(ctx, dst, src, device, progress)
		}
		return err
	}
	if mount == nil {
		if err := device.Flush(); err != nil {
			return time.Time{}, err
		}
		err = take(ctx)
		return moment, err
	}
	defer mount.Close()
	// Most of what has to be written is written before the freeze, while
	// pods go on working.
	if err := unix.Syncfs(int(mount.Fd())); err != nil {
		return time.Time{}, os.NewSyscallError("syncfs", err)
	}
	b.step.At("freeze")
	err = b.freezes.whileFrozen(ctx, mount, b.freezeLimit, take)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		err = b.explainLimit(src)
	}
	return moment, err
}

// explainLimit says what to do about a copy that took longer than the
// filesystem may stay frozen.
func (b *Backend) explainLimit(src *os.File) error {
	var stat unix.Stat_t
	if err := unix.Fstat(int(src.Fd()), &stat); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	return fmt.Errorf("copying %s took longer than the %v for which a mounted filesystem may be frozen; %s: %w",
		humanize.IBytes(uint64(stat.Blocks)*512), b.freezeLimit, copyRemedy, backend.ErrPrecondition)
}

const copyRemedy = "unpublish the volume first, or keep the root directory on a filesystem that can share blocks (XFS, btrfs), where no copy is needed"

// copyStill copies src to dst where blocks cannot be shared. A copy takes
// time, and counts only when the image was not written to meanwhile, which
// makes it the image of each instant of that time.
func copyStill(ctx context.Context, dst, src *os.File, device *loop.Device, progress *backend.Progress) (moment time.Time, err error) {
	for range maxCopies {
		if err := dst.Truncate(0); err != nil {
			return time.Time{}, err
		}
		done, _ := progress.Bytes()
		progress.Add(-done)
		if err := device.Flush(); err != nil {
			return time.Time{}, err
		}
		before, err := observe(src, device)
		if err != nil {
			return time.Time{}, err
		}
		moment = now()
		if err := treecopy.CopyFile(ctx, dst, src, progress); err != nil {
			return time.Time{}, err
		}
		after, err := observe(src, device)
		if err != nil {
			return time.Time{}, err
		}
		if before == after && !after.busy {
			return moment, nil
		}
	}
	return time.Time{}, fmt.Errorf("the volume was written to during each of %d copies of it; %s: %w", maxCopies, copyRemedy, backend.ErrPrecondition)
}
