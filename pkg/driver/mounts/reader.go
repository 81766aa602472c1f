package mounts

import (
	"os"

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

// openReader opens the read-only device over a device; nil when there is none.
// The path is enough to know it by: while it lies over a device, that device is
// not given to another volume.
func openReader(device string) (*loop.Device, error) {
	bound, err := loop.Bound()
	if err != nil {
		return nil, err
	}
	for _, number := range bound {
		if loop.BackingFile(number) == device {
			return loop.Open(number, os.O_RDONLY)
		}
	}
	return nil, nil
}
