package mounts

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/internal/loop"
)

// A device node that is bound read-only can be written through all the same:
// the flag guards filesystems, not devices. And making the device itself
// read-only would stop every other target of the volume. So a target that must
// not write gets a device of its own: a read-only loop device over the
// volume's. There is one for all read-only targets of a volume, found again by
// what it lies over; it stays until the volume is unstaged.

// Reader returns the path of the read-only device over a device, empty when
// there is none.
func Reader(device string) (string, error) {
	reader, err := openReader(device)
	if err != nil || reader == nil {
		return "", err
	}
	defer reader.Close()
	return reader.Path(), nil
}

// MakeReader returns the path of the read-only device over a device, a new one
// if need be.
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
	made, err := loop.Bind(below, true)
	if err != nil {
		return "", err
	}
	defer made.Close()
	return made.Path(), nil
}

// GrowReader brings the read-only device over a device, if any, to its size.
func GrowReader(device string) error {
	reader, err := openReader(device)
	if err != nil || reader == nil {
		return err
	}
	defer reader.Close()
	return reader.Refresh()
}

// FreeReader detaches the read-only device over a device, if any.
func FreeReader(device string) error {
	reader, err := openReader(device)
	if err != nil || reader == nil {
		return err
	}
	defer reader.Close()
	return reader.Detach()
}

// openReader opens the read-only device over a device; nil when there is none,
// or when that is no device. Every loop device is asked: the path at which a
// device was seen by who bound another to it says nothing here, least of all
// when its mount namespace is gone.
func openReader(device string) (*loop.Device, error) {
	var stat unix.Stat_t
	if err := unix.Stat(device, &stat); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("look at %q: %w", device, err)
	}
	if !isDevice(&stat) {
		return nil, nil
	}
	bound, err := loop.Bound()
	if err != nil {
		return nil, err
	}
	for number := range bound {
		if reader, err := loop.OpenIfReads(number, stat.Rdev); err != nil || reader != nil {
			return reader, err
		}
	}
	return nil, nil
}
