package hostpath

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/pkg/backend/hostpath/treecopy"
)

// batch is how many entries of a directory are listed at once.
const batch = 1024

// emptying is what is under way with a directory that is removed.
type emptying struct {
	closing *atomic.Bool // says when to stop
	top     *os.File     // the directory
	trash   *os.File     // where the directories in it go
	moved   []string     // their paths now
}

// empty takes out everything that is in a directory, so many levels below top.
//
// Entries are removed while the list is read, which a filesystem may then leave
// out of it, and others are moved there. So it is read again until there is
// nothing in it, but not before its end: ext4 looks through all the blocks of
// those that were removed for the first that is left.
func (e *emptying) empty(dir *os.File, level int) error {
	for {
		if _, err := dir.Seek(0, io.SeekStart); err != nil {
			return err
		}
		gone, err := e.readOn(dir, level)
		if gone == 0 || e.closing.Load() {
			return err
		}
	}
}

// readOn takes out what is in the rest of a directory's list, or as much of it as
// it can, and returns how many entries that are.
func (e *emptying) readOn(dir *os.File, level int) (gone int, err error) {
	for {
		entries, end := dir.Readdirnames(batch)
		for _, entry := range entries {
			if e.closing.Load() {
				return gone, nil
			}
			if failed := e.takeOut(dir, entry, level); failed != nil {
				err = failed
			} else {
				gone++
			}
		}
		if errors.Is(end, io.EOF) {
			return gone, err
		}
		if end != nil {
			return 0, end
		}
	}
}

// takeOut removes an entry of dir. A directory it moves up.
func (e *emptying) takeOut(dir *os.File, entry string, level int) error {
	err := e.unlinkOrMove(dir, entry)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EROFS) {
		// Root is refused because of attributes, or a subvolume's flag, and of
		// nothing else.
		if failed := errors.Join(unprotect(int(dir.Fd())), unprotectEntry(dir, entry)); failed != nil {
			return fmt.Errorf("remove %q: %w, and its attributes: %w", entry, err, failed)
		}
		err = e.unlinkOrMove(dir, entry)
	}
	if (isFull(err) || errors.Is(err, unix.EXDEV)) && level < maxLevel {
		err = e.emptyInPlace(dir, entry, level)
	}
	if err != nil {
		return fmt.Errorf("remove %q: %w", entry, err)
	}
	return nil
}

// maxLevel bounds how many directories are open when none can be moved up. If
// it is for want of space: on the way down files were removed, so that there is
// some again.
const maxLevel = 100

// emptyInPlace removes an entry of dir that is a directory, and not a mount
// point: the kernel says so of that before it looks for space to move it, or
// whether it may go there.
func (e *emptying) emptyInPlace(dir *os.File, entry string, level int) error {
	fd, err := treecopy.OpenWithin(int(dir.Fd()), entry, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return os.NewSyscallError("openat2", err)
	}
	inner := os.NewFile(uintptr(fd), entry)
	defer inner.Close()
	if err := e.empty(inner, level+1); err != nil || e.closing.Load() {
		return err
	}
	return unix.Unlinkat(int(dir.Fd()), entry, unix.AT_REMOVEDIR)
}

// unlinkOrMove removes an entry of dir, or moves it up if it is a directory:
// into the trash or, where that is EXDEV, out of a btrfs subvolume for one,
// into top.
func (e *emptying) unlinkOrMove(dir *os.File, entry string) error {
	err := unix.Unlinkat(int(dir.Fd()), entry, 0)
	if !errors.Is(err, unix.EISDIR) {
		return err
	}
	up := unique("directory")
	err = unix.Renameat(int(dir.Fd()), entry, int(e.trash.Fd()), up)
	if err == nil {
		e.moved = append(e.moved, path.Join(trashDir, up))
	}
	if errors.Is(err, unix.EXDEV) && dir != e.top {
		err = unix.Renameat(int(dir.Fd()), entry, int(e.top.Fd()), up)
	}
	return err
}

// The attributes of linux/fs.h with which chattr +i and +a keep a file from
// being removed.
const protection = 0x10 | 0x20 // FS_IMMUTABLE_FL | FS_APPEND_FL

// unprotect takes the protection from an open file or directory, and the
// read-only flag from a subvolume, which comes first: with it no other changes.
func unprotect(fd int) error {
	if err := makeWritable(fd); err != nil {
		return err
	}
	flags, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
	if err != nil || flags&protection == 0 {
		return os.NewSyscallError("ioctl", err)
	}
	return os.NewSyscallError("ioctl", unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, int(flags&^protection)))
}

// From linux/btrfs.h.
const (
	btrfsGetSubvolumeFlags = 0x80089419 // BTRFS_IOC_SUBVOL_GETFLAGS
	btrfsSetSubvolumeFlags = 0x4008941a // BTRFS_IOC_SUBVOL_SETFLAGS
	btrfsReadOnly          = 2          // BTRFS_SUBVOL_RDONLY
)

// makeWritable takes the read-only flag from a btrfs subvolume. Of what is none,
// it changes nothing.
func makeWritable(fd int) error {
	var flags uint64
	ioctl := func(request uintptr) error {
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(&flags))); errno != 0 {
			return os.NewSyscallError("ioctl", errno)
		}
		return nil
	}
	if err := ioctl(btrfsGetSubvolumeFlags); err != nil || flags&btrfsReadOnly == 0 {
		return nil // not a subvolume
	}
	flags &^= btrfsReadOnly
	return ioctl(btrfsSetSubvolumeFlags)
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
	fd, err := treecopy.OpenWithin(int(dir.Fd()), entry, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return os.NewSyscallError("openat2", err)
	}
	defer unix.Close(fd)
	return unprotect(fd)
}
