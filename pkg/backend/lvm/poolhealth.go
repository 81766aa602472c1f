package lvm

import (
	"errors"
	"fmt"

	"github.com/snapdriver/snapdriver/internal/dm"
	"github.com/snapdriver/snapdriver/pkg/backend"
)

// conditions returns what is wrong with the pool now. The watermarks are those
// from which on nothing new is made.
func (p *pool) conditions() ([]backend.Condition, error) {
	state, err := p.state()
	conditions, err := p.faults(state, err)
	if err != nil || len(conditions) > 0 && state.Mode != dm.ReadOnly && state.Mode != dm.OutOfDataSpace {
		return conditions, err
	}
	if reached(state.Data, p.limits.DataPercent) {
		conditions = append(conditions, condition(backend.Degraded, "PoolDataLow",
			"%s of the pool's %s are used: delete snapshots, or run lvextend --size +SIZE %s", percent(state.Data), size(state.size), p))
	}
	if p.limits.metadataReached(state.Metadata) {
		conditions = append(conditions, condition(backend.Degraded, "PoolMetadataLow",
			"%s of the pool's metadata are used: delete snapshots, or run lvextend --poolmetadatasize +SIZE %s", percent(state.Metadata), p))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if free := p.area.free(); !p.area.fits(1, p.limits.MetadataReserve) {
		conditions = append(conditions, condition(backend.Degraded, "VolumeGroupMetadataLow",
			"%s of the volume group's metadata area are free: delete snapshots or volumes", size(free)))
	}
	return conditions, nil
}

// faults returns what keeps the volumes of a pool from being used as they
// should be, given what state has returned.
func (p *pool) faults(state poolState, err error) ([]backend.Condition, error) {
	fault := func(reason, format string, args ...any) ([]backend.Condition, error) {
		return []backend.Condition{condition(backend.Inaccessible, reason, format, args...)}, nil
	}
	switch {
	case errors.Is(err, dm.ErrNotFound):
		return fault("PoolInactive", "the kernel does not have the pool: run lvchange -ay %s", p)
	case err != nil:
		return nil, err
	case state.Mode == dm.PoolFailed:
		return fault("PoolFailed", "the pool's metadata cannot be read: deactivate it and run lvconvert --repair %s", p)
	case state.NeedsCheck:
		return fault("PoolNeedsCheck", "the pool is read-only until its metadata are checked: deactivate it and run lvconvert --repair %s", p)
	case state.Mode == dm.ReadOnly:
		return fault("PoolReadOnly", "the pool's metadata are full and writing fails: run lvextend --poolmetadatasize +SIZE %s", p)
	case state.Mode == dm.OutOfDataSpace:
		return fault("PoolFull", "the pool is full and writing fails: delete snapshots, or run lvextend --size +SIZE %s", p)
	}
	return nil, nil
}

func condition(severity backend.Severity, reason, format string, args ...any) backend.Condition {
	return backend.Condition{Severity: severity, Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// gauges returns the pool's figures.
func (p *pool) gauges() ([]backend.Gauge, error) {
	state, err := p.state()
	if err != nil {
		return nil, err
	}
	writable := 0.0
	if state.Mode == dm.ReadWrite {
		writable = 1
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return []backend.Gauge{
		{Name: "pool_size_bytes", Help: "Size of the thin pool.", Value: float64(state.size)},
		{Name: "pool_data_used_ratio", Help: "Part of the thin pool that is written.", Value: state.Data.Ratio()},
		{Name: "pool_metadata_used_ratio", Help: "Part of the thin pool's metadata that is used.", Value: state.Metadata.Ratio()},
		{Name: "pool_writable", Help: "1 while the thin pool can be written to, 0 when it is full, read-only or failed.", Value: writable},
		{Name: "pool_promised_bytes", Help: "Sizes of all volumes in the thin pool, as if they were full.", Value: float64(p.promised)},
		{Name: "pool_overprovision_ratio", Help: "How much larger than the thin pool its volumes are, taken together.", Value: float64(p.promised) / float64(state.size)},
		{Name: "vg_free_bytes", Help: "Space of the volume group that no logical volume has, when lvm was last asked.", Value: float64(p.groupFree)},
		{Name: "vg_metadata_size_bytes", Help: "Size of the volume group's metadata area.", Value: float64(p.area.size)},
		{Name: "vg_metadata_free_bytes", Help: "Text that the volume group's metadata area has room for, at least.", Value: float64(max(p.area.free(), 0))},
	}, nil
}
