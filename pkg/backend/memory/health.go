package memory

import (
	"context"
	"slices"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

// VolumeHealth implements backend.Backend.
func (b *Backend) VolumeHealth(_ context.Context, id backend.VolumeID) (conditions []backend.Condition, err error) {
	err = b.withVolume(id, func(v *volume) { conditions = slices.Clone(v.health) })
	return conditions, err
}

// StorageHealth implements backend.Backend.
func (b *Backend) StorageHealth(context.Context) (conditions []backend.Condition, err error) {
	b.locked(func() { conditions = slices.Clone(b.disk.health) })
	return conditions, nil
}

// Gauges implements backend.Backend.
func (b *Backend) Gauges(context.Context) ([]backend.Gauge, error) {
	b.disk.mu.Lock()
	defer b.disk.mu.Unlock()
	return []backend.Gauge{
		{Name: "capacity_bytes", Help: "Size of the disk.", Value: float64(b.disk.capacity)},
		{Name: "available_bytes", Help: "What volumes have not taken of the disk.", Value: float64(b.disk.available())},
	}, nil
}

// SetVolumeHealth makes a volume have these conditions, as a fault of the
// machine would.
func (b *Backend) SetVolumeHealth(id backend.VolumeID, conditions ...backend.Condition) error {
	return b.withVolume(id, func(v *volume) { v.health = conditions })
}

// SetStorageHealth makes the disk have these conditions.
func (b *Backend) SetStorageHealth(conditions ...backend.Condition) {
	b.locked(func() { b.disk.health = conditions })
}
