package lvm

import (
	"context"
	"errors"
	"fmt"

	"github.com/snapdriver/snapdriver/internal/dm"
	"github.com/snapdriver/snapdriver/pkg/backend"
)

// VolumeHealth implements backend.Backend. What is wrong with the pool is wrong
// with each of its volumes.
func (b *Backend) VolumeHealth(_ context.Context, id backend.VolumeID) ([]backend.Condition, error) {
	if reason := b.index.reason(id.String()); reason != nil {
		return []backend.Condition{condition(backend.Inaccessible, "RecordUnusable", "it cannot be served: %v", reason)}, nil
	}
	if _, found := b.index.get(id.String()); !found {
		return nil, fmt.Errorf("look at the health of %s: %w", id, backend.ErrNotFound)
	}
	conditions, err := b.pool.faults(b.pool.state())
	if err == nil && len(conditions) == 0 {
		conditions, err = b.deviceHealth(id.String())
	}
	if err != nil {
		return nil, fmt.Errorf("look at the health of %s: %w", id, err)
	}
	return conditions, nil
}

// deviceHealth returns what is wrong with the device of a volume; nothing if it
// has none, for then nobody uses it.
func (b *Backend) deviceHealth(id string) ([]backend.Condition, error) {
	_, targets, err := b.status(id)
	if errors.Is(err, dm.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if _, err := thinOf(targets); err != nil {
		return []backend.Condition{condition(backend.Inaccessible, "DeviceReplaced", "its device is not the thin volume that lvm makes: %v", err)}, nil
	}
	return nil, nil
}

// thinOf reads the table of a device that should be one thin volume.
func thinOf(targets []dm.Target) (dm.Thin, error) {
	if len(targets) != 1 || targets[0].Type != dm.ThinTarget {
		var types []string
		for _, target := range targets {
			types = append(types, target.Type)
		}
		return dm.Thin{}, fmt.Errorf("its targets are %q", types)
	}
	return dm.ParseThin(targets[0].Status)
}

// StorageHealth implements backend.Backend.
func (b *Backend) StorageHealth(context.Context) ([]backend.Condition, error) {
	return b.pool.conditions()
}

// Gauges implements backend.Backend.
func (b *Backend) Gauges(context.Context) ([]backend.Gauge, error) { return b.pool.gauges() }
