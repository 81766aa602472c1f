// Package dm asks the kernel's device-mapper about its devices, by name and
// through its own ioctls: a process of dmsetup or lvs for each question would
// cost a thousand times as much, and takes longer the more devices there are.
//
// The kernel alone is asked; nothing is kept here, and nothing is changed but by
// Message.
// Numbers and names are those of include/uapi/linux/dm-ioctl.h.
package dm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

var (
	// ErrNotFound says that there is no device of that name.
	ErrNotFound = errors.New("no such device-mapper device")

	// ErrUnsupported says that this kernel has no device-mapper, or not the target asked
	// for, nor a module that it could load for it.
	ErrUnsupported = errors.New("not in this kernel")
)

const (
	dir = "/dev/mapper"

	// sectorSize is the unit of the device-mapper's lengths, whatever the
	// device's own block size.
	sectorSize = 512
)

// Name returns the name of the device that LVM makes for a logical volume:
// hyphens are doubled, so that a single one parts the two names.
func Name(volumeGroup, logicalVolume string) string {
	double := strings.NewReplacer("-", "--")
	return double.Replace(volumeGroup) + "-" + double.Replace(logicalVolume)
}

// PoolName returns the name of the device through which LVM drives a thin
// pool: it has the target thin-pool, and its status tells how full the pool is.
func PoolName(volumeGroup, pool string) string { return Name(volumeGroup, pool) + "-tpool" }

// Path returns the path of a device's node.
func Path(name string) string { return filepath.Join(dir, name) }

// Device is what the kernel says of one device.
type Device struct {
	// Number is the device number, as st_rdev has it.
	Number uint64

	// OpenCount counts who has it open: processes, mounts, other devices.
	OpenCount int

	// Suspended: requests to it wait until it is resumed.
	Suspended bool
	ReadOnly  bool

	// Active: it has a table, so that it can be read at all.
	Active bool
}

// Target is one stretch of a device's table.
type Target struct {
	Type string

	// Start and Length are where it lies in the device and how long it is, in bytes.
	Start, Length int64

	// Status is the target's own account of itself; see ParseThin and
	// ParseThinPool.
	Status string
}

// Size returns the size in bytes of a device with these targets.
func Size(targets []Target) int64 {
	var size int64
	for _, target := range targets {
		size += target.Length
	}
	return size
}

// Lookup returns what the kernel says of the device of that name. ErrNotFound,
// ErrUnsupported.
func Lookup(name string) (Device, error) {
	device, _, err := query(unix.DM_DEV_STATUS, 0, name, nil)
	if err != nil {
		return Device{}, fmt.Errorf("look for device %s: %w", name, err)
	}
	return device, nil
}

// Status returns what Lookup does, and the table with the state of each target.
// A pool tells it as it is in memory and is not made to write to disk for it.
// ErrNotFound, ErrUnsupported.
func Status(name string) (Device, []Target, error) {
	device, reply, err := query(unix.DM_TABLE_STATUS, unix.DM_NOFLUSH_FLAG, name, nil)
	var targets []Target
	if err == nil {
		targets, err = reply.targets()
	}
	if err != nil {
		return Device{}, nil, fmt.Errorf("ask for the status of device %s: %w", name, err)
	}
	return device, targets, nil
}

// Message tells the first target of a device something, like "delete 7" to a
// thin pool. ErrNotFound, ErrUnsupported, or the target's own answer, as an
// error number.
func Message(name, message string) error {
	data := binary.NativeEndian.AppendUint64(nil, 0) // struct dm_target_msg: the sector, and a C string
	data = append(append(data, message...), 0)
	if len(data) > firstBuffer/2 {
		return fmt.Errorf("message of %d bytes to device %s: %w", len(message), name, unix.E2BIG)
	}
	if _, _, err := query(unix.DM_TARGET_MSG, 0, name, data); err != nil {
		return fmt.Errorf("tell device %s %q: %w", name, message, err)
	}
	return nil
}

// Supported says whether the kernel has a target, like "thin-pool", and makes
// it load the module that has it: nil, ErrUnsupported, or why that cannot be
// known. Linux 5.4 or later.
func Supported(target string) error {
	_, _, err := query(unix.DM_GET_TARGET_VERSION, 0, target, nil)
	switch {
	case errors.Is(err, unix.EINVAL): // what the kernel says of an unknown target
		return fmt.Errorf("device-mapper target %s: %w", target, ErrUnsupported)
	case err != nil:
		return fmt.Errorf("look for device-mapper target %s: %w", target, err)
	}
	return nil
}

// query makes a request about the device, or the target, of that name.
func query(command uint, flags uint32, name string, data []byte) (Device, reply, error) {
	control, err := os.OpenFile(filepath.Join(dir, unix.DM_CONTROL_NODE), os.O_RDWR, 0)
	for _, absent := range []error{os.ErrNotExist, unix.ENODEV, unix.ENXIO} {
		if errors.Is(err, absent) {
			return Device{}, reply{}, fmt.Errorf("device-mapper: %w (%w)", ErrUnsupported, err)
		}
	}
	if err != nil {
		return Device{}, reply{}, err
	}
	defer control.Close()
	answer, err := ask(control, command, flags, name, data)
	if errors.Is(err, unix.ENXIO) { // what the kernel says of an unknown device
		err = ErrNotFound
	}
	if err != nil {
		return Device{}, reply{}, err
	}
	has := func(flag uint32) bool { return answer.header.Flags&flag != 0 }
	return Device{
		Number:    answer.header.Dev,
		OpenCount: int(answer.header.Open_count),
		Suspended: has(unix.DM_SUSPEND_FLAG),
		ReadOnly:  has(unix.DM_READONLY_FLAG),
		Active:    has(unix.DM_ACTIVE_PRESENT_FLAG),
	}, answer, nil
}
