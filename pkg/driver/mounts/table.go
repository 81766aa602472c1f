package mounts

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

// btrfs is a filesystem whose mounts are found in another way than all others'.
const btrfs = "btrfs"

// InUse says whether the volume, or a part of it, is mounted anywhere, or has a
// read-only device, which goes when the volume is unstaged.
func InUse(m backend.Mount) (bool, error) {
	if m.Source == "" {
		return false, nil // not attached, so there is nothing to mount
	}
	if reader, err := Reader(m.Source); err != nil || reader != "" {
		return true, err
	}
	table, err := readTable()
	if err != nil {
		return false, err
	}
	uses, err := table.usesOf(m)
	return len(uses) > 0, err
}

// Elsewhere returns where the volume is mounted as a whole, other than at the
// given paths. Parts of it mounted by others (the subPath of a pod) do not
// count: they belong to a mount of the whole.
func Elsewhere(m backend.Mount, except ...string) ([]string, error) {
	table, err := readTable()
	if err != nil {
		return nil, err
	}
	uses, err := table.usesOf(m)
	if err != nil {
		return nil, err
	}
	var places []place
	for _, path := range except {
		parent, err := table.locate(filepath.Dir(path))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		places = append(places, place{parent.filesystem, filepath.Join(parent.path, filepath.Base(path))})
	}
	var elsewhere []string
	for _, use := range uses {
		// Compared by place: where a directory is visible twice (a bind-mounted
		// kubelet directory), so is every mount in it.
		if use.whole && !slices.Contains(places, use.at) {
			elsewhere = append(elsewhere, use.mount.Mountpoint)
		}
	}
	return elsewhere, nil
}

// use is a mount of a volume or of a part of it.
type use struct {
	mount *mountinfo.Info
	at    place
	whole bool
}

// usesOf returns every mount of m.
func (t table) usesOf(m backend.Mount) ([]use, error) {
	var source unix.Stat_t
	switch err := unix.Stat(m.Source, &source); {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil // not attached, so there is nothing to mount
	case err != nil:
		return nil, fmt.Errorf("look at %q: %w", m.Source, err)
	}
	if isDevice(&source) {
		devices, err := devicesOf(m.Source, source.Rdev)
		return t.usesOfDevices(devices), err
	}
	directory, err := t.locate(m.Source)
	if err != nil {
		return nil, err
	}
	var uses []use
	for _, info := range t {
		root := rootOf(info)
		if root.filesystem == directory.filesystem && within(directory.path, root.path) {
			uses = append(uses, t.use(info, root == directory))
		}
	}
	return uses, nil
}

// usesOfDevices returns the mounts of the filesystems on devices and the bind
// mounts of their nodes.
func (t table) usesOfDevices(devices []uint64) []use {
	var uses []use
	for _, info := range t {
		switch {
		case slices.Contains(devices, deviceOf(info)):
			uses = append(uses, t.use(info, info.Root == "/"))
		case info.FSType == "devtmpfs" || info.FSType == "tmpfs":
			// Device nodes live in these; and they never hang, as stat on a
			// network filesystem does when its server is away.
			var node unix.Stat_t
			if unix.Lstat(info.Mountpoint, &node) == nil && isDevice(&node) && slices.Contains(devices, node.Rdev) {
				uses = append(uses, t.use(info, true))
			}
		}
	}
	return uses
}

// deviceOf returns the number of the device that a mounted filesystem lies on.
// A btrfs may lie on several, and has a number of its own that is no device's;
// the kernel names one of its devices.
func deviceOf(info *mountinfo.Info) uint64 {
	var device unix.Stat_t
	if info.FSType == btrfs && unix.Stat(info.Source, &device) == nil {
		return device.Rdev
	}
	return unix.Mkdev(uint32(info.Major), uint32(info.Minor))
}

// liesOn says whether the filesystem at path lies on a device. The status of
// path tells, but of a btrfs.
func liesOn(path string, at *unix.Stat_t, m backend.Mount, device uint64) (bool, error) {
	if m.FSType != btrfs {
		return at.Dev == device, nil
	}
	t, err := readTable()
	if err != nil {
		return false, err
	}
	info, err := t.mountAt(path)
	return err == nil && deviceOf(info) == device, err
}

// table is the mount table by mount ID. Reading it is the only way to learn
// where a volume is mounted: the kernel answers such questions about a path,
// not about what is mounted.
type table map[int]*mountinfo.Info

func readTable() (table, error) {
	infos, err := mountinfo.GetMounts(nil)
	if err != nil {
		return nil, fmt.Errorf("read the mount table: %w", err)
	}
	t := make(table, len(infos))
	for _, info := range infos {
		t[info.ID] = info
	}
	return t, nil
}

// place is a path within a filesystem, wherever that is mounted.
type place struct {
	filesystem, path string
}

// rootOf returns what of which filesystem a mount shows.
func rootOf(info *mountinfo.Info) place {
	return place{fmt.Sprintf("%d:%d", info.Major, info.Minor), info.Root}
}

// below returns the place that is seen at path, which lies on the mount.
func below(info *mountinfo.Info, path string) (place, error) {
	relative, err := filepath.Rel(info.Mountpoint, path)
	if err != nil {
		return place{}, err
	}
	root := rootOf(info)
	return place{root.filesystem, filepath.Join(root.path, relative)}, nil
}

// locate returns the place that is seen at a path.
func (t table) locate(path string) (place, error) {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return place{}, err
	}
	info, err := t.mountAt(path)
	if err != nil {
		return place{}, err
	}
	return below(info, path)
}

// mountAt returns the mount that path lies on.
func (t table) mountAt(path string) (*mountinfo.Info, error) {
	var stat unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_MNT_ID, &stat); err != nil {
		return nil, fmt.Errorf("look at %q: %w", path, err)
	}
	info, listed := t[int(stat.Mnt_id)]
	if !listed {
		return nil, fmt.Errorf("mount %d of %q is not in the mount table", stat.Mnt_id, path)
	}
	return info, nil
}

// use describes a mount. Where its parent is not to be seen, the place of its
// mount point stays empty.
func (t table) use(info *mountinfo.Info, whole bool) use {
	u := use{mount: info, whole: whole}
	if parent, listed := t[info.Parent]; listed {
		u.at, _ = below(parent, info.Mountpoint)
	}
	return u
}
