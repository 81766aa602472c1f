package hostpath

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
)

// batch is how many entries of a directory are listed at once.
const batch = 1024

// removeTrash removes entries of the trash with all that lies below them, or
// as much of it as it can before Close.
//
// It does not descend: it moves every directory that it meets up into the
// trash, beside the others. So neither a tree's depth nor the length of its
// paths matters, and no mount is ever entered: a mount point cannot be moved.
// Entries that do not go, for one with a mount below it, stay where they are
// until the next start.
func (b *Backend) removeTrash(names ...string) {
	for len(names) > 0 && !b.closing.Load() {
		last := len(names) - 1
		name := names[last]
		names = names[:last]
		moved, err := b.flatten(path.Join(trashDir, name))
		names = append(names, moved...)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			klog.ErrorS(err, "Cannot remove deleted data; left to the next start", "trash", name)
		}
	}
}

// flatten removes a file or directory and returns the names under which the
// directories that were in it now lie in the trash.
func (b *Backend) flatten(name string) (moved []string, err error) {
	if err := b.root.Remove(name); !errors.Is(err, unix.ENOTEMPTY) {
		return nil, err
	}
	dir, err := b.root.Open(name)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	trash, err := b.root.Open(trashDir)
	if err != nil {
		return nil, err
	}
	defer trash.Close()
	for {
		entries, err := firstEntries(dir)
		if err != nil {
			return moved, err
		}
		if len(entries) == 0 {
			return moved, b.root.Remove(name)
		}
		gone := 0
		for _, entry := range entries {
			if b.closing.Load() {
				return moved, nil
			}
			var up string
			up, err = takeOut(dir, trash, entry)
			if up != "" {
				moved = append(moved, up)
			}
			if err == nil {
				gone++
			}
		}
		if gone == 0 {
			return moved, err
		}
	}
}

// takeOut removes an entry of dir. A directory it moves up into the trash, and
// returns its name there.
func takeOut(dir, trash *os.File, entry string) (up string, err error) {
	up, err = unlinkOrMove(dir, trash, entry)
	if errors.Is(err, unix.EPERM) {
		// Root is refused because of attributes, and of nothing else.
		if err := errors.Join(unprotect(int(dir.Fd())), unprotectEntry(dir, entry)); err != nil {
			return "", fmt.Errorf("remove the attributes of %q: %w", entry, err)
		}
		up, err = unlinkOrMove(dir, trash, entry)
	}
	if err != nil {
		return "", fmt.Errorf("remove %q: %w", entry, err)
	}
	return up, nil
}

func unlinkOrMove(dir, trash *os.File, entry string) (up string, err error) {
	err = unix.Unlinkat(int(dir.Fd()), entry, 0)
	if !errors.Is(err, unix.EISDIR) {
		return "", err
	}
	up = unique("directory")
	return up, unix.Renameat(int(dir.Fd()), entry, int(trash.Fd()), up)
}

// The attributes of linux/fs.h with which chattr +i and +a keep a file from
// being removed.
const protection = 0x10 | 0x20 // FS_IMMUTABLE_FL | FS_APPEND_FL

// unprotect takes the protection from an open file or directory.
func unprotect(fd int) error {
	flags, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
	if err != nil || flags&protection == 0 {
		return os.NewSyscallError("ioctl", err)
	}
	return os.NewSyscallError("ioctl", unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, int(flags&^protection)))
}

// unprotectEntry takes the protection from an entry of a directory. Only files
// and directories have any; to open another kind could have effects.
func unprotectEntry(dir *os.File, entry string) error {
	var stat unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), entry, &stat, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return os.NewSyscallError("fstatat", err)
	}
	if kind := stat.Mode & unix.S_IFMT; kind != unix.S_IFREG && kind != unix.S_IFDIR {
		return nil
	}
	fd, err := unix.Openat(int(dir.Fd()), entry, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("openat", err)
	}
	defer unix.Close(fd)
	return unprotect(fd)
}

// firstEntries lists a directory's first entries anew: entries are removed
// between two calls, and a position in the old list means nothing.
func firstEntries(dir *os.File) ([]string, error) {
	if _, err := dir.Seek(0, 0); err != nil {
		return nil, err
	}
	entries, err := dir.Readdirnames(batch)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return entries, err
}
