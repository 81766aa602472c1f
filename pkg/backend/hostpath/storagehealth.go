package hostpath

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/internal/fshealth"
	"github.com/snapdriver/snapdriver/pkg/backend"
)

// Less than this of the root's filesystem free is a condition. They are what
// the kubelet goes by, unless it is told otherwise, to call a node short of disk
// and to evict pods from it (evictionHard: nodefs.available and
// nodefs.inodesFree): where the root is on the node's own filesystem, that is
// next. What image volumes have been promised and have not written yet comes
// on top of what is used.
const (
	scarceBytes  = 0.10
	scarceInodes = 0.05
)

// StorageHealth implements backend.Backend.
func (b *Backend) StorageHealth(context.Context) ([]backend.Condition, error) {
	if err := b.checkRoot(); err != nil {
		return b.cannotRead("RootUnreadable", err)
	}
	conditions, err := b.rootFilesystem()
	if err != nil {
		return nil, err
	}
	space, err := b.space()
	if err != nil {
		return nil, err
	}
	if space.available < scarceBytes*space.bytes {
		conditions = append(conditions, condition(backend.Degraded, "SpaceLow", "%s of %s are left (%.1f%%): free space, or make the filesystem larger",
			humanize.IBytes(uint64(space.available)), humanize.IBytes(uint64(space.bytes)), 100*space.available/space.bytes))
	}
	if space.freeInodes < scarceInodes*space.inodes {
		conditions = append(conditions, condition(backend.Degraded, "InodesLow", "%.0f of %.0f inodes are left (%.1f%%): delete files, or make the filesystem larger",
			space.freeInodes, space.inodes, 100*space.freeInodes/space.inodes))
	}
	return conditions, nil
}

// checkRoot says whether the root directory can be read, and is still the one
// that was opened: a volume's data are bound by their path.
func (b *Backend) checkRoot() error {
	opened, err := b.root.Stat(".")
	if err != nil {
		return err
	}
	found, err := os.Stat(b.path)
	if err != nil {
		return err
	}
	if !os.SameFile(opened, found) {
		return errors.New("another directory than at the start lies at the root's path: put the first one back, or start the driver anew")
	}
	for _, dir := range []string{volumesDir, snapshotsDir} {
		opened, err := b.root.OpenFile(dir, unix.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		_ = opened.Close()
	}
	return nil
}

// rootFilesystem returns what is wrong with the filesystem of the root, or with
// the mount of it.
func (b *Backend) rootFilesystem() ([]backend.Condition, error) {
	var stat unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, b.path, 0, unix.STATX_MNT_ID, &stat); err != nil {
		return nil, os.NewSyscallError("statx", err)
	}
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		found := m.ID == int(stat.Mnt_id)
		return !found, found
	})
	if err != nil || len(mounts) == 0 {
		return nil, err
	}
	conditions := fshealth.Conditions(mounts[0])
	if !slices.ContainsFunc(conditions, isInaccessible) && slices.Contains(strings.Split(mounts[0].Options, ","), "ro") {
		conditions = append(conditions, backend.Condition{
			Severity: backend.Inaccessible, Reason: "MountReadOnly",
			Message: "the root directory's filesystem is mounted read-only: mount -o remount,bind,rw where findmnt -T shows it",
		})
	}
	return conditions, nil
}

func isInaccessible(c backend.Condition) bool { return c.Severity == backend.Inaccessible }

// space is the size of the root's filesystem, and what is free of it. No
// inodes: it has no fixed number of them.
type space struct{ bytes, available, inodes, freeInodes float64 }

func (b *Backend) space() (space, error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(b.path, &stat); err != nil {
		return space{}, fmt.Errorf("ask for the free space of %s: %w", b.path, err)
	}
	block := float64(stat.Frsize)
	return space{float64(stat.Blocks) * block, float64(stat.Bavail) * block, float64(stat.Files), float64(stat.Ffree)}, nil
}

// Gauges implements backend.Backend.
func (b *Backend) Gauges(context.Context) ([]backend.Gauge, error) {
	space, err := b.space()
	if err != nil {
		return nil, err
	}
	aside, err := b.list(damagedDir)
	if err != nil {
		return nil, err
	}
	return append(b.freezes.gauges(), []backend.Gauge{
		{Name: "capacity_bytes", Help: "Size of the filesystem that holds the root directory.", Value: space.bytes},
		{Name: "available_bytes", Help: "Free space of that filesystem.", Value: space.available},
		{Name: "inodes", Help: "Inodes of that filesystem; 0 where it has no fixed number.", Value: space.inodes},
		{Name: "free_inodes", Help: "Free inodes of that filesystem.", Value: space.freeInodes},
		{Name: "damaged_objects", Help: "Objects that were set aside as damaged.", Value: float64(len(aside))},
	}...), nil
}
