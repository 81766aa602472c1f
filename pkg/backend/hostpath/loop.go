package hostpath

import (
	"os"
	"strings"
	"sync"

	"github.com/snapdriver/snapdriver/internal/loop"
	"github.com/snapdriver/snapdriver/pkg/backend"
)

// loops finds the loop devices of images. What is kept here says only where to
// look first; the kernel is asked in any case.
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
		device, err = loop.Bind(image, false)
	} else if err == nil {
		err = device.Refresh()
	}
	defer device.Close()
	if err != nil {
		return "", err
	}
	l.remember(id, device.Number)
	return device.Path(), nil
}

// find returns the device that holds an image, open for reading; nil when
// there is none.
func (l *loops) find(id backend.VolumeID, image *os.File) (*loop.Device, error) {
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
	defer device.Close()
	return device.Refresh()
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
	defer device.Close()
	delete(l.known, id)
	return device.Detach()
}

// lookup is find, with the mutex held. When the device is not where it was
// seen last, all are looked at: another process, one that ran here before for
// one, may have bound the image.
func (l *loops) lookup(id backend.VolumeID, image *os.File) (*loop.Device, error) {
	if number, known := l.known[id]; known {
		if device, err := loop.OpenIfHolds(number, image); err != nil || device != nil {
			return device, err
		}
		delete(l.known, id)
	}
	bound, err := loop.Bound()
	if err != nil {
		return nil, err
	}
	for _, number := range bound {
		// The path says only which devices are worth asking. It is that of
		// the mount namespace that bound the image, where the root may have
		// been elsewhere.
		if !strings.HasSuffix(loop.BackingFile(number), "/"+volumePath(id)+"/"+imageFile) {
			continue
		}
		if device, err := loop.OpenIfHolds(number, image); err != nil || device != nil {
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
