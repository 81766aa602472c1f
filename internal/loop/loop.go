// Package loop binds files to loop devices, through the kernel's ioctls:
// losetup would be one more process to run and to parse for each of them.
//
// The kernel knows which file a device holds, and it alone is asked: nothing
// is kept here.
package loop

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// Major is the major number of loop devices.
	Major = 7

	// sectorSize is the logical block size of the devices. Fixed, because the
	// kernel's own choice depends on the disk below, and a filesystem made
	// for one size does not mount on a device of a larger one.
	sectorSize = 512

	// maxBinds is how many free devices are tried that somebody else then
	// takes first.
	maxBinds = 64
)

// Device is an open loop device. A nil one is no device: there is nothing to
// close.
type Device struct {
	Number int
	file   *os.File
}

// Path returns the path of a device.
func Path(number int) string { return fmt.Sprintf("/dev/loop%d", number) }

// Bind binds a file, or a device, to a free loop device.
func Bind(file *os.File, readOnly bool) (*Device, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("find a free loop device (is the kernel module loop loaded?): %w", err)
	}
	defer control.Close()
	config := unix.LoopConfig{Fd: uint32(file.Fd()), Size: sectorSize}
	flag := os.O_RDWR
	if readOnly {
		config.Info.Flags, flag = unix.LO_FLAGS_READ_ONLY, os.O_RDONLY
	}
	for range maxBinds {
		number, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("find a free loop device: %w", err)
		}
		device, err := Open(number, flag)
		if errors.Is(err, unix.ENXIO) { // somebody else was faster, and has freed it again
			continue
		}
		if err != nil {
			return nil, err
		}
		err = unix.IoctlLoopConfigure(device.fd(), &config)
		if err == nil {
			return device, nil
		}
		device.Close()
		if !errors.Is(err, unix.EBUSY) { // EBUSY: somebody else was faster
			return nil, fmt.Errorf("bind %s to %s: %w", file.Name(), Path(number), err)
		}
	}
	return nil, fmt.Errorf("bind %s to a loop device: %d times somebody else took the free one first", file.Name(), maxBinds)
}

// Open opens a device, and makes its node when that is missing: a container's
// /dev does not follow what the kernel adds.
func Open(number, flag int) (*Device, error) {
	name := Path(number)
	want := unix.Mkdev(Major, uint32(number))
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
	return &Device{number, file}, nil
}

// OpenIfHolds opens a device if it holds this file; else nil.
//
// Device and inode number tell the file from every other, also from a deleted
// one that a device still holds: its inode is not given to another before the
// device lets it go.
func OpenIfHolds(number int, held *os.File) (*Device, error) {
	var stat unix.Stat_t
	if err := unix.Fstat(int(held.Fd()), &stat); err != nil {
		return nil, os.NewSyscallError("fstat", err)
	}
	return openIf(number, func(status *unix.LoopInfo64) bool {
		return status.Device == stat.Dev && status.Inode == stat.Ino
	})
}

// OpenIfReads opens a device if it is a read-only one over the block device of
// that number (st_rdev); else nil.
func OpenIfReads(number int, rdev uint64) (*Device, error) {
	// Others are not even opened: that would keep one from going that is
	// detached at the same moment.
	if readOnly, err := os.ReadFile(fmt.Sprintf("/sys/block/loop%d/ro", number)); err != nil || string(readOnly) != "1\n" {
		return nil, nil //nolint:nilerr // it has gone
	}
	return openIf(number, func(status *unix.LoopInfo64) bool {
		return status.Rdevice == rdev && status.Flags&unix.LO_FLAGS_READ_ONLY != 0
	})
}

// OpenIfOn opens a device if the file that it holds, which may have been deleted,
// is on the filesystem of that number (st_dev); else nil.
func OpenIfOn(number int, filesystem uint64) (*Device, error) {
	return openIf(number, func(status *unix.LoopInfo64) bool { return status.Device == filesystem })
}

