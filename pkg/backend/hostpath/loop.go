package hostpath

import (
	"errors"
	"os"
	"path"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/internal/loop"
	"github.com/snapdriver/snapdriver/pkg/backend"
)

// loops finds the loop devices of images. What is kept here says only where to
// look first; the kernel is asked in any case.
//
// Two calls for one volume must not bind two devices, and so each volume has a
// lock of its own: a device that is slow to open or to flush delays no other.
type loops struct {
	mu    sync.Mutex // of the map, and of users
	known map[backend.VolumeID]*volumeLoop
}

// volumeLoop is one volume's lock, and where its device was seen last.
type volumeLoop struct {
	mu     sync.Mutex
	users  int // calls that hold mu or wait for it
	number int // noDevice: not known
}

// lock returns what is known of a volume, locked.
func (l *loops) lock(id backend.VolumeID) *volumeLoop {
	l.mu.Lock()
	v := l.known[id]
	if v == nil {
		if l.known == nil {
			l.known = map[backend.VolumeID]*volumeLoop{}
		}
		v = &volumeLoop{number: noDevice}
		l.known[id] = v
	}
	v.users++
	l.mu.Unlock()
	v.mu.Lock()
	return v
}

// unlock undoes lock, and forgets a volume that has no device.
func (l *loops) unlock(id backend.VolumeID, v *volumeLoop) {
	l.mu.Lock()
	v.users--
	if v.users == 0 && v.number == noDevice {
		delete(l.known, id)
	}
	l.mu.Unlock()
	v.mu.Unlock()
}

// attach binds an image, open for writing, unless it is bound, and brings the
// device to the image's size. It returns the device's path.
func (l *loops) attach(id backend.VolumeID, image *os.File) (string, error) {
	v := l.lock(id)
	defer l.unlock(id, v)
	device, err := v.find(id, image)
	if err == nil && device == nil {
		device, err = loop.Bind(image, false)
	} else if err == nil {
		err = device.Refresh()
	}
	defer device.Close()
	if err != nil {
		return "", err
	}
	v.number = device.Number
	return device.Path(), nil
}

// find returns the device that holds an image, open for reading; nil when
// there is none.
func (l *loops) find(id backend.VolumeID, image *os.File) (*loop.Device, error) {
	v := l.lock(id)
	defer l.unlock(id, v)
	return v.find(id, image)
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
	v := l.lock(id)
	defer l.unlock(id, v)
	device, err := v.find(id, image)
	if err != nil || device == nil {
		return err
	}
	defer device.Close()
	v.number = noDevice
	return device.Detach()
}

// detachUnasked frees the device that was seen to hold the image of a volume, if
// it still does by its path, which the kernel tells without a look at the image.
func (l *loops) detachUnasked(id backend.VolumeID) error {
	v := l.lock(id)
	defer l.unlock(id, v)
	if v.number == noDevice {
		return nil
	}
	if of, deleted := volumeOf(loop.BackingFile(v.number)); of != id || deleted {
		return nil
	}
	device, err := loop.Open(v.number, os.O_RDONLY)
	if errors.Is(err, unix.ENXIO) { // the kernel is freeing it
		v.number = noDevice
		return nil
	}
	if err != nil {
		return err
	}
	defer device.Close()
	v.number = noDevice
	return device.Detach()
}

// find looks first where the device was seen last, and then everywhere:
// another process, one that ran here before for one, may have bound the image.
func (v *volumeLoop) find(id backend.VolumeID, image *os.File) (*loop.Device, error) {
	if v.number != noDevice {
		if device, err := loop.OpenIfHolds(v.number, image); err != nil || device != nil {
			return device, err
		}
	}
	device, err := search(id.String(), image)
	switch {
	case device != nil:
		v.number = device.Number
	case !holdsDeleted(v.number, id):
		v.number = noDevice
	}
	return device, err
}

// search asks the kernel which device holds the image of the volume in the
// directory volumes/name; nil when none does.
func search(name string, image *os.File) (*loop.Device, error) {
	bound, err := loop.Bound()
	if err != nil {
		return nil, err
	}
	for number, file := range bound {
		// The path says only which devices are worth asking. It is that of
		// the mount namespace that bound the image, where the root may have
		// been elsewhere.
		if !strings.HasSuffix(file, "/"+volumesDir+"/"+name+"/"+imageFile) {
			continue
		}
		if device, err := loop.OpenIfHolds(number, image); err != nil || device != nil {
			return device, err
		}
	}
	return nil, nil
}

// volumeOf returns which volume the file is the image of that a device holds,
// and whether it was deleted; the zero ID: of none. That of a volume that was
// set aside while its device was in use is among them.
func volumeOf(file string) (id backend.VolumeID, deleted bool) {
	file, deleted = strings.CutSuffix(file, " (deleted)") // which the kernel adds
	dir := path.Dir(file)
	if shelf := path.Base(path.Dir(dir)); path.Base(file) != imageFile || shelf != volumesDir && shelf != damagedDir {
		return id, deleted
	}
	name, _, _ := strings.Cut(path.Base(dir), ".") // what unique has added
	id, _ = backend.ParseVolumeID(name)
	return id, deleted
}

// holdsDeleted says whether a device holds an image of the volume that was
// deleted.
func holdsDeleted(number int, id backend.VolumeID) bool {
	of, deleted := volumeOf(loop.BackingFile(number))
	return deleted && of == id
}

// survey notes which devices hold images of volumes on a filesystem (st_dev),
// so that peek knows of those that a process before this one has bound. What it
// cannot find out is not noted.
func (l *loops) survey(filesystem uint64) {
	bound, _ := loop.Bound()
	for number, file := range bound {
		id, deleted := volumeOf(file)
		if id.IsZero() {
			continue
		}
		device, _ := loop.OpenIfOn(number, filesystem)
		if device == nil {
			continue
		}
		device.Close()
		v := l.lock(id)
		if v.number == noDevice || !deleted {
			v.number = number
		}
		l.unlock(id, v)
	}
}

// peek returns the device that holds an image, or whether there is one that
// holds an image of the volume that was deleted. Without image the latter
// alone. It looks only where the device was seen last, and so its cost does not
// grow with the number of devices.
func (l *loops) peek(id backend.VolumeID, image *os.File) (device *loop.Device, deleted string, err error) {
	v := l.lock(id)
	defer l.unlock(id, v)
	if v.number == noDevice {
		return nil, "", nil
	}
	if holdsDeleted(v.number, id) {
		return nil, loop.Path(v.number), nil
	}
	if image != nil {
		device, err = loop.OpenIfHolds(v.number, image)
	}
	return device, "", err
}
