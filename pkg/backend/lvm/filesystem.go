package lvm

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

// filesystem is a filesystem that volumes can have.
type filesystem struct {
	min     int64    // bytes; below, mkfs gives up or leaves the journal out
	mkfs    []string // arguments of mkfs, before the device
	options []string // mount options
}

// uuidArgument stands in filesystem.mkfs where the UUID goes.
const uuidArgument = "UUID"

// A volume is formatted while none of its blocks is mapped, so that all of it
// reads as zeros: nothing needs to be discarded, and what is known to be zero
// is not written, for each block written takes one from the pool for good.
var filesystems = map[string]filesystem{
	// Without "prezeroed" the kernel writes zeros to all inode tables after the
	// first mount, 1.6% of the volume. The block size is fixed, for small
	// volumes would get 1 KiB. With the resize inode it grows while it is
	// mounted, on every kernel; without, kernels before Linux 6.9 may lose data
	// then (CVE-2024-35807).
	"ext4": {
		min:  8 << 20,
		mkfs: []string{"-q", "-F", "-b", "4096", "-m", "0", "-O", "resize_inode", "-E", "nodiscard,assume_storage_prezeroed=1", "-U", uuidArgument},
	},
	// A restored volume and its source have one UUID, and XFS refuses to mount
	// the second of them, unless told not to care.
	"xfs": {min: 300 << 20, mkfs: []string{"-q", "-K", "-m", "uuid=" + uuidArgument}, options: []string{"nouuid"}},
	// The UUID is its label, by which an attempt that was cut off is known. Given
	// as a UUID, mkfs looks for it on every device of the node, and refuses when
	// a copy of such an attempt has it. The UUID itself is set afterwards, as that
	// of a restored volume is; see identify.
	"btrfs": {min: 128 << 20, mkfs: []string{"-q", "-K", "-L", uuidArgument}},
}

const (
	defaultFilesystem = "ext4"
	defaultSize       = 1 << 30

	// maxExtents is how many extents LVM counts in 32 bits; beyond, lvm 2.03
	// makes a volume of the size modulo that, and reports success.
	maxExtents = 1<<32 - 1
	// maxSize keeps sizes, and sums of two, within int64. It is more than the
	// kernel can address.
	maxSize = 1 << 62
)

// makeArguments returns the arguments of mkfs for a device.
func (f filesystem) makeArguments(id uuid.UUID, device string) []string {
	var arguments []string
	for _, argument := range f.mkfs {
		arguments = append(arguments, strings.Replace(argument, uuidArgument, id.String(), 1))
	}
	return append(arguments, device)
}

// newFilesystem returns what a new volume of this profile is formatted with;
// empty: it is a raw device. ErrInvalid when the profile cannot be served.
func newFilesystem(profile backend.Profile) (string, error) {
	if err := refuseParameters(profile.Parameters); err != nil {
		return "", err
	}
	if profile.Mode == backend.Block {
		if profile.FSType != "" {
			return "", fmt.Errorf("fs_type: %q: a block volume has no filesystem; leave fs_type out: %w", profile.FSType, backend.ErrInvalid)
		}
		return "", nil
	}
	if profile.FSType == "" {
		return defaultFilesystem, nil
	}
	if _, known := filesystems[profile.FSType]; !known {
		return "", fmt.Errorf("fs_type: %q is not on offer; allowed: %s: %w", profile.FSType, strings.Join(slices.Sorted(maps.Keys(filesystems)), ", "), backend.ErrInvalid)
	}
	return profile.FSType, nil
}

// refuseParameters names the parameters, of which none is allowed.
func refuseParameters(parameters map[string]string) error {
	if len(parameters) == 0 {
		return nil
	}
	return fmt.Errorf("parameters: %q: the lvm backend has none; leave them out: %w", slices.Sorted(maps.Keys(parameters)), backend.ErrInvalid)
}

// limitsOf returns the sizes of volumes with a filesystem, or without, in a
// volume group with extents of that many bytes.
func limitsOf(fsType string, extent int64) backend.Limits {
	up := func(size int64) int64 { return (size + extent - 1) / extent * extent }
	limits := backend.Limits{Min: up(max(filesystems[fsType].min, 1)), Max: maxSize / extent * extent, Granularity: extent}
	if extent < maxSize/maxExtents {
		limits.Max = maxExtents * extent
	}
	limits.Default = max(up(defaultSize), limits.Min)
	return limits
}
