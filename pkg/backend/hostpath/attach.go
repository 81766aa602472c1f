package hostpath

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/snapdriver/snapdriver/internal/loop"
	"github.com/snapdriver/snapdriver/pkg/backend"
)

// Attach implements backend.Backend. A directory is always attached.
func (b *Backend) Attach(_ context.Context, id backend.VolumeID) (backend.Mount, error) {
	mount, _, err := b.withImage(id, func(image *os.File) (string, error) { return b.loops.attach(id, image) })
	if err != nil {
		return backend.Mount{}, fmt.Errorf("attach %s: %w", id, b.explain(err))
	}
	return mount, nil
}

// Attached implements backend.Backend. Which device Attach would choose is
// not known before: the Source of a detached image is empty. An image that is
// lost is not attached, so that its volume can be deleted; ErrPrecondition where
// a device still holds it.
func (b *Backend) Attached(_ context.Context, id backend.VolumeID) (backend.Mount, bool, error) {
	mount, attached, err := b.withImage(id, func(image *os.File) (string, error) {
		device, err := b.loops.find(id, image)
		if err != nil || device == nil {
			return "", err
		}
		defer device.Close()
		return device.Path(), nil
	})
	if errors.Is(err, errNoImage) {
		_, device, _ := b.loops.peek(id, nil)
		if device == "" {
			return mount, false, nil
		}
		err = fmt.Errorf("its image was deleted, and %s still has it: unmount that and run losetup -d %s: %w", device, device, backend.ErrPrecondition)
	}
	if err != nil {
		return backend.Mount{}, false, fmt.Errorf("look whether %s is attached: %w", id, err)
	}
	return mount, attached, nil
}

// errNoImage says that the image of a volume is missing, and its record is not.
var errNoImage = errors.New("the image is missing")

// withImage says what to mount. The device of an image is what use returns;
// none: the volume is not attached.
func (b *Backend) withImage(id backend.VolumeID, use func(image *os.File) (device string, err error)) (backend.Mount, bool, error) {
	record, err := b.readVolume(id)
	if err != nil {
		return backend.Mount{}, false, err
	}
	data := path.Join(volumePath(id), record.data())
	if record.Layout == layoutDirectory {
		return backend.Mount{Source: filepath.Join(b.path, data)}, true, nil
	}
	mount := backend.Mount{FSType: record.FSType, Options: filesystems[record.FSType].options}
	image, err := b.root.OpenFile(data, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		// Attached takes no lock: was the volume deleted since its record was read?
		_, gone := b.readVolume(id)
		err = cmp.Or(gone, fmt.Errorf("%w: %w", errNoImage, err))
	}
	if err != nil {
		return mount, false, err
	}
	defer image.Close()
	mount.Source, err = use(image)
	return mount, mount.Source != "", err
}

// Detach implements backend.Backend. It asks for the image, not for the
// record, so that it works for a volume whose record cannot be read now. Where
// the image cannot be asked for either, because its filesystem has failed, the
// device is freed that was seen to hold it, if any: pods have to go all the same.
func (b *Backend) Detach(_ context.Context, id backend.VolumeID) error {
	err := b.detach(id)
	if errors.Is(err, unix.EIO) {
		klog.ErrorS(err, "Detach a volume without a look at its image", "volume", id)
		err = b.loops.detachUnasked(id)
	}
	if err != nil {
		return fmt.Errorf("detach %s: %w", id, err)
	}
	return nil
}

func (b *Backend) detach(id backend.VolumeID) error {
	image, err := b.root.Open(path.Join(volumePath(id), imageFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer image.Close()
	return b.loops.detach(id, image)
}

// release frees the device of what lies in volumes/ under name, if it has one.
// A device that stays is in the text returned.
func (b *Backend) release(name string) (kept string) {
	kept, err := b.tryRelease(name)
	if err != nil {
		return fmt.Sprintf("; a loop device may still hold its image: %v", err)
	}
	return kept
}

func (b *Backend) tryRelease(name string) (kept string, err error) {
	image, err := b.root.OpenFile(path.Join(volumesDir, name, imageFile), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return "", nil // as with a volume of layout directory
	}
	if err != nil {
		return "", err
	}
	defer image.Close()
	device, err := search(name, image)
	if err != nil || device == nil {
		return "", err
	}
	defer device.Close()
	used, err := mountPoint(device)
	if err != nil {
		return "", err
	}
	if used != "" {
		return fmt.Sprintf("; %s still holds its image, for it is mounted at %s: unmount that and run losetup -d %s", device.Path(), used, device.Path()), nil
	}
	return "", device.Detach()
}

// mountPoint returns where a device, or a filesystem on it, is mounted; empty:
// nowhere. A node of the device that is bound to a file counts: through it a
// pod would come to whatever the device holds next.
func mountPoint(device *loop.Device) (string, error) {
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		found := m.Major == loop.Major && m.Minor == device.Number || isNode(m, device)
		return !found, found
	})
	if err != nil {
		return "", fmt.Errorf("read the mount table: %w", err)
	}
	if len(mounts) == 0 {
		return "", nil
	}
	return mounts[0].Mountpoint, nil
}

// isNode says whether a mount is a node of a device, bound to a file. It looks at
// a path only where nodes are, on filesystems that never keep one waiting.
func isNode(m *mountinfo.Info, device *loop.Device) bool {
	if m.FSType != "devtmpfs" && m.FSType != "tmpfs" {
		return false
	}
	var node unix.Stat_t
	return unix.Lstat(m.Mountpoint, &node) == nil && node.Mode&unix.S_IFMT == unix.S_IFBLK && node.Rdev == unix.Mkdev(loop.Major, uint32(device.Number))
}
