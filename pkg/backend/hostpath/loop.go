package hostpath

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

const (
	loopMajor = 7
	noDevice  = -1

	// sectorSize is the logical block size of the devices. Fixed, because the
	// kernel's own choice depends on the disk below, and a filesystem made
	// for one size does not mount on a device of a larger one.
	sectorSize = 512

	// maxBinds is how many free devices are tried that somebody else then
	// takes first.
	maxBinds = 64
)

// loops binds images to loop devices, through the kernel's ioctls: losetup
// would be one more process to run and to parse for each of them.
//
// The kernel knows which file a device holds, and it alone is asked. What is
// kept here says only where to look first.
type loops struct {
	mu    sync.Mutex // two calls for one volume must not bind two devices
	known map[backend.VolumeID]int
}

// attach binds an image, open for writing, unless it is bound, and brings the
// device to the image's size. It returns the device's path.
func (l *loops) attach(id backend.VolumeID, image *os.File) (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	device, err := l.lookup(id, image)
	if err == nil && device == nil {
		device, err = bind(image)
	} else if err == nil {
		err = device.refresh()
	}
	defer device.close()
	if err != nil {
		return "", err
	}
	l.remember(id, device.number)
	return devicePath(device.number), nil
}

// find returns the device that holds an image, open for reading; nil when
// there is none.
func (l *loops) find(id backend.VolumeID, image *os.File) (*loopDevice, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lookup(id, image)
}

// refresh brings the device that holds an image, if any, to the image's size.
func (l *loops) refresh(id backend.VolumeID, image *os.File) error {
	device, err := l.find(id, image)
	if err != nil || device == nil {
		return err
	}
	defer device.close()
	return device.refresh()
}

// detach frees the device that holds an image, if any. One that is still open
// elsewhere is freed by the kernel when it is closed there.
func (l *loops) detach(id backend.VolumeID, image *os.File) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	device, err := l.lookup(id, image)
	if err != nil || device == nil {
		return err
	}
	defer device.close()
	delete(l.known, id)
	if err := unix.IoctlSetInt(int(device.file.Fd()), unix.LOOP_CLR_FD, 0); err != nil && !errors.Is(err, unix.ENXIO) {
		return fmt.Errorf("free %s: %w", devicePath(device.number), err)
	}
	return nil
}

// lookup is find, with the mutex held. When the device is not where it was
// seen last, all are looked at: another process, one that ran here before for
// one, may have bound the image.
func (l *loops) lookup(id backend.VolumeID, image *os.File) (*loopDevice, error) {
	if number, known := l.known[id]; known {
		if device, err := openLoopOf(number, image); err != nil || device != nil {
			return device, err
		}
		delete(l.known, id)
	}
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		number, err := strconv.Atoi(strings.TrimPrefix(strings.Split(file, "/")[3], "loop"))
		// The path says only which devices are worth asking. It is that of
		// the mount namespace that bound the image, where the root may have
		// been elsewhere.
		if err != nil || !strings.HasSuffix(backingFile(number), "/"+volumePath(id)+"/"+imageFile) {
			continue
		}
		if device, err := openLoopOf(number, image); err != nil || device != nil {
			if device != nil {
				l.remember(id, number)
			}
			return device, err
		}
	}
	return nil, nil
}

func (l *loops) remember(id backend.VolumeID, number int) {
	if l.known == nil {
		l.known = map[backend.VolumeID]int{}
	}
	l.known[id] = number
}

// backingFile returns the path of the file that a loop device holds, or
// nothing.
func backingFile(number int) string {
	text, err := os.ReadFile(fmt.Sprintf("/sys/block/loop%d/loop/backing_file", number))
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(string(text), "\n")
}

// bind binds an image to a free device.
func bind(image *os.File) (*loopDevice, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("find a free loop device (is the kernel module loop loaded?): %w", err)
	}
	defer control.Close()
	for range maxBinds {
		number, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("find a free loop device: %w", err)
		}
		device, err := openLoop(number, os.O_RDWR)
		if err != nil {
			return nil, err
		}
		err = unix.IoctlLoopConfigure(int(device.file.Fd()), &unix.LoopConfig{Fd: uint32(image.Fd()), Size: sectorSize})
		if err == nil {
			return device, nil
		}
		device.close()
		if !errors.Is(err, unix.EBUSY) { // EBUSY: somebody else was faster
			return nil, fmt.Errorf("bind %s to %s: %w", image.Name(), devicePath(number), err)
		}
	}
	return nil, fmt.Errorf("bind %s to a loop device: %d times somebody else took the free one first", image.Name(), maxBinds)
}
