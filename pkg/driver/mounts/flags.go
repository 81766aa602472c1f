package mounts

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

// Flags are properties of one mount, as the bits that statfs(2) reports.
type Flags int64

// ReadOnly is the flag that keeps a mount from being written through.
const ReadOnly Flags = unix.ST_RDONLY

// allowed are the mount flags that a caller may ask for: those that belong to
// a mount rather than to a filesystem, so that they hold for a directory, an
// image and every bind mount alike. Zero: what Linux does anyway.
var allowed = map[string]Flags{
	"ro":         ReadOnly,
	"nosuid":     unix.ST_NOSUID,
	"nodev":      unix.ST_NODEV,
	"noexec":     unix.ST_NOEXEC,
	"noatime":    unix.ST_NOATIME,
	"nodiratime": unix.ST_NODIRATIME,
	"relatime":   0,
	"rw":         0,
}

// attributes are the same flags as mount_setattr(2) wants them.
var attributes = map[Flags]uint64{
	ReadOnly:           unix.MOUNT_ATTR_RDONLY,
	unix.ST_NOSUID:     unix.MOUNT_ATTR_NOSUID,
	unix.ST_NODEV:      unix.MOUNT_ATTR_NODEV,
	unix.ST_NOEXEC:     unix.MOUNT_ATTR_NOEXEC,
	unix.ST_NOATIME:    unix.MOUNT_ATTR_NOATIME,
	unix.ST_NODIRATIME: unix.MOUNT_ATTR_NODIRATIME,
}

// ParseFlags returns the flags that mount options ask for. ErrInvalid for one
// that is not allowed; the error has its place and not its text, any part of
// which may be a secret.
func ParseFlags(options []string) (Flags, error) {
	var flags Flags
	for i, option := range options {
		flag, known := allowed[option]
		if !known {
			return 0, fmt.Errorf("mount_flags[%d]: it is not among the allowed ones: %s: %w",
				i, strings.Join(slices.Sorted(maps.Keys(allowed)), ", "), backend.ErrInvalid)
		}
		flags |= flag
	}
	return flags, nil
}

// attr are the flags as mount_setattr(2) wants them.
func (f Flags) attr() *unix.MountAttr {
	var attr unix.MountAttr
	for flag, bit := range attributes {
		if f&flag != 0 {
			attr.Attr_set |= bit
		}
	}
	if f&unix.ST_NOATIME != 0 {
		attr.Attr_clr = unix.MOUNT_ATTR__ATIME // one of several values of a field, not a bit
	}
	return &attr
}

// FlagsOf returns the flags of the mount at path. Not those of its filesystem,
// as statfs(2) would: one that the kernel has made read-only after an error is
// still mounted as it was asked for.
func FlagsOf(path string) (Flags, error) {
	table, err := readTable()
	if err != nil {
		return 0, err
	}
	info, err := table.mountAt(path)
	if err != nil {
		return 0, err
	}
	var flags Flags
	for option := range strings.SplitSeq(info.Options, ",") {
		flags |= allowed[option]
	}
	return flags, nil
}

// Inherited returns the flags that a mount of m has without any being asked
// for: those of the mount that it is bound from.
func Inherited(m backend.Mount) (Flags, error) {
	if m.FSType == "" {
		return FlagsOf(m.Source)
	}
	return 0, nil
}
