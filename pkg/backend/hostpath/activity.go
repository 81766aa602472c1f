package hostpath

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/internal/loop"
)

// noDevice is the number of no loop device.
const noDevice = -1

// activity is what changes when an image is written to.
//
// Writes through a loop device are counted by the device, and change the
// image's times. Either could miss one: the counters of another device that
// was attached and detached meanwhile are not seen, and times are as coarse as
// a tick of the kernel's clock.
type activity struct {
	mtime, ctime unix.Timespec
	size         int64
	device       int    // number of the loop device, noDevice
	counters     string // writes and discards that the device has completed
	busy         bool   // the device has writes that are not completed
}

// observe takes the image's activity at this moment.
func observe(image *os.File, device *loop.Device) (activity, error) {
	var stat unix.Stat_t
	if err := unix.Fstat(int(image.Fd()), &stat); err != nil {
		return activity{}, os.NewSyscallError("fstat", err)
	}
	a := activity{mtime: stat.Mtim, ctime: stat.Ctim, size: stat.Size, device: noDevice}
	if device == nil {
		return a, nil
	}
	a.device = device.Number
	// First what is under way, then what is done: a write that ends between
	// the two shows in both, in the other order in neither.
	inflight, err := blockFields(device.Number, "inflight", 2)
	if err != nil {
		return activity{}, err
	}
	done, err := blockFields(device.Number, "stat", 15)
	if err != nil {
		return activity{}, err
	}
	a.busy = inflight[1] != "0"
	a.counters = strings.Join([]string{done[4], done[6], done[11], done[13]}, " ")
	return a, nil
}

// blockFields reads a file of numbers of a loop device; the kernel's
// Documentation/block/stat.rst and Documentation/ABI/stable/sysfs-block say
// which is which.
func blockFields(device int, file string, atLeast int) ([]string, error) {
	name := fmt.Sprintf("/sys/block/loop%d/%s", device, file)
	text, err := os.ReadFile(name) //nolint:forbidigo // the kernel's
	if err != nil {
		return nil, err
	}
	fields := strings.Fields(string(text))
	if len(fields) < atLeast {
		return nil, fmt.Errorf("read %s: %d fields, expected at least %d", name, len(fields), atLeast)
	}
	return fields, nil
}
