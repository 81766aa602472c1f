package mounts

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// A device node that is bound read-only can be written through all the same:
// the flag guards filesystems, not devices. And making the device itself
// read-only would stop every other target of the volume. So a target that must
// not write gets a device of its own: a read-only loop device over the
// volume's. There is one for all read-only targets of a volume, found again by
// what it lies over; it stays until the volume is unstaged.

// Reader returns the read-only device over a device, empty when there is none.
func Reader(device string) (string, error) {
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return "", err
	}
	for _, file := range files {
		below, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
			continue // detached meanwhile
		}
		if err != nil {
			return "", err
		}
		if strings.TrimSuffix(string(below), "\n") == device {
			return "/dev/" + filepath.Base(filepath.Dir(filepath.Dir(file))), nil
		}
	}
	return "", nil
}

// MakeReader returns the read-only device over a device, a new one if need be.
func MakeReader(device string) (string, error) {
	reader, err := Reader(device)
	if err != nil || reader != "" {
		return reader, err
	}
	below, err := os.Open(device)
	if err != nil {
		return "", err
	}
	defer below.Close()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return "", fmt.Errorf("find a free loop device: %w", err)
	}
	defer control.Close()
	config := unix.LoopConfig{Fd: uint32(below.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_READ_ONLY}}
	copy(config.Info.File_name[:], device)
	for {
		number, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return "", fmt.Errorf("find a free loop device: %w", err)
		}
		reader := fmt.Sprintf("/dev/loop%d", number)
		err = withDevice(reader, func(fd int) error { return unix.IoctlLoopConfigure(fd, &config) })
		if !errors.Is(err, unix.EBUSY) { // another process was quicker
			return reader, err
		}
	}
}

// GrowReader brings the read-only device over a device, if any, to its size.
func GrowReader(device string) error {
	return withReader(device, func(fd int) error { return unix.IoctlSetInt(fd, unix.LOOP_SET_CAPACITY, 0) })
}

// FreeReader detaches the read-only device over a device, if any.
func FreeReader(device string) error {
	return withReader(device, func(fd int) error { return unix.IoctlSetInt(fd, unix.LOOP_CLR_FD, 0) })
}

func withReader(device string, do func(fd int) error) error {
	reader, err := Reader(device)
	if err != nil || reader == "" {
		return err
	}
	return withDevice(reader, do)
}

func withDevice(path string, do func(fd int) error) error {
	device, err := os.Open(path)
	if err != nil {
		return err
	}
	defer device.Close()
	if err := do(int(device.Fd())); err != nil {
		return fmt.Errorf("configure %s: %w", path, err)
	}
	return nil
}
