// Package memory is a backend that keeps everything in memory. It passes the
// same conformance suite as the real backends and stands in for them in tests
// of the layers above: no mocks, no root, no disk.
//
// A Disk outlives the Backend opened on it, as a disk outlives a process, so
// that tests can crash and reopen.
package memory

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

// What a volume can measure.
const (
	kib         = 1 << 10
	defaultSize = 1 << 30
	maxSize     = 1 << 40
)

// Disk is where the objects lie.
type Disk struct {
	mu        sync.Mutex
	capacity  int64
	locked    bool // one Backend at a time
	volumes   map[backend.VolumeID]*volume
	snapshots map[backend.SnapshotID]snapshot
	staging   map[string]struct{} // what is being built, by ID
	health    []backend.Condition // of the disk
}

type volume struct {
	backend.Volume
	content  string
	attached bool
	health   []backend.Condition
}

type snapshot struct {
	backend.Snapshot
	content string
}

// NewDisk returns an empty disk that holds capacity bytes.
func NewDisk(capacity int64) *Disk {
	return &Disk{
		capacity:  capacity,
		volumes:   map[backend.VolumeID]*volume{},
		snapshots: map[backend.SnapshotID]snapshot{},
		staging:   map[string]struct{}{},
	}
}

// Backend serves one Disk.
type Backend struct {
	disk *Disk
	step backend.StepFunc
}

// Open opens a disk, which no other Backend may have open.
func Open(disk *Disk, step backend.StepFunc) (*Backend, error) {
	disk.mu.Lock()
	defer disk.mu.Unlock()
	if disk.locked {
		return nil, errors.New("open disk: another backend has it open")
	}
	disk.locked = true
	return &Backend{disk: disk, step: step}, nil
}

// Recover implements backend.Backend.
func (b *Backend) Recover(context.Context) (backend.Inventory, error) {
	b.step.At("empty staging")
	b.disk.mu.Lock()
	defer b.disk.mu.Unlock()
	clear(b.disk.staging)
	var inventory backend.Inventory
	for _, v := range b.disk.volumes {
		inventory.Volumes = append(inventory.Volumes, v.Volume)
	}
	for _, s := range b.disk.snapshots {
		inventory.Snapshots = append(inventory.Snapshots, s.Snapshot)
	}
	return inventory, nil
}

// Limits implements backend.Backend. There are no parameters.
func (b *Backend) Limits(profile backend.Profile) (backend.Limits, error) {
	if err := refuseKeys("parameters", profile.Parameters); err != nil {
		return backend.Limits{}, err
	}
	if profile.FSType != "" {
		return backend.Limits{}, fmt.Errorf("fs_type: %q: the memory backend has no filesystems; leave it empty: %w", profile.FSType, backend.ErrInvalid)
	}
	return backend.Limits{Default: defaultSize, Min: kib, Max: maxSize, Granularity: kib}, nil
}

func refuseKeys(field string, parameters map[string]string) error {
	if len(parameters) == 0 {
		return nil
	}
	return fmt.Errorf("%s: %q: the memory backend has none; leave them out: %w", field, slices.Sorted(maps.Keys(parameters)), backend.ErrInvalid)
}

// Available implements backend.Backend.
func (b *Backend) Available(_ context.Context, profile backend.Profile) (int64, error) {
	if _, err := b.Limits(profile); err != nil {
		return 0, err
	}
	b.disk.mu.Lock()
	defer b.disk.mu.Unlock()
	return b.disk.available(), nil
}

func (d *Disk) available() int64 {
	left := d.capacity
	for _, v := range d.volumes {
		left -= v.Capacity
	}
	return max(left, 0)
}

// CreateVolume implements backend.Backend.
func (b *Backend) CreateVolume(ctx context.Context, spec backend.VolumeSpec, progress *backend.Progress) (backend.Volume, error) {
	made := &volume{Volume: backend.Volume{VolumeSpec: spec, CreatedAt: time.Now(), OnDevice: spec.Mode == backend.Block}}
	build := func() error {
		switch source := spec.Source; {
		case !source.Snapshot.IsZero():
			made.content = b.disk.snapshots[source.Snapshot].content
		case !source.Volume.IsZero():
			made.content = b.disk.volumes[source.Volume].content
		}
		progress.Add(int64(len(made.content)))
		return nil
	}
	err := b.commit(ctx, spec.ID.String(), build, func() error {
		if spec.Capacity > b.disk.available() {
			return fmt.Errorf("create %s: the disk is full: %w", spec.ID, backend.ErrExhausted)
		}
		b.disk.volumes[spec.ID] = made
		return nil
	})
	return made.Volume, err
}

