package hostpath

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

// VolumeHealth implements backend.Backend. What is wrong with the filesystem on
// an image, who mounts it can tell.
func (b *Backend) VolumeHealth(_ context.Context, id backend.VolumeID) ([]backend.Condition, error) {
	conditions, err := b.volumeHealth(id)
	if err != nil {
		return nil, fmt.Errorf("look at the health of %s: %w", id, err)
	}
	return conditions, nil
}

func (b *Backend) volumeHealth(id backend.VolumeID) ([]backend.Condition, error) {
	dir := volumePath(id)
	before, err := b.root.Lstat(dir)
	if errors.Is(err, os.ErrNotExist) {
		return b.healthOfSetAside(id)
	}
	if err != nil {
		return b.cannotRead("DirectoryUnreadable", err)
	}
	conditions, err := b.examine(dir, id)
	if after, err := b.root.Lstat(dir); err != nil || !os.SameFile(before, after) {
		return nil, fmt.Errorf("it was deleted meanwhile: %w", backend.ErrNotFound)
	}
	return conditions, err
}

// healthOfSetAside is the health of what lies in damaged/, where a volume is
// until somebody who knows better takes it away from there.
func (b *Backend) healthOfSetAside(id backend.VolumeID) ([]backend.Condition, error) {
	names, err := b.list(damagedDir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return b.cannotRead("DirectoryUnreadable", err)
	}
	for _, name := range names {
		if !strings.HasPrefix(name, id.String()+".") {
			continue
		}
		dir := path.Join(damagedDir, name)
		conditions, err := b.examine(dir, id)
		aside := condition(backend.Inaccessible, "SetAside", "it was found damaged, and lies at %s", dir)
		return append(conditions, aside), err
	}
	return nil, backend.ErrNotFound
}

// examine looks at the volume that lies in dir: its record, its data and its
// device.
func (b *Backend) examine(dir string, id backend.VolumeID) ([]backend.Condition, error) {
	record, err := b.readVolumeIn(dir, id)
	if err != nil {
		return b.cannotRead("RecordUnusable", err)
	}
	// Asked after the record was read and before the device is: a growth that
	// the record knows of is then still running, or the device has it too.
	growing := b.growing.Load() > 0
	name := path.Join(dir, record.data())
	flag := unix.O_NOATIME | unix.O_NONBLOCK // leaves no trace, and does not wait for what should not be there
	if record.Layout == layoutDirectory {
		flag |= unix.O_DIRECTORY
	}
	data, err := b.root.OpenFile(name, flag, 0)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return b.dataMissing(id)
	}
	if err != nil {
		return b.cannotRead("DataUnreadable", err)
	}
	defer data.Close()
	if record.Layout == layoutDirectory {
		if _, err := data.Readdirnames(1); err != nil && !errors.Is(err, io.EOF) {
			return b.cannotRead("DataUnreadable", err)
		}
		return nil, nil
	}
	return b.examineImage(record, data, growing)
}

// cannotRead makes an error a condition, unless it tells of this process only.
// What lies there may be whole, and so nothing is said to be lost.
func (b *Backend) cannotRead(reason string, err error) ([]backend.Condition, error) {
	if isOurs(err) {
		return nil, err
	}
	return []backend.Condition{condition(backend.Inaccessible, reason, "%v", err)}, nil
}

func (b *Backend) dataMissing(id backend.VolumeID) ([]backend.Condition, error) {
	_, device, err := b.loops.peek(id, nil)
	if err != nil || device == "" {
		return []backend.Condition{condition(backend.DataLoss, "DataMissing", "its data are missing")}, err
	}
	return []backend.Condition{deletedImage(device)}, nil
}

// deletedImage is what is wrong with an image that only its device still holds.
func deletedImage(device string) backend.Condition {
	return condition(backend.DataLoss, "ImageDeleted",
		"%s holds an image that was deleted, and what pods write: copy the device before the volume is unstaged", device)
}

// examineImage looks at an image and, unless the volume is growing, at its device.
func (b *Backend) examineImage(record volumeRecord, image *os.File, growing bool) (conditions []backend.Condition, err error) {
	id, capacity := record.Volume.ID, record.Volume.Capacity
	info, err := image.Stat()
	if err != nil {
		return b.cannotRead("DataUnreadable", err)
	}
	if !info.Mode().IsRegular() {
		return b.dataMissing(id)
	}
	if info.Size() < capacity {
		conditions = append(conditions, condition(backend.DataLoss, "ImageTooShort",
			"its image has %d bytes of %d: what was beyond is lost", info.Size(), capacity))
	}
	device, deleted, err := b.loops.peek(id, image)
	if deleted != "" {
		conditions = append(conditions, deletedImage(deleted))
	}
	if err != nil || device == nil {
		return conditions, err
	}
	defer device.Close()
	size, err := device.Size()
	if err == nil && size < capacity && !growing {
		conditions = append(conditions, condition(backend.Degraded, "DeviceTooSmall",
			"%s has %d bytes of %d: expand the volume again, or stage it anew", device.Path(), size, capacity))
	}
	return conditions, err
}

func condition(severity backend.Severity, reason, format string, args ...any) backend.Condition {
	return backend.Condition{Severity: severity, Reason: reason, Message: fmt.Sprintf(format, args...)}
}
