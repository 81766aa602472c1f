package lvm

import (
	"errors"
	"os"

	"github.com/snapdriver/snapdriver/internal/loop"
)

// attachLoop binds a file to a loop device, unless it is bound already, and
// returns the device's path.
func attachLoop(path string) (string, error) {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer file.Close()
	device, err := loopOf(file)
	if err != nil {
		return "", err
	}
	if device == nil {
		device, err = loop.Bind(file, false)
	}
	if err != nil {
		return "", err
	}
	defer device.Close()
	return device.Path(), nil
}

// loopDevice returns the path of the loop device that holds a file; empty: none
// does, or there is no such file.
func loopDevice(path string) (string, error) {
	file, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer file.Close()
	device, err := loopOf(file)
	if err != nil || device == nil {
		return "", err
	}
	defer device.Close()
	return device.Path(), nil
}

// detachLoop frees the loop device of a file, if it has one.
func detachLoop(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	device, err := loopOf(file)
	if err != nil || device == nil {
		return err
	}
	defer device.Close()
	return device.Detach()
}

// loopOf returns the loop device that holds a file; nil: none does.
func loopOf(file *os.File) (*loop.Device, error) {
	bound, err := loop.Bound()
	if err != nil {
		return nil, err
	}
	for number := range bound {
		if device, err := loop.OpenIfHolds(number, file); err != nil || device != nil {
			return device, err
		}
	}
	return nil, nil
}
