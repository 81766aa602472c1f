package treecopy

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

const (
	// maxAttempts is how often a file that changes is read.
	maxAttempts = 3

	// maxXattrs is how many bytes of extended attributes, names and values, a
	// file is copied with. All of them are in memory at once.
	maxXattrs = 16 << 20

	// clockTick is more than a tick of the coarsest clock that a kernel takes
	// a file's times from. Two changes within one tick may leave the same
	// times.
	clockTick = 20 * time.Millisecond
)

// procSelf is where descriptors have names.
const procSelf = "/proc/self/fd"

// reader reads entries from a tree. Each goroutine has its own.
type reader struct {
	freezer *freezer
	proc    int    // procSelf, opened
	names   []byte // for the names of extended attributes
	value   []byte // for one of their values
}

func newReader(proc int, f *freezer) *reader {
	// The kernel's limits are XATTR_LIST_MAX and XATTR_SIZE_MAX.
	return &reader{f, proc, make([]byte, 64<<10), make([]byte, 64<<10)}
}

// read fills e, an entry of b, with what name is, and says whether there is
// anything to be kept. A small file's data goes to b.memory; a large file is
// left open.
//
// The name is opened as a mere place (O_PATH) first. That opens no device and
// waits for no fifo, and everything after that is about this one file,
// whatever becomes of its name.
func (r *reader) read(b *batch, name string, e *entry) (kept bool, err error) {
	place, err := OpenWithin(b.from.fd, name, unix.O_PATH)
	if vanished(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer unix.Close(place)
	var st unix.Stat_t
	if err := unix.Fstat(place, &st); err != nil {
		return false, err
	}
	e.setStat(&st)
	if st.Nlink > 1 {
		e.inode, e.links = identify(place, &st), uint32(st.Nlink)
	}
	switch e.kind() {
	case unix.S_IFDIR: // it was no directory a moment ago
		return false, nil
	case unix.S_IFREG:
		return r.readFile(b, place, &st, e)
	case unix.S_IFLNK:
		if e.target, err = readLink(place, st.Size); err != nil {
			return false, err
		}
	}
	path := procSelf + "/" + strconv.Itoa(place)
	e.xattrs, err = r.readXattrs(
		func(buf []byte) (int, error) { return unix.Listxattr(path, buf) },
		func(name string, buf []byte) (int, error) { return unix.Getxattr(path, name, buf) })
	return err == nil, err
}

func readLink(place int, size int64) (string, error) {
	buf := make([]byte, max(size, unix.PathMax)+1)
	n, err := unix.Readlinkat(place, "", buf)
	return string(buf[:max(n, 0)]), err
}

func (r *reader) readFile(b *batch, place int, st *unix.Stat_t, e *entry) (kept bool, err error) {
	file, err := withoutAtime(func(flags uint64) (int, error) {
		return unix.Openat(r.proc, strconv.Itoa(place), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|int(flags), 0)
	})
	if errors.Is(err, unix.EAGAIN) {
		// Somebody has a write lease on it, which the kernel takes back if one
		// waits (fcntl(2), F_SETLEASE). It is a regular file: nothing else can
		// make this wait.
		file, err = unix.Openat(r.proc, strconv.Itoa(place), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return false, err
	}
	c := &e.contents
	c.file, c.owned, c.live = file, true, true
	if err := r.openXattrs(file, e); err != nil {
		return false, err
	}
	if st.Size <= smallFile {
		return r.readSmall(b, *st, e)
	}
	return true, e.rescan()
}

// readSmall takes a small file without holes into memory. Before, it was as
// described.
func (r *reader) readSmall(b *batch, before unix.Stat_t, e *entry) (kept bool, err error) {
	c := &e.contents
	for attempt := 1; ; attempt++ {
		if before.Size > smallFile || before.Blocks*512 < before.Size {
			return true, e.rescan()
		}
		if c.live && recent(time.Now(), &before) {
			if frozen, err := r.freezer.freeze(e); err != nil {
				return false, err
			} else if frozen {
				before = c.seen
				continue
			}
		}
		buf := b.room(int(before.Size))
		n, err := readAt(c.file, buf, 0)
		if err != nil {
			return false, err
		}
		var after unix.Stat_t
		if err := unix.Fstat(c.file, &after); err != nil {
			return false, err
		}
		if c.live && !sameState(&before, &after) && attempt < maxAttempts {
			before = after
			continue
		}
		if c.live {
			e.setStat(&before)
		}
		c.close()
		c.setMemory(buf[:n])
		return true, nil
	}
}

// rescan brings e up to what its open file is now.
func (e *entry) rescan() error {
	if err := e.contents.scan(); err != nil {
		return err
	}
	if e.contents.live {
		e.setStat(&e.contents.seen)
	}
	return nil
}

// recent says whether a file had changed so lately, at an instant, that another
// change after that could go unnoticed.
func recent(at time.Time, st *unix.Stat_t) bool {
	return at.Sub(time.Unix(st.Ctim.Unix())) < clockTick
}

// freezer makes copies, by sharing blocks, of files that others write to.
type freezer struct {
	// directory is on the filesystem that the copies are to be on.
	directory string
	mover     *mover
}

// newFreezer returns a freezer for copies in the directory where, or beside the
// file where.
func newFreezer(where *os.File, m *mover) (*freezer, error) {
	path, err := os.Readlink(procSelf + "/" + strconv.Itoa(int(where.Fd())))
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(where.Fd()), &st); err != nil {
		return nil, os.NewSyscallError("fstat", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		path = filepath.Dir(path)
	}
	return &freezer{path, m}, nil
}

// freeze makes e's contents those of one instant, from now on unchanging. It
// returns false where that is impossible.
func (f *freezer) freeze(e *entry) (bool, error) {
	c := &e.contents
	if f.mover.noClone.Load() {
		return false, nil
	}
	still, err := unix.Open(f.directory, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600) //nolint:forbidigo // where the copy goes, not what is copied
	if isAny(err, unix.EOPNOTSUPP, unix.EISDIR, unix.EINVAL) {
		return false, nil // no such files on this filesystem
	}
	if err != nil {
		return false, fmt.Errorf("make temporary file in %q: %w", f.directory, err)
	}
	// The times are taken before the data: a file that looks older than it is
	// gets copied once too often by programs that go by times, not too seldom.
	var st unix.Stat_t
	err = unix.Fstat(c.file, &st)
	if err == nil {
		err = unix.IoctlFileClone(still, c.file)
	}
	if err != nil {
		unix.Close(still)
		switch {
		case cannotEver(err):
			f.mover.noClone.Store(true)
			err = nil
		case cannotThese(err):
			err = nil
		}
		return false, err
	}
	c.close()
	e.setStat(&st)
	c.file, c.owned, c.live = still, true, false
	return true, c.scan()
}

// openXattrs reads the extended attributes of an open file or directory.
func (r *reader) openXattrs(fd int, e *entry) (err error) {
	e.xattrs, err = r.readXattrs(
		func(buf []byte) (int, error) { return unix.Flistxattr(fd, buf) },
		func(name string, buf []byte) (int, error) { return unix.Fgetxattr(fd, name, buf) })
	return err
}

func (r *reader) readXattrs(list func([]byte) (int, error), get func(string, []byte) (int, error)) ([]xattr, error) {
	n, err := list(r.names)
	if errors.Is(err, unix.EOPNOTSUPP) || n == 0 {
		return nil, nil
	}
	if errors.Is(err, unix.E2BIG) {
		return nil, fmt.Errorf("the names of its extended attributes have more than %d bytes, which is what the kernel lists; remove some: %w", len(r.names), backend.ErrPrecondition)
	}
	if err != nil {
		return nil, fmt.Errorf("list extended attributes: %w", err)
	}
	var found []xattr
	size := 0
	for name := range bytes.SplitSeq(r.names[:n-1], []byte{0}) {
		if !keptXattr(string(name)) {
			continue
		}
		n, err := get(string(name), r.value)
		switch {
		case errors.Is(err, unix.ENODATA): // removed meanwhile
		case err != nil:
			return nil, fmt.Errorf("read extended attribute %s: %w", name, err)
		default:
			found = append(found, xattr{string(name), string(r.value[:n])})
			size += len(name) + n
		}
		if size > maxXattrs {
			return nil, fmt.Errorf("it has more than %d bytes of extended attributes, the limit for one file; remove some: %w", maxXattrs, backend.ErrPrecondition)
		}
	}
	return found, nil
}

func keptXattr(name string) bool {
	switch name {
	case "security.capability", aclAccess, aclDefault:
		return true
	}
	if strings.HasPrefix(name, "trusted.SGI_ACL_") {
		return false // how XFS stores ACLs, which it shows under both names
	}
	return strings.HasPrefix(name, "user.") || strings.HasPrefix(name, "trusted.")
}

// POSIX ACLs, in the kernel's form.
const (
	aclAccess  = "system.posix_acl_access"
	aclDefault = "system.posix_acl_default"
)
