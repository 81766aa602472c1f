package lvm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

// edge is how much of the beginning and of the end of a device has to be zero,
// in bytes. What has a header or a footer has it there.
const edge = 1 << 20

// takeDevice finds the device, or makes it, and makes sure that it is empty.
func (i *initialization) takeDevice(ctx context.Context) error {
	i.device = i.Device
	var err error
	if i.LoopFile != "" {
		err = i.makeLoopDevice()
	} else if err = checkEmpty(ctx, i.device); err != nil {
		err = fmt.Errorf("%s is not taken: %w", i.device, err)
	}
	i.runner.device = i.device
	return err
}

// makeLoopDevice makes the loop file and binds it to a device.
func (i *initialization) makeLoopDevice() error {
	file, err := os.OpenFile(i.LoopFile, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%s exists, and may hold data: name a new file; if this one holds a pool already, start the driver with it: %w", i.LoopFile, backend.ErrExists)
	}
	if err != nil {
		return err
	}
	defer file.Close()
	i.onFailure(i.removeLoopFile)
	var stat unix.Statfs_t
	if err := unix.Fstatfs(int(file.Fd()), &stat); err != nil {
		return os.NewSyscallError("fstatfs", err)
	}
	// The file is sparse. Were its filesystem full one day, the pool would fail.
	if free := int64(stat.Bavail) * stat.Frsize; free < i.Size {
		return fmt.Errorf("%s is to have %s, of which its filesystem has %s: ask for less, or free space: %w", i.LoopFile, size(i.Size), size(free), backend.ErrExhausted)
	}
	if err := file.Truncate(i.Size); err != nil {
		return err
	}
	i.onFailure(i.detachLoopFile)
	i.device, err = attachLoop(i.LoopFile)
	return err
}

// checkEmpty returns nil if a device holds nothing and nobody uses it. What
// cannot be told is an error.
func checkEmpty(ctx context.Context, path string) error {
	if _, err := blockDevice(path); err != nil {
		return err
	}
	// O_EXCL fails while the device is mounted, swapped to, or part of another.
	device, err := os.OpenFile(path, os.O_RDWR|unix.O_EXCL, 0)
	if errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("it is in use (lsblk %s shows by what): name another device: %w", path, backend.ErrPrecondition)
	}
	if err != nil {
		return err
	}
	defer device.Close()
	there, err := probe(ctx, path)
	if err != nil {
		return fmt.Errorf("cannot tell whether it is empty: %w", err)
	}
	if there != (signature{}) {
		return notEmpty(there.String(), path)
	}
	return checkEdges(device)
}

// checkEdges looks for data that blkid has no name for, or could not read.
func checkEdges(device *os.File) error {
	bytes, err := device.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	for _, at := range []int64{0, max(bytes-edge, 0)} {
		zero, err := isZero(io.NewSectionReader(device, at, edge))
		if err != nil {
			return fmt.Errorf("cannot tell whether it is empty: %w", err)
		}
		if !zero {
			return notEmpty(fmt.Sprintf("data in the %s from byte %d on", size(edge), at), device.Name())
		}
	}
	return nil
}

func notEmpty(what, path string) error {
	return fmt.Errorf("it holds %s: name another device, or, if nobody needs what is on it, wipe it with blkdiscard --zeroout %s: %w", what, path, backend.ErrPrecondition)
}

func isZero(from io.Reader) (bool, error) {
	content, err := io.ReadAll(from)
	return len(bytes.Trim(content, "\x00")) == 0, err
}

// blockDevice returns the number (st_rdev) of the block device at a path.
func blockDevice(path string) (uint64, error) {
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return 0, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFBLK {
		return 0, fmt.Errorf("%s is no block device (a file can be one by way of a loop device): %w", path, backend.ErrInvalid)
	}
	return stat.Rdev, nil
}

// sizeOf returns the size of a device in bytes.
func sizeOf(path string) (int64, error) {
	device, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer device.Close()
	return device.Seek(0, io.SeekEnd)
}