// CreateSnapshot implements backend.Backend.
func (b *Backend) CreateSnapshot(ctx context.Context, spec backend.SnapshotSpec, progress *backend.Progress) (backend.Snapshot, error) {
	if err := refuseKeys("parameters", spec.Parameters); err != nil {
		return backend.Snapshot{}, err
	}
	made := snapshot{Snapshot: backend.Snapshot{SnapshotSpec: spec, CreatedAt: time.Now()}}
	build := func() error {
		source, exists := b.disk.volumes[spec.Source]
		if !exists {
			return fmt.Errorf("snapshot %s: %w", spec.Source, backend.ErrNotFound)
		}
		made.Mode, made.Size, made.content = source.Mode, source.Capacity, source.content
		progress.Add(int64(len(made.content)))
		return nil
	}
	err := b.commit(ctx, spec.ID.String(), build, func() error {
		b.disk.snapshots[spec.ID] = made
		return nil
	})
	return made.Snapshot, err
}

// commit stages, builds and commits one object. The disk's mutex is not held
// at the steps, so that other operations go on while a test stops this one.
func (b *Backend) commit(ctx context.Context, id string, build, publish func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b.step.At("stage " + id)
	b.locked(func() { b.disk.staging[id] = struct{}{} })
	b.step.At("build " + id)
	var err error
	b.locked(func() { err = build() })
	b.step.At("commit " + id)
	b.locked(func() {
		delete(b.disk.staging, id)
		if err = errors.Join(err, ctx.Err()); err == nil {
			err = publish()
		}
	})
	return err
}

func (b *Backend) locked(f func()) {
	b.disk.mu.Lock()
	defer b.disk.mu.Unlock()
	f()
}

// ExpandVolume implements backend.Backend.
func (b *Backend) ExpandVolume(_ context.Context, id backend.VolumeID, capacity int64) (grown backend.Volume, err error) {
	b.step.At("expand " + id.String())
	b.locked(func() {
		v, exists := b.disk.volumes[id]
		switch {
		case !exists:
			err = fmt.Errorf("expand %s: %w", id, backend.ErrNotFound)
		case capacity-v.Capacity > b.disk.available():
			err = fmt.Errorf("expand %s: the disk is full: %w", id, backend.ErrExhausted)
		default:
			v.Capacity = capacity
			grown = v.Volume
		}
	})
	return grown, err
}

// DeleteVolume implements backend.Backend.
func (b *Backend) DeleteVolume(_ context.Context, id backend.VolumeID) error {
	b.step.At("delete " + id.String())
	b.locked(func() { delete(b.disk.volumes, id) })
	return nil
}

// DeleteSnapshot implements backend.Backend.
func (b *Backend) DeleteSnapshot(_ context.Context, id backend.SnapshotID) error {
	b.step.At("delete " + id.String())
	b.locked(func() { delete(b.disk.snapshots, id) })
	return nil
}

// Attach implements backend.Backend. There is nothing that could be mounted;
// the Mount names the volume.
func (b *Backend) Attach(_ context.Context, id backend.VolumeID) (backend.Mount, error) {
	err := b.withVolume(id, func(v *volume) { v.attached = true })
	return mountOf(id), err
}

// Attached implements backend.Backend.
func (b *Backend) Attached(_ context.Context, id backend.VolumeID) (mount backend.Mount, attached bool, err error) {
	err = b.withVolume(id, func(v *volume) { attached = v.attached })
	if attached {
		mount = mountOf(id)
	}
	return mount, attached, err
}

func mountOf(id backend.VolumeID) backend.Mount {
	return backend.Mount{Source: "/memory/" + id.String()}
}

// Detach implements backend.Backend.
func (b *Backend) Detach(_ context.Context, id backend.VolumeID) error {
	_ = b.withVolume(id, func(v *volume) { v.attached = false }) // absent is detached
	return nil
}

// Close implements backend.Backend.
func (b *Backend) Close() error {
	b.locked(func() { b.disk.locked = false })
	return nil
}

// SetContent replaces what a volume holds, as a pod would.
func (b *Backend) SetContent(id backend.VolumeID, content string) error {
	return b.withVolume(id, func(v *volume) { v.content = content })
}

// Content returns what a volume holds.
func (b *Backend) Content(id backend.VolumeID) (content string, err error) {
	err = b.withVolume(id, func(v *volume) { content = v.content })
	return content, err
}

func (b *Backend) withVolume(id backend.VolumeID, use func(*volume)) (err error) {
	b.locked(func() {
		if v, exists := b.disk.volumes[id]; exists {
			use(v)
		} else {
			err = fmt.Errorf("open %s: %w", id, backend.ErrNotFound)
		}
	})
	return err
}

// Uncommitted returns how many objects lie about half built.
func (d *Disk) Uncommitted() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.staging)
}
