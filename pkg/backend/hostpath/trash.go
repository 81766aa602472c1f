package hostpath

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

// batch is how many entries of a directory are listed at once.
const batch = 1024

// toTrash takes the object at name away by one rename and returns where it lies
// now, for removeTrash.
//
// A new entry of the trash may take a block, and on a full filesystem there is
// none. For two entries to change places takes none. So there is a spare
// directory, empty, that changes places with the object, and is then removed
// where that was. One object at a time: ErrBusy. As soon as it has made room,
// the others can go the usual way.
func (b *Backend) toTrash(name string) (trashed string, err error) {
	trashed = path.Join(trashDir, unique(path.Base(name)))
	err = b.moveToTrash(name, trashed)
	if !isFull(err) {
		return trashed, err
	}
	if !b.spare.TryLock() {
		return "", fmt.Errorf("the filesystem of %s is full and another deletion is making room; repeat the call later: %w", b.path, backend.ErrBusy)
	}
	if err = b.stock(); err == nil {
		b.step.At("exchange")
		err = b.renameat2(name, spareDir, unix.RENAME_EXCHANGE)
	}
	if err == nil {
		b.step.At("remove spare")
		if err = b.removeEmpty(name); err != nil {
			err = errors.Join(err, b.renameat2(name, spareDir, unix.RENAME_EXCHANGE))
		}
	}
	if err != nil {
		b.spare.Unlock()
		// What is missing is not the object: the first try has found it.
		return "", fmt.Errorf("change places with %s: %v", spareDir, err) //nolint:errorlint // so that it is not os.ErrNotExist
	}
	return spareDir, nil
}

// moveToTrash renames an object. What is missing then is the object or, when
// somebody has cleaned up in the root directory, the trash, which is made
// again. os.ErrNotExist means the object, and nothing else.
func (b *Backend) moveToTrash(name, trashed string) error {
	err := b.root.Rename(name, trashed)
	if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if _, missing := b.root.Lstat(name); missing != nil {
		return missing
	}
	if err := b.root.Mkdir(trashDir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if err := syncFile(b.root, "."); err != nil {
		return err
	}
	if err = b.root.Rename(name, trashed); errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s cannot be used: %v", path.Join(b.path, trashDir), err) //nolint:errorlint // the object exists
	}
	return err
}

// takeBack undoes toTrash, but for the spare directory, which the next one makes.
func (b *Backend) takeBack(trashed, name string) error {
	if trashed == spareDir {
		defer b.spare.Unlock()
	}
	return b.rename(trashed, name)
}

// removeEmpty removes a directory if it is empty, and nothing else.
func (b *Backend) removeEmpty(name string) error {
	parent, err := b.root.Open(path.Dir(name))
	if err != nil {
		return err
	}
	defer parent.Close()
	if err := unix.Unlinkat(int(parent.Fd()), path.Base(name), unix.AT_REMOVEDIR); err != nil {
		return &os.PathError{Op: "rmdir", Path: name, Err: err}
	}
	return nil
}

// removeTrash removes what lies at these paths in the trash, the spare
// directory or staging, with all that lies below it, or as much of it as it can
// before Close.
//
// It does not descend: it moves every directory that it meets up into the
// trash, beside the others. So neither a tree's depth nor the length of its
// paths matters, and no mount is ever entered: a mount point cannot be moved.
// Entries that do not go, for one with a mount below it, stay where they are
// until the next start.
func (b *Backend) removeTrash(paths ...string) {
	for len(paths) > 0 && !b.closing.Load() {
		last := len(paths) - 1
		next := paths[last]
		paths = paths[:last]
		moved, err := b.flatten(next)
		paths = append(paths, moved...)
		if next == spareDir {
			if err := b.stock(); err != nil {
				klog.ErrorS(err, "There is no spare directory; left to the next deletion on a full filesystem", "root", b.path)
			}
			b.spare.Unlock()
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			klog.ErrorS(err, "Cannot remove deleted data; left to the next start", "trash", next)
		}
	}
}

// stock makes sure that the spare directory is there, and empty. What could not
// be removed from it goes into the trash, where there may be room by now.
func (b *Backend) stock() error {
	left, err := b.list(spareDir)
	if len(left) > 0 {
		err = b.root.Rename(spareDir, path.Join(trashDir, unique(spareDir)))
	}
	if len(left) == 0 && err == nil {
		return nil
	}
	if err == nil || errors.Is(err, os.ErrNotExist) {
		err = b.root.Mkdir(spareDir, 0o700)
	}
	return err
}

// flatten removes a file or directory, but keeps the spare directory, and
// returns where in the trash the directories now lie that were in it.
func (b *Backend) flatten(name string) (moved []string, err error) {
	if name != spareDir {
		if err := b.root.Remove(name); !errors.Is(err, unix.ENOTEMPTY) {
			return nil, err
		}
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
	moved, err = b.empty(dir, trash, 0)
	switch {
	case err != nil || b.closing.Load():
		return moved, err
	case name == spareDir:
		return moved, nil
	}
	return moved, b.root.Remove(name)
}

// empty takes out everything that is in a directory, so many levels below
// another that is emptied.
func (b *Backend) empty(dir, trash *os.File, level int) (moved []string, err error) {
	for {
		entries, err := firstEntries(dir)
		if err != nil || len(entries) == 0 {
			return moved, err
		}
		gone := 0
		for _, entry := range entries {
			if b.closing.Load() {
				return moved, nil
			}
			var up []string
			up, err = b.takeOut(dir, trash, entry, level)
			moved = append(moved, up...)
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
// returns where it is now.
func (b *Backend) takeOut(dir, trash *os.File, entry string, level int) (moved []string, err error) {
	moved, err = unlinkOrMove(dir, trash, entry)
	if errors.Is(err, unix.EPERM) {
		// Root is refused because of attributes, and of nothing else.
		if err := errors.Join(unprotect(int(dir.Fd())), unprotectEntry(dir, entry)); err != nil {
			return nil, fmt.Errorf("remove the attributes of %q: %w", entry, err)
		}
		moved, err = unlinkOrMove(dir, trash, entry)
	}
	if isFull(err) && level < maxLevel {
		moved, err = b.emptyInPlace(dir, trash, entry, level)
	}
	if err != nil {
		return moved, fmt.Errorf("remove %q: %w", entry, err)
	}
	return moved, nil
}

// maxLevel bounds how many directories are open when there is no space to move
// them up. On the way down files were removed, so that there is some again.
const maxLevel = 100

// emptyInPlace removes an entry of dir that is a directory, and not a mount
// point: the kernel says so of that before it looks for space to move it.
func (b *Backend) emptyInPlace(dir, trash *os.File, entry string, level int) (moved []string, err error) {
	fd, err := unix.Openat(int(dir.Fd()), entry, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("openat", err)
	}
	inner := os.NewFile(uintptr(fd), entry)
	defer inner.Close()
	moved, err = b.empty(inner, trash, level+1)
	if err == nil && !b.closing.Load() {
		err = unix.Unlinkat(int(dir.Fd()), entry, unix.AT_REMOVEDIR)
	}
	return moved, err
}

func unlinkOrMove(dir, trash *os.File, entry string) (moved []string, err error) {
	err = unix.Unlinkat(int(dir.Fd()), entry, 0)
	if !errors.Is(err, unix.EISDIR) {
		return nil, err
	}
	up := unique("directory")
	if err := unix.Renameat(int(dir.Fd()), entry, int(trash.Fd()), up); err != nil {
		return nil, err
	}
	return []string{path.Join(trashDir, up)}, nil
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
