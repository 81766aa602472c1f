package mounts

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

// Mount puts an attached volume at an existing empty directory, with flags
// beside those that its backend asks for. It is never formatted.
//
// Mount and Bind use the mount calls of Linux 5.12, and not mount(8), for two
// reasons. They prepare the mount out of sight: with "bind, then remount" a
// crash between the two leaves a writable mount where a read-only one was asked
// for, and a pod could write in that moment. And they end with this process: a
// mount(8) that outlives a driver that was killed could mount a volume over
// what the next one has mounted there meanwhile.
func Mount(m backend.Mount, path string, flags Flags) error {
	if m.FSType == "" {
		return Bind(m.Source, path, flags)
	}
	filesystem, err := openFilesystem(m)
	if err != nil {
		return fmt.Errorf("mount %s of %s: %w", m.FSType, m.Source, err)
	}
	return attach(path, flags, func() (int, error) {
		defer func() { _ = unix.Close(filesystem) }()
		return unix.Fsmount(filesystem, unix.FSMOUNT_CLOEXEC, 0)
	})
}

// openFilesystem opens the filesystem on a device, of which nothing is mounted
// yet. That may take long: it reads the device, and replays what a log has.
func openFilesystem(m backend.Mount) (int, error) {
	context, err := unix.Fsopen(m.FSType, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return 0, fmt.Errorf("the kernel does not have it: %w", err)
	}
	err = unix.FsconfigSetString(context, "source", m.Source)
	for _, option := range m.Options {
		if err == nil {
			err = unix.FsconfigSetFlag(context, option)
		}
	}
	if err == nil {
		err = unix.FsconfigCreate(context)
	}
	if err != nil {
		err = fmt.Errorf("%w; the kernel says: %q", err, kernelMessages(context))
		_ = unix.Close(context)
		return 0, err
	}
	return context, nil
}

// kernelMessages returns what the kernel has to say about a mount that failed.
func kernelMessages(context int) (messages []string) {
	for buf := make([]byte, 4<<10); ; {
		n, err := unix.Read(context, buf)
		if err != nil || n == 0 {
			return messages
		}
		messages = append(messages, strings.TrimSpace(string(buf[:n])))
	}
}

// Bind makes source, a directory or a device node, appear at an existing path,
// with flags beside those of the mount that source lies on.
func Bind(source, path string, flags Flags) error {
	from, err := openSource(source)
	if err != nil {
		return fmt.Errorf("open %q: %w", source, err)
	}
	return attach(path, flags, func() (int, error) {
		defer func() { _ = unix.Close(from) }()
		return unix.OpenTree(from, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	})
}

// openSource opens what Bind makes appear elsewhere, as a place. A symbolic link
// is followed to a device alone: udev makes such links. A directory in a place
// where others can make links is what it is.
func openSource(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	var stat unix.Stat_t
	if err = unix.Fstat(fd, &stat); err == nil && stat.Mode&unix.S_IFMT != unix.S_IFLNK {
		return fd, nil
	}
	_ = unix.Close(fd)
	if err != nil {
		return 0, err
	}
	if fd, err = unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0); err != nil {
		return 0, err
	}
	if err = unix.Fstat(fd, &stat); err == nil && !isDevice(&stat) {
		err = errors.New("it is a symbolic link, and not to a device")
	}
	if err != nil {
		_ = unix.Close(fd)
		return 0, err
	}
	return fd, nil
}

// attach puts what open returns, a mount that is nowhere yet, at a path, with
// flags beside those that it has.
//
// A program that another call starts meanwhile would hold the mount too, from
// fork to exec, and make an unmount that soon follows fail. So none is started,
// for the moment that this takes: nothing here waits for a disk.
func attach(path string, flags Flags, open func() (mount int, err error)) error {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	mount, err := open()
	if err != nil {
		return fmt.Errorf("open a mount: %w", err)
	}
	defer func() { _ = unix.Close(mount) }()
	if err := unix.MountSetattr(mount, "", unix.AT_EMPTY_PATH, flags.attr()); err != nil {
		return fmt.Errorf("set mount flags: %w", err)
	}
	if err := unix.MoveMount(mount, "", unix.AT_FDCWD, path, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount at %q: %w", path, err)
	}
	return nil
}

// Unmount takes away all that is mounted at path; nothing mounted, or no such
// path, is success. ErrPrecondition while a process uses it.
//
// It is the system call and not umount(8) because only the call can be told
// not to follow a symbolic link.
func Unmount(path string) error {
	pause := time.Millisecond
	for {
		switch err := unix.Unmount(path, unix.UMOUNT_NOFOLLOW); err {
		case nil: // perhaps there is another below
		case unix.EINVAL, unix.ENOENT, unix.ENOTDIR:
			return nil
		case unix.EBUSY:
			if pause > longestPause {
				return fmt.Errorf("unmount %q: a process still uses it: %w", path, backend.ErrPrecondition)
			}
			time.Sleep(pause)
			pause *= 2
		default:
			return fmt.Errorf("unmount %q: %w", path, err)
		}
	}
}

// longestPause is the last pause for which Unmount waits, each being twice the
// one before: whoever but looks at a path, as usesOfDevices does for the sake of
// other volumes, makes it busy for that moment.
const longestPause = 64 * time.Millisecond

// Mounted says whether something is mounted at path.
func Mounted(path string) (bool, error) {
	mounted, err := mountinfo.Mounted(path)
	if isAbsent(err) {
		return false, nil
	}
	return mounted, err
}

// Holds says whether the volume m is mounted or bound at path, or the read-only
// device over it is. A symbolic link holds nothing.
func Holds(path string, m backend.Mount) (bool, error) {
	mounted, err := Mounted(path)
	if err != nil || !mounted {
		return false, err
	}
	var at, source unix.Stat_t
	if err := unix.Lstat(path, &at); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil // unpublished meanwhile
		}
		return false, fmt.Errorf("look at %q: %w", path, err)
	}
	if at.Mode&unix.S_IFMT == unix.S_IFLNK {
		return false, nil
	}
	if err := unix.Stat(m.Source, &source); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		return false, fmt.Errorf("look at %q: %w", m.Source, err)
	}
	switch {
	case m.FSType != "":
		return liesOn(path, &at, m, source.Rdev)
	case isDevice(&source):
		if !isDevice(&at) {
			return false, nil
		}
		devices, err := devicesOf(m.Source, source.Rdev)
		return slices.Contains(devices, at.Rdev), err
	default:
		return at.Dev == source.Dev && at.Ino == source.Ino, nil
	}
}

// devicesOf returns the numbers of a device and of the read-only device over
// it, if any.
func devicesOf(path string, rdev uint64) ([]uint64, error) {
	devices := []uint64{rdev}
	reader, err := Reader(path)
	if err != nil || reader == "" {
		return devices, err
	}
	var stat unix.Stat_t
	if err := unix.Stat(reader, &stat); err != nil {
		return nil, fmt.Errorf("look at %q: %w", reader, err)
	}
	return append(devices, stat.Rdev), nil
}

func isDevice(stat *unix.Stat_t) bool { return stat.Mode&unix.S_IFMT == unix.S_IFBLK }

// DeviceSize returns the size of a block device in bytes.
func DeviceSize(path string) (int64, error) {
	device, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer device.Close()
	size, err := device.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, fmt.Errorf("find the end of %q: %w", path, err)
	}
	return size, nil
}
