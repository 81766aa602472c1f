package hostpath

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// loopDevice is an open loop device. A nil one is no device: there is nothing
// to flush, to mount or to close.
type loopDevice struct {
	number int
	file   *os.File
}

func devicePath(number int) string { return fmt.Sprintf("/dev/loop%d", number) }

// openLoop opens a loop device, and makes its node when that is missing: a
// container's /dev does not follow what the kernel adds.
func openLoop(number, flag int) (*loopDevice, error) {
	name := devicePath(number)
	want := unix.Mkdev(loopMajor, uint32(number))
	file, err := os.OpenFile(name, flag, 0)
	if errors.Is(err, os.ErrNotExist) {
		if err := unix.Mknod(name, unix.S_IFBLK|0o600, int(want)); err != nil && !errors.Is(err, os.ErrExist) {
			return nil, &os.PathError{Op: "mknod", Path: name, Err: err}
		}
		file, err = os.OpenFile(name, flag, 0)
	}
	if err != nil {
		return nil, err
	}
	var stat unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &stat); err != nil || stat.Mode&unix.S_IFMT != unix.S_IFBLK || stat.Rdev != want {
		_ = file.Close()
		return nil, fmt.Errorf("open %s: this is not loop device %d: remove it", name, number)
	}
	return &loopDevice{number, file}, nil
}

// openLoopOf opens a loop device if it holds this image; else nil.
//
// Device and inode number tell the image from every other file, also from a
// deleted one that a device still holds: its inode is not given to another
// before the device lets it go.
func openLoopOf(number int, image *os.File) (*loopDevice, error) {
	device, err := openLoop(number, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	var stat unix.Stat_t
	if err := unix.Fstat(int(image.Fd()), &stat); err != nil {
		device.close()
		return nil, os.NewSyscallError("fstat", err)
	}
	status, err := device.status()
	if err != nil || status.Device != stat.Dev || status.Inode != stat.Ino {
		device.close()
		return nil, err
	}
	return device, nil
}

// status asks the kernel what the device holds; of a free one, the zero status.
func (d *loopDevice) status() (unix.LoopInfo64, error) {
	status, err := unix.IoctlLoopGetStatus64(int(d.file.Fd()))
	switch {
	case errors.Is(err, unix.ENXIO):
		return unix.LoopInfo64{}, nil
	case err != nil:
		return unix.LoopInfo64{}, fmt.Errorf("ask for the status of %s: %w", devicePath(d.number), err)
	}
	return *status, nil
}

// refresh brings the device to the size of its image, and keeps it: a device
// that was detached while it was in use would go when it is closed.
func (d *loopDevice) refresh() error {
	status, err := d.status()
	if err != nil {
		return err
	}
	if status.Flags&unix.LO_FLAGS_AUTOCLEAR != 0 {
		status.Flags &^= unix.LO_FLAGS_AUTOCLEAR
		if err := unix.IoctlLoopSetStatus64(int(d.file.Fd()), &status); err != nil {
			return fmt.Errorf("keep %s: %w", devicePath(d.number), err)
		}
	}
	if err := unix.IoctlSetInt(int(d.file.Fd()), unix.LOOP_SET_CAPACITY, 0); err != nil {
		return fmt.Errorf("resize %s: %w", devicePath(d.number), err)
	}
	return nil
}

// flush writes what is in the device's cache into its image, where a clone or
// a copy finds it. The image need not be on disk for that, and so this is no
// fsync.
func (d *loopDevice) flush() error {
	if d == nil {
		return nil
	}
	const all = unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
	return os.NewSyscallError("sync_file_range", unix.SyncFileRange(int(d.file.Fd()), 0, 0, all))
}

// close closes the device; it stays attached. Nothing is written through it,
// so that there is no error that could matter.
func (d *loopDevice) close() {
	if d != nil {
		_ = d.file.Close()
	}
}
