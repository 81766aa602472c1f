package hostpath

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

// layout is how a volume lies on disk.
type layout string

const (
	layoutDirectory layout = "directory" // a directory, bound into the pod
	layoutImage     layout = "image"     // a filesystem in a file
	layoutBlock     layout = "block"     // a raw device in a file
)

// holds says whether a volume of this layout can have that filesystem on it;
// empty: none of its own.
func (l layout) holds(fsType string) bool {
	switch l {
	case layoutImage:
		_, known := filesystems[fsType]
		return known
	case layoutDirectory, layoutBlock:
		return fsType == ""
	}
	return false
}

// formats are those that a snapshot of a volume of this layout can have, the
// usual one first.
func (l layout) formats() []format {
	if l == layoutDirectory {
		return []format{formatTar, formatTarZstd}
	}
	return []format{formatImage}
}

// layoutKey is the StorageClass parameter that chooses between the layouts
// of a volume that is mounted.
const layoutKey = "layout"

// filesystem is a filesystem that image volumes can have.
type filesystem struct {
	min     int64    // bytes; below, mkfs gives up or leaves the journal out
	mkfs    []string // arguments of mkfs, before the file
	options []string // mount options
}

var filesystems = map[string]filesystem{
	// The block size is fixed, for what mkfs takes for small files (1 KiB)
	// makes every write on the node's filesystem a partial one. The file is
	// all holes: there is nothing to discard and no table to clear. With the
	// resize inode it grows while it is mounted, on every kernel; without,
	// kernels before Linux 6.9 may lose data then (CVE-2024-35807).
	"ext4": {min: 8 << 20, mkfs: []string{"-q", "-F", "-b", "4096", "-m", "0", "-O", "resize_inode", "-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1"}},
	// A restored volume and its source have one UUID, and XFS refuses to mount
	// the second of them, unless told not to care.
	"xfs": {min: 300 << 20, mkfs: []string{"-q", "-f", "-K"}, options: []string{"nouuid"}},
}

const defaultFilesystem = "ext4"

// kind is what a profile asks for.
type kind struct {
	layout layout
	fsType string // of layout image; empty: any
}

// parseProfile understands a profile or says, wrapping ErrInvalid, what is
// wrong with it.
func parseProfile(profile backend.Profile) (kind, error) {
	if err := refuseUnknown(profile.Parameters, layoutKey); err != nil {
		return kind{}, err
	}
	asked := layout(profile.Parameters[layoutKey])
	switch {
	case profile.Mode == backend.Block:
		return parseBlock(asked, profile.FSType)
	case asked == "" || asked == layoutDirectory:
		if profile.FSType != "" {
			return kind{}, fmt.Errorf("fs_type: %q: a volume of layout directory has the filesystem of the node; leave fs_type out, or set the parameter layout: image, which makes a filesystem for each volume: %w", profile.FSType, backend.ErrInvalid)
		}
		return kind{layout: layoutDirectory}, nil
	case asked == layoutImage:
		if _, known := filesystems[profile.FSType]; !known && profile.FSType != "" {
			return kind{}, fmt.Errorf("fs_type: %q is not on offer; allowed: %s: %w", profile.FSType, names(filesystems), backend.ErrInvalid)
		}
		return kind{layoutImage, profile.FSType}, nil
	}
	return kind{}, fmt.Errorf("parameters: layout: %q is not known; allowed: %s, %s: %w", asked, layoutDirectory, layoutImage, backend.ErrInvalid)
}

func parseBlock(asked layout, fsType string) (kind, error) {
	if asked != "" && asked != layoutImage {
		return kind{}, fmt.Errorf("parameters: layout: %q cannot be a block volume, which is always an image; leave layout out or use %s: %w", asked, layoutImage, backend.ErrInvalid)
	}
	if fsType != "" {
		return kind{}, fmt.Errorf("fs_type: %q: a block volume has no filesystem; leave fs_type out: %w", fsType, backend.ErrInvalid)
	}
	return kind{layout: layoutBlock}, nil
}

// refuseUnknown names the parameters that are not allowed, if any.
func refuseUnknown(parameters map[string]string, allowed string) error {
	for _, key := range slices.Sorted(maps.Keys(parameters)) {
		if key != allowed {
			return fmt.Errorf("parameters: %q is not a parameter of the hostpath backend; allowed: %s: %w", key, allowed, backend.ErrInvalid)
		}
	}
	return nil
}

func names[V any](m map[string]V) string {
	return strings.Join(slices.Sorted(maps.Keys(m)), ", ")
}

const (
	defaultSize = 1 << 30
	// pageSize is the granularity of images: no page of a device's cache and
	// no block of the filesystem below is ever shared with what is beyond the end.
	pageSize = 4096
	// maxImage is the largest file that ext4 can hold, in its usual blocks of
	// 4 KiB. XFS and btrfs hold larger ones; nothing here is known to.
	maxImage = 1<<44 - pageSize
)

func (k kind) limits() backend.Limits {
	switch k.layout {
	case layoutDirectory:
		// The size is a number on paper: taken as asked for, not rounded.
		return backend.Limits{Default: defaultSize, Min: 1, Max: math.MaxInt64, Granularity: 1}
	case layoutImage:
		return backend.Limits{Default: defaultSize, Min: filesystems[k.newFilesystem()].min, Max: maxImage, Granularity: pageSize}
	default:
		return backend.Limits{Default: defaultSize, Min: pageSize, Max: maxImage, Granularity: pageSize}
	}
}

// newFilesystem returns what an empty volume of layout image is formatted with.
func (k kind) newFilesystem() string {
	if k.fsType == "" {
		return defaultFilesystem
	}
	return k.fsType
}

// format is how a snapshot is stored.
type format string

const (
	formatTar     format = "tar"
	formatTarZstd format = "tar.zst"
	formatImage   format = "image"
)

// formatKey is the VolumeSnapshotClass parameter that chooses the format.
const formatKey = "format"

// parseFormat understands the parameters of a snapshot of a volume of layout
// of, or says, wrapping ErrInvalid, what is wrong with them.
func parseFormat(parameters map[string]string, of layout) (format, error) {
	if err := refuseUnknown(parameters, formatKey); err != nil {
		return "", err
	}
	allowed := of.formats()
	asked := format(parameters[formatKey])
	switch {
	case asked == "":
		return allowed[0], nil
	case slices.Contains(allowed, asked):
		return asked, nil
	}
	return "", fmt.Errorf("parameters: format: %q cannot hold a volume of layout %s; leave format out or use one of %q: %w", asked, of, allowed, backend.ErrInvalid)
}

// file returns the name of the file that holds a snapshot of this format.
func (f format) file() string {
	if f == formatImage {
		return imageFile
	}
	return "data." + string(f)
}
