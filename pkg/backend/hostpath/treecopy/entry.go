package treecopy

import (
	"io"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// entry is one file of any type, with all that is kept of it.
type entry struct {
	// path is relative to the root, without "./"; empty for the root itself.
	path string

	mode         uint32 // type and permissions, as in st_mode
	uid, gid     uint32
	device       uint64 // of a device node
	atime, mtime unix.Timespec
	xattrs       []xattr

	// target is what a symbolic link points to.
	target string

	// sameAs is the path of an earlier entry of which this is another name.
	// Then nothing else but path counts.
	sameAs string

	// inode is set for a file of a tree with several names, where it can be, and
	// links is how many names it had.
	inode inode
	links uint32

	contents contents
}

type xattr struct{ name, value string }

func (e *entry) kind() uint32 { return e.mode & unix.S_IFMT }

func (e *entry) isDir() bool { return e.kind() == unix.S_IFDIR }

// extras returns about how many bytes of memory an entry takes beside its data.
func (e *entry) extras() int64 {
	const segmentSize, xattrSize = 24, 32
	sum := len(e.path) + len(e.target) + segmentSize*len(e.contents.segments)
	for _, attribute := range e.xattrs {
		sum += xattrSize + len(attribute.name) + len(attribute.value)
	}
	return int64(sum)
}

// setStat takes from st what an entry keeps.
func (e *entry) setStat(st *unix.Stat_t) {
	e.mode, e.uid, e.gid, e.device = st.Mode, st.Uid, st.Gid, st.Rdev
	e.atime, e.mtime = st.Atim, st.Mtim
	e.contents.size = 0
	if e.kind() == unix.S_IFREG {
		e.contents.size = st.Size
	}
}

// split returns the path of an entry's directory and its name there.
func split(path string) (dir, name string) {
	slash := strings.LastIndexByte(path, '/')
	return path[:max(slash, 0)], path[slash+1:]
}

// join is the inverse of split.
func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// noFile stands for a descriptor that is not there.
const noFile = -1

// contents says where the bytes of a regular file are.
type contents struct {
	size     int64 // with holes
	segments []segment

	// One of these holds the bytes. In memory, there are no holes.
	memory []byte
	file   int
	stream io.Reader

	// owned says that file is to be closed with the entry.
	owned bool

	// live says that others may be writing to file; then seen is what it was
	// like before its segments were determined, and fresh says that it had been
	// changed so lately then that a change after that may not show.
	live  bool
	seen  unix.Stat_t
	fresh bool
}

// setMemory makes data the contents.
func (c *contents) setMemory(data []byte) {
	c.memory, c.live, c.size = data, false, int64(len(data))
	c.segments = c.segments[:0]
	if len(data) > 0 {
		c.segments = append(c.segments, segment{length: c.size})
	}
}

// segment is a run of bytes between holes: at offset in the file that is
// copied, at stored in contents.file. In a stream they follow each other.
type segment struct{ offset, length, stored int64 }

// stored returns how many bytes the segments have.
func (c *contents) stored() int64 {
	var sum int64
	for _, s := range c.segments {
		sum += s.length
	}
	return sum
}

// sparse says whether the segments leave holes.
func (c *contents) sparse() bool { return c.stored() < c.size }

func (c *contents) close() {
	if c.owned {
		unix.Close(c.file)
	}
	c.owned, c.file = false, noFile
}

// maxSegments bounds the memory for one file. The holes of a file that has
// more are copied like data from there on.
const maxSegments = 1 << 20

// scan sets size and segments from the open file.
func (c *contents) scan() error {
	before := time.Now()
	if err := unix.Fstat(c.file, &c.seen); err != nil {
		return err
	}
	c.fresh = recent(before, &c.seen)
	c.size, c.segments = c.seen.Size, c.segments[:0]
	for end := int64(0); end < c.size; {
		start, err := unix.Seek(c.file, end, unix.SEEK_DATA)
		switch {
		case err == unix.ENXIO: // a hole up to the end
			return nil
		case err == unix.EINVAL || err == unix.EOPNOTSUPP: // no holes here
			start = end
		case err != nil:
			return err
		}
		end = c.size
		if len(c.segments) < maxSegments-1 {
			if hole, err := unix.Seek(c.file, start, unix.SEEK_HOLE); err == nil {
				end = min(hole, c.size)
			}
		}
		if start < end {
			c.segments = append(c.segments, segment{start, end - start, start})
		}
	}
	return nil
}

// changed says whether the file changed, or may have, since it was scanned.
func (c *contents) changed() (bool, error) {
	if !c.live || c.fresh {
		return c.live, nil
	}
	var now unix.Stat_t
	if err := unix.Fstat(c.file, &now); err != nil {
		return false, err
	}
	return !sameState(&c.seen, &now), nil
}

func sameState(a, b *unix.Stat_t) bool {
	return a.Size == b.Size && a.Mtim == b.Mtim && a.Ctim == b.Ctim
}
