package treecopy

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// within are the rules under which everything in a tree is opened: nothing
// leads out of the directory, neither a symbolic link nor a mount.
const within = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV

// OpenWithin opens name below the directory dir, and nothing that a link or a
// mount there leads to.
func OpenWithin(dir int, name string, flags uint64) (int, error) {
	return unix.Openat2(dir, name, &unix.OpenHow{Flags: flags | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: within})
}

// withoutAtime opens with O_NOATIME, which only a file's owner may, and
// otherwise without.
func withoutAtime(open func(flags uint64) (int, error)) (int, error) {
	fd, err := open(unix.O_NOATIME)
	if errors.Is(err, unix.EPERM) {
		return open(0)
	}
	return fd, err
}

// directory is an open directory with a count of its users. The last one to
// release it closes it.
type directory struct {
	fd    int
	users atomic.Int32

	// making is held by who makes many names in it.
	making sync.Mutex

	// last, if set, is called before closing.
	last func(fd int)
}

func newDirectory(fd int) *directory {
	d := &directory{fd: fd}
	d.users.Store(1)
	return d
}

func openDirectory(parent int, name string) (*directory, error) {
	fd, err := withoutAtime(func(flags uint64) (int, error) {
		return OpenWithin(parent, name, flags|unix.O_RDONLY|unix.O_DIRECTORY)
	})
	if err != nil {
		return nil, err
	}
	return newDirectory(fd), nil
}

func (d *directory) retain() *directory {
	d.users.Add(1)
	return d
}

func (d *directory) release() {
	if d.users.Add(-1) > 0 {
		return
	}
	if d.last != nil {
		d.last(d.fd)
	}
	unix.Close(d.fd)
}

// chainWindow is how many directories of a chain are kept open.
const chainWindow = 64

// chain is the way from a root down to one directory, of any length. Only the
// last directories are open; the others are opened again when the chain gets
// short, and must be the ones they were: name by name from the root, or, where
// others may rename them, from below.
type chain struct {
	root  *directory
	links []link
}

type link struct {
	name     string
	dir      *directory // nil when closed
	dev, ino uint64
}

// newChain returns the empty chain at root, which stays the caller's.
func newChain(root *os.File) (*chain, error) {
	// Not a duplicate of root's descriptor, which would share its position.
	dir, err := openDirectory(int(root.Fd()), ".")
	if err != nil {
		return nil, os.NewSyscallError("openat2", err)
	}
	return &chain{root: dir}, nil
}

// top returns the directory at the chain's end, which stays the chain's.
func (c *chain) top() (*directory, error) {
	open := len(c.links)
	for open > 0 && c.links[open-1].dir == nil {
		open--
	}
	dir := c.root
	if open > 0 {
		dir = c.links[open-1].dir
	}
	for i := open; i < len(c.links); i++ {
		next, err := c.links[i].reopen(dir)
		if err != nil {
			return nil, err
		}
		dir = next
		c.closeOld(i + 1)
	}
	return dir, nil
}

func (l *link) reopen(parent *directory) (*directory, error) {
	dir, err := openDirectory(parent.fd, l.name)
	if err != nil {
		return nil, err
	}
	return l.take(dir)
}

// take makes dir the link's, if it is the one that the link had.
func (l *link) take(dir *directory) (*directory, error) {
	var st unix.Stat_t
	if err := unix.Fstat(dir.fd, &st); err != nil || st.Dev != l.dev || st.Ino != l.ino {
		dir.release()
		return nil, fmt.Errorf("directory was replaced: %w", unix.ENOENT)
	}
	l.dir = dir
	return dir, nil
}

// push makes the chain longer by the directory called name in its last one.
func (c *chain) push(name string) (*directory, *unix.Stat_t, error) {
	parent, err := c.top()
	if err != nil {
		return nil, nil, err
	}
	dir, err := openDirectory(parent.fd, name)
	if err != nil {
		return nil, nil, err
	}
	st := new(unix.Stat_t)
	if err := unix.Fstat(dir.fd, st); err != nil {
		dir.release()
		return nil, nil, err
	}
	// The path that name may be part of is not kept with it.
	c.links = append(c.links, link{strings.Clone(name), dir, st.Dev, st.Ino})
	c.closeOld(len(c.links))
	return dir, st, nil
}

// closeOld closes the link that is just outside the window of a chain of n.
func (c *chain) closeOld(n int) {
	if i := n - chainWindow - 1; i >= 0 && c.links[i].dir != nil {
		c.links[i].dir.release()
		c.links[i].dir = nil
	}
}

// pop makes the chain shorter by one.
func (c *chain) pop() {
	last := len(c.links) - 1
	if dir := c.links[last].dir; dir != nil {
		dir.release()
	}
	c.links = c.links[:last]
}

// up does as pop, but opens the directory at the chain's new end from below, if
// it was closed. That finds it also when one above it has been renamed.
func (c *chain) up() {
	last := len(c.links) - 1
	if below := c.links[last].dir; last > 0 && below != nil && c.links[last-1].dir == nil {
		// ".." may lead anywhere, if the directory itself has been renamed.
		if fd, err := unix.Openat(below.fd, "..", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err == nil {
			// If it is another one, top looks for it by name.
			_, _ = c.links[last-1].take(newDirectory(fd))
		}
	}
	c.pop()
}

func (c *chain) close() {
	for len(c.links) > 0 {
		c.pop()
	}
	c.root.release()
}