// openIf opens a device if it holds what is looked for; else nil. One that the
// kernel is just freeing, which cannot be opened, holds nothing any more.
func openIf(number int, sought func(*unix.LoopInfo64) bool) (*Device, error) {
	device, err := Open(number, os.O_RDONLY)
	if errors.Is(err, unix.ENXIO) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	status, err := device.status()
	if err != nil || !sought(&status) {
		device.Close()
		return nil, err
	}
	return device, nil
}

// BackingFile returns the path of the file that a device holds, as it was seen
// by who bound it, or what is left of that path when its mount namespace is
// gone; empty for a free device.
func BackingFile(number int) string {
	text, err := os.ReadFile(fmt.Sprintf("/sys/block/loop%d/loop/backing_file", number))
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(string(text), "\n")
}

// Bound returns the paths of the files that devices hold, see BackingFile, by
// the numbers of the devices. The kernel has no way to ask which device holds a
// given file.
func Bound() (map[int]string, error) {
	blocks, err := os.Open("/sys/block")
	if err != nil {
		return nil, err
	}
	defer blocks.Close()
	names, err := blocks.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	bound := map[int]string{}
	for _, name := range names {
		digits, isLoop := strings.CutPrefix(name, "loop")
		number, err := strconv.Atoi(digits)
		if !isLoop || err != nil {
			continue
		}
		if file := BackingFile(number); file != "" {
			bound[number] = file
		}
	}
	return bound, nil
}

// Path returns the path of the device.
func (d *Device) Path() string { return Path(d.Number) }

// Size returns the size of the device in bytes.
func (d *Device) Size() (int64, error) {
	size, err := d.file.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, fmt.Errorf("find the end of %s: %w", d.Path(), err)
	}
	return size, nil
}

// Refresh brings the device to the size of its file, and keeps it: a device
// that was detached while it was in use would go when it is closed.
func (d *Device) Refresh() error {
	status, err := d.status()
	if err != nil {
		return err
	}
	if status.Flags&unix.LO_FLAGS_AUTOCLEAR != 0 {
		status.Flags &^= unix.LO_FLAGS_AUTOCLEAR
		if err := unix.IoctlLoopSetStatus64(d.fd(), &status); err != nil {
			return fmt.Errorf("keep %s: %w", d.Path(), err)
		}
	}
	if err := unix.IoctlSetInt(d.fd(), unix.LOOP_SET_CAPACITY, 0); err != nil {
		return fmt.Errorf("resize %s: %w", d.Path(), err)
	}
	return nil
}

// Detach frees the device. One that is still open elsewhere is freed by the
// kernel when it is closed there.
func (d *Device) Detach() error {
	if err := unix.IoctlSetInt(d.fd(), unix.LOOP_CLR_FD, 0); err != nil && !errors.Is(err, unix.ENXIO) {
		return fmt.Errorf("free %s: %w", d.Path(), err)
	}
	return nil
}

// Flush writes what is in the device's cache into its file, where a clone or a
// copy finds it. The file need not be on disk for that, and so this is no
// fsync.
func (d *Device) Flush() error {
	if d == nil {
		return nil
	}
	const all = unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
	return os.NewSyscallError("sync_file_range", unix.SyncFileRange(d.fd(), 0, 0, all))
}

// Close closes the device; it stays bound. Nothing is written through it, so
// that there is no error that could matter.
func (d *Device) Close() {
	if d != nil {
		_ = d.file.Close()
	}
}

// status asks the kernel what the device holds; of a free one, the zero status.
func (d *Device) status() (unix.LoopInfo64, error) {
	status, err := unix.IoctlLoopGetStatus64(d.fd())
	switch {
	case errors.Is(err, unix.ENXIO):
		return unix.LoopInfo64{}, nil
	case err != nil:
		return unix.LoopInfo64{}, fmt.Errorf("ask for the status of %s: %w", d.Path(), err)
	}
	return *status, nil
}

func (d *Device) fd() int { return int(d.file.Fd()) }
