package snapshotcore

import (
	"fmt"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

// pickSize returns the size in bytes of a new volume, given the capacity range
// of the request (0: not given), what the backend can make, and the size of
// the source (0: no source). CSI CreateVolume: the range is always honoured,
// also with a source; a volume is never smaller than its source.
func pickSize(required, limit int64, limits backend.Limits, source int64) (int64, error) {
	if err := CheckRange(required, limit); err != nil {
		return 0, err
	}
	size := required
	if size == 0 {
		size = max(source, limits.Min)
		if source == 0 {
			size = max(limits.Default, limits.Min)
			if limit > 0 && limit < size {
				size = max(limit-limit%limits.Granularity, limits.Min)
			}
		}
	}
	if size < source {
		return 0, fmt.Errorf("capacity_range.required_bytes: %d is less than the source, which has %d: ask for at least that: %w", size, source, backend.ErrOutOfRange)
	}
	// Checked before rounding up, which could overflow.
	if size > limits.Max {
		return 0, fmt.Errorf("capacity_range.required_bytes: %d is more than a volume of this kind can have, which is %d: %w", size, limits.Max, backend.ErrOutOfRange)
	}
	size = roundUp(max(size, limits.Min), limits.Granularity)
	if limit > 0 && size > limit {
		return 0, fmt.Errorf("capacity_range.limit_bytes: the smallest volume that serves has %d bytes (multiples of %d, at least %d), the limit is %d: %w",
			size, limits.Granularity, limits.Min, limit, backend.ErrOutOfRange)
	}
	return size, nil
}

// CheckRange refuses a capacity range, in bytes (0: not given), that no volume
// can satisfy: ErrInvalid. CSI CapacityRange.
func CheckRange(required, limit int64) error {
	switch {
	case required < 0:
		return fmt.Errorf("capacity_range.required_bytes: %d is negative: %w", required, backend.ErrInvalid)
	case limit < 0:
		return fmt.Errorf("capacity_range.limit_bytes: %d is negative: %w", limit, backend.ErrInvalid)
	case limit > 0 && required > limit:
		return fmt.Errorf("capacity_range: required_bytes %d is more than limit_bytes %d: %w", required, limit, backend.ErrInvalid)
	}
	return nil
}

// fits says whether a volume of this size satisfies a capacity range.
func fits(size, required, limit int64) bool {
	return size >= required && (limit == 0 || size <= limit)
}

func roundUp(size, granularity int64) int64 {
	return (size + granularity - 1) / granularity * granularity
}
