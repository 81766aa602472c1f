package lvm

import (
	"cmp"
	"fmt"

	"github.com/snapdriver/snapdriver/internal/dm"
	"github.com/snapdriver/snapdriver/pkg/backend"
)

// PoolLimits say how far a pool may be filled before new volumes and snapshots,
// and growth, are refused. What exists goes on being written to. A zero field
// takes its default, which suits a small node.
type PoolLimits struct {
	// DataPercent: a pool of which as much is written refuses. What is left is
	// for the volumes that exist. Default 90.
	DataPercent int

	// MetadataPercent is the same for the pool's metadata. A pool that runs out
	// of them stops all writing, and takes more than space to mend. Default
	// 75, which lvm itself insists on in metadata of up to 16 MiB; in larger
	// ones it insists on 4 MiB, however large this is.
	MetadataPercent int

	// Overprovision is how much larger than the pool its volumes may be, taken
	// together. With 1 they can never fill it, snapshots apart. Default 10:
	// claims are guesses, and most of their volumes stay nearly empty.
	Overprovision float64

	// MetadataReserve is how many bytes of the volume group's metadata area
	// are kept for the administrator, who would otherwise have no room to move
	// or repair anything. Default 64 KiB, an eighth of the area that lvm makes
	// by default.
	MetadataReserve int64

	// Extension makes room before it runs out. Off by default: what else the
	// volume group is for, nobody here knows.
	Extension Extension
}

// DefaultPoolLimits returns the limits that suit a small node.
func DefaultPoolLimits() PoolLimits {
	return PoolLimits{DataPercent: 90, MetadataPercent: 75, Overprovision: 10, MetadataReserve: 64 << 10}
}

func (l PoolLimits) withDefaults() PoolLimits {
	defaults := DefaultPoolLimits()
	l.DataPercent = cmp.Or(l.DataPercent, defaults.DataPercent)
	l.MetadataPercent = cmp.Or(l.MetadataPercent, defaults.MetadataPercent)
	l.Overprovision = cmp.Or(l.Overprovision, defaults.Overprovision)
	l.MetadataReserve = cmp.Or(l.MetadataReserve, defaults.MetadataReserve)
	return l
}

func (l PoolLimits) validate() error {
	switch {
	case l.DataPercent < 1 || l.DataPercent > 100:
		return fmt.Errorf("limit of the pool's data: %d%%: give 1 to 100: %w", l.DataPercent, backend.ErrInvalid)
	case l.MetadataPercent < 1 || l.MetadataPercent > 100:
		return fmt.Errorf("limit of the pool's metadata: %d%%: give 1 to 100: %w", l.MetadataPercent, backend.ErrInvalid)
	case !(l.Overprovision > 0 && l.Overprovision <= maxOverprovision): // NaN is not either
		return fmt.Errorf("limit of overprovisioning: %g: give more than 0 and at most %d: %w", l.Overprovision, maxOverprovision, backend.ErrInvalid)
	case l.MetadataReserve < 0:
		return fmt.Errorf("reserve of the volume group's metadata area: %d bytes: give 0 or more: %w", l.MetadataReserve, backend.ErrInvalid)
	}
	return l.Extension.validate()
}

// maxOverprovision keeps sums of bytes far from the end of int64.
const maxOverprovision = 1000

// promises returns how large the volumes in a pool of that size may be, taken
// together, in bytes.
func (l PoolLimits) promises(size int64) int64 { return int64(l.Overprovision * float64(size)) }

// refusal returns why a pool in this state takes nothing new; nil: it does.
// ErrExhausted always, so that the volume may yet be made on another node.
func (l PoolLimits) refusal(p *pool, state poolState) error {
	var reason string
	switch {
	case state.Mode == dm.PoolFailed:
		reason = "its metadata cannot be read: repair it (lvconvert --repair)"
	case state.NeedsCheck:
		reason = "its metadata need a check: deactivate it, and repair it (lvconvert --repair)"
	case state.Mode == dm.ReadOnly:
		reason = fmt.Sprintf("it is read-only, %s of its metadata are used: extend them (lvextend --poolmetadatasize)", percent(state.Metadata))
	case state.Mode == dm.OutOfDataSpace || reached(state.Data, l.DataPercent):
		reason = fmt.Sprintf("%s of its %s are used, the limit is %d%%: delete snapshots or volumes, or extend it (lvextend --size)",
			percent(state.Data), size(state.size), l.DataPercent)
	case l.metadataReached(state.Metadata):
		reason = fmt.Sprintf("%s of its %s of metadata are used, the limit is %d%%, or 4 MiB that are free: delete snapshots or volumes, or extend them (lvextend --poolmetadatasize)",
			percent(state.Metadata), size(state.Metadata.Total*dm.MetadataBlock), l.MetadataPercent)
	default:
		return nil
	}
	return fmt.Errorf("thin pool %s: %s: %w", p, reason, backend.ErrExhausted)
}

// reached says whether as much is used, in percent.
func reached(u dm.Usage, limit int) bool { return u.Used*100 >= u.Total*int64(limit) }

// metadataReached says whether the pool's metadata are used so far that nothing
// new is made. lvm refuses, too, while less than 4 MiB of them, or a quarter if
// that is less, are free.
func (l PoolLimits) metadataReached(u dm.Usage) bool {
	reserve := min(4<<20/dm.MetadataBlock, u.Total/4)
	return reached(u, l.MetadataPercent) || u.Total-u.Used <= reserve
}

func percent(u dm.Usage) string { return fmt.Sprintf("%.1f%%", 100*u.Ratio()) }
