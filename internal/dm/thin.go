package dm

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// The types of the targets of thin provisioning, and the words with which they
// say that they cannot tell more. The format of their status is that of the
// kernel's Documentation/admin-guide/device-mapper/thin-provisioning.rst.
const (
	ThinTarget     = "thin"
	ThinPoolTarget = "thin-pool"

	failed   = "Fail"
	unknown  = "Error"
	noDevice = "-"
)

// MetadataBlock is the size in bytes of the blocks in which a pool counts its
// metadata.
const MetadataBlock = 4096

var errFormat = errors.New("not of the form that the kernel documents")

// Thin is the state of a thin volume.
type Thin struct {
	// Mapped is how many bytes have blocks in the pool.
	Mapped int64

	// Failed: the pool's metadata are out of use; every request ends in an error.
	Failed bool
}

// ParseThin reads the status of a target "thin".
func ParseThin(status string) (Thin, error) {
	switch status {
	case failed, unknown, noDevice:
		return Thin{Failed: true}, nil
	}
	mapped, _, _ := strings.Cut(status, " ")
	sectors, err := strconv.ParseInt(mapped, 10, 64)
	if err != nil {
		return Thin{}, fmt.Errorf("status %q of a thin volume: %w", status, errFormat)
	}
	return Thin{Mapped: sectors * sectorSize}, nil
}

// PoolMode is what a pool still does.
type PoolMode string

// The modes of a pool, as its status names them.
const (
	ReadWrite      PoolMode = "rw"
	OutOfDataSpace PoolMode = "out_of_data_space"

	// ReadOnly: the metadata have no room, or could not be written.
	ReadOnly PoolMode = "ro"

	// PoolFailed: the metadata cannot be read; every request ends in an error.
	PoolFailed PoolMode = "failed"
)

// ThinPool is the state of a thin pool.
type ThinPool struct {
	Mode          PoolMode
	TransactionID uint64

	// Metadata are counted in blocks of MetadataBlock bytes, data in blocks of
	// the pool's chunk size. All are zero of a pool that failed.
	Metadata, Data Usage

	// ErrorIfNoSpace: without space a write fails at once. Otherwise it waits
	// for a minute, as long as dm_thin_pool.no_space_timeout says.
	ErrorIfNoSpace bool

	// NeedsCheck: the metadata are to be checked (thin_check) or repaired
	// (lvconvert --repair) before the pool is written to again.
	NeedsCheck bool
}

// Usage is how many blocks there are and how many of them are taken.
type Usage struct{ Used, Total int64 }

// Ratio returns which part is used, from 0 to 1.
func (u Usage) Ratio() float64 {
	if u.Total == 0 {
		return 0
	}
	return float64(u.Used) / float64(u.Total)
}

// ParseThinPool reads the status of a target "thin-pool".
func ParseThinPool(status string) (ThinPool, error) {
	if status == failed || status == unknown {
		return ThinPool{Mode: PoolFailed}, nil
	}
	pool, err := parseThinPool(strings.Fields(status))
	if err != nil {
		return ThinPool{}, fmt.Errorf("status %q of a thin pool: %w", status, err)
	}
	return pool, nil
}

// parseThinPool reads transaction ID, metadata, data, held root, mode,
// discards, policy, check, and whatever later kernels add.
func parseThinPool(fields []string) (pool ThinPool, err error) {
	const needed = 8
	if len(fields) < needed {
		return ThinPool{}, errFormat
	}
	if pool.TransactionID, err = strconv.ParseUint(fields[0], 10, 64); err != nil {
		return ThinPool{}, errFormat
	}
	if pool.Metadata, err = parseUsage(fields[1]); err != nil {
		return ThinPool{}, err
	}
	if pool.Data, err = parseUsage(fields[2]); err != nil {
		return ThinPool{}, err
	}
	switch pool.Mode = PoolMode(fields[4]); pool.Mode {
	case ReadWrite, ReadOnly, OutOfDataSpace:
	default:
		return ThinPool{}, errFormat
	}
	pool.ErrorIfNoSpace = fields[6] == "error_if_no_space"
	pool.NeedsCheck = fields[7] == "needs_check"
	return pool, nil
}

func parseUsage(text string) (Usage, error) {
	used, total, _ := strings.Cut(text, "/")
	var usage Usage
	var err error
	if usage.Used, err = strconv.ParseInt(used, 10, 64); err != nil {
		return Usage{}, errFormat
	}
	if usage.Total, err = strconv.ParseInt(total, 10, 64); err != nil {
		return Usage{}, errFormat
	}
	return usage, nil
}
