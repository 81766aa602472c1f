package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// LoopDevices lists the loop devices over files of a node's driver, also of a
// node that runs no more. Those that a kubelet has put over such a device, for
// a pod with a block volume, come first.
func (c Cluster) LoopDevices(n Node) ([]string, error) {
	disk, err := identify(c.disk(n))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	loops, err := listLoops()
	if err != nil {
		return nil, err
	}
	var kubelets, drivers []string
	for _, mounted := range loops {
		if mounted.over != disk {
			continue
		}
		for _, device := range loops {
			if device.over.filesystem != mounted.number {
				continue
			}
			drivers = append(drivers, device.path)
			node, err := identify(device.path)
			if err != nil {
				return nil, err
			}
			for _, upper := range loops {
				if upper.over == node {
					kubelets = append(kubelets, upper.path)
				}
			}
		}
	}
	return append(kubelets, drivers...), nil
}

// fileID is a file of this machine, whatever its paths.
type fileID struct {
	filesystem uint64 // its device's number
	inode      uint64
}

func identify(path string) (fileID, error) {
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return fileID{}, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	return fileID{stat.Dev, stat.Ino}, nil
}

type loopDevice struct {
	path   string
	number uint64
	over   fileID
}

// listLoops lists the loop devices of this machine that are in use.
func listLoops() ([]loopDevice, error) {
	paths, err := filepath.Glob("/dev/loop[0-9]*")
	if err != nil {
		return nil, err
	}
	var loops []loopDevice
	for _, path := range paths {
		device, err := readLoop(path)
		if errors.Is(err, unix.ENXIO) || errors.Is(err, fs.ErrNotExist) {
			continue // not in use
		}
		if err != nil {
			return nil, fmt.Errorf("loop device %s: %w", path, err)
		}
		loops = append(loops, device)
	}
	return loops, nil
}

func readLoop(path string) (loopDevice, error) {
	file, err := os.Open(path)
	if err != nil {
		return loopDevice{}, err
	}
	defer file.Close()
	var stat unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &stat); err != nil {
		return loopDevice{}, err
	}
	info, err := unix.IoctlLoopGetStatus64(int(file.Fd()))
	if err != nil {
		return loopDevice{}, err
	}
	return loopDevice{path: path, number: stat.Rdev, over: fileID{info.Device, info.Inode}}, nil
}
