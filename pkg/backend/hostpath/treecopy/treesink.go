package treecopy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"
)

// treeSink makes a tree below a root, which nobody else touches. Directories
// are made in order, what is in them by several goroutines.
type treeSink struct {
	workers *workers
	mover   *mover

	// chain leads to the directory path. For each of its links, pending has
	// what is to be set when all in that directory is done, and no path: all of
	// them together grow by the square of the depth.
	chain   *chain
	path    string
	pending []*entry
	root    *entry

	busy    chan struct{}       // one for each goroutine that works
	small   atomic.Int64        // bytes of small files not yet written behind
	behind  atomic.Bool         // something is being written behind
	room    *semaphore.Weighted // bytes of memory for batches that are put down, see weight
	running sync.WaitGroup      // of the goroutines
}

func newTreeSink(w *workers, m *mover, root *os.File) (*treeSink, error) {
	c, err := newChain(root)
	if err != nil {
		return nil, err
	}
	// What is made in the root is to inherit nothing from it.
	err = unix.Fchmod(c.root.fd, 0o700)
	if err == nil {
		err = unix.Fremovexattr(c.root.fd, aclDefault)
	}
	if err != nil && !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.EOPNOTSUPP) {
		c.close()
		return nil, fmt.Errorf("clear root's attributes: %w", err)
	}
	return &treeSink{
		workers: w, mover: m, chain: c,
		room: semaphore.NewWeighted(sinkRoom()), busy: make(chan struct{}, parallel()),
	}, nil
}

// largestBatch is how many bytes of files a batch can have in memory.
const largestBatch = batchEntries * smallFile

// sinkRoom is how many bytes the batches can have that are put down.
func sinkRoom() int64 { return int64(parallel()) * largestBatch }

// weight returns what a batch takes of the sink's room. As none counts less than
// a fourth of the largest, four are under way for each goroutine that works. One
// that has more than the room goes alone.
func weight(b *batch) int64 { return min(max(b.held()+b.extras(), largestBatch/4), sinkRoom()) }

func (s *treeSink) put(b *batch) error {
	if len(b.entries) == 0 { // all of it vanished
		b.free()
		return nil
	}
	if first := b.entries[0]; first.isDir() {
		b.free()
		return s.makeDirectory(first)
	}
	dir, err := s.enter(b.dir)
	if err != nil {
		b.free()
		return fmt.Errorf("open directory %q: %w", b.dir, err)
	}
	if b.alone {
		s.running.Wait()
		return s.putAll(b, dir)
	}
	weight := weight(b)
	if err := s.room.Acquire(s.workers, weight); err != nil {
		b.free()
		return context.Cause(s.workers)
	}
	dir.retain()
	s.running.Add(1)
	s.workers.running.Go(func() {
		s.workers.fail(s.putBeside(b, dir))
		dir.release()
		s.room.Release(weight)
		s.running.Done()
	})
	return nil
}

// makeDirectory makes a directory and enters it.
func (s *treeSink) makeDirectory(e entry) error {
	if e.path == "" {
		s.root = &e
		return nil
	}
	parent, name := split(e.path)
	dir, err := s.enter(parent)
	if err == nil {
		err = unix.Mkdirat(dir.fd, name, 0o700)
	}
	if err == nil {
		_, _, err = s.chain.push(name)
	}
	if err != nil {
		return fmt.Errorf("make directory %q: %w", e.path, err)
	}
	s.path, e.path = e.path, ""
	s.pending = append(s.pending, &e)
	return nil
}

// enter makes path the directory at the chain's end.
func (s *treeSink) enter(path string) (*directory, error) {
	for s.path != path && s.path != "" && !strings.HasPrefix(path, s.path+"/") {
		if err := s.leave(); err != nil {
			return nil, err
		}
	}
	for s.path != path {
		rest := strings.TrimPrefix(path[len(s.path):], "/")
		name, _, _ := strings.Cut(rest, "/")
		if _, _, err := s.chain.push(name); err != nil {
			return nil, err
		}
		s.pending, s.path = append(s.pending, nil), join(s.path, name)
	}
	return s.top()
}

// top returns the directory at the chain's end. One that was closed on the way
// down is opened again, and some may still work in it as it was open before:
// they are waited for, for whoever is the last to work in the one that is open
// now finishes the directory.
func (s *treeSink) top() (*directory, error) {
	if last := len(s.chain.links) - 1; last >= 0 && s.chain.links[last].dir == nil {
		s.running.Wait()
	}
	return s.chain.top()
}

// leave goes up one directory. Whoever is the last to work in the directory
// that is left sets what it has to have in the end.
func (s *treeSink) leave() error {
	last := len(s.pending) - 1
	if e := s.pending[last]; e != nil {
		dir, err := s.top()
		if err != nil {
			return fmt.Errorf("open directory %q: %w", s.path, err)
		}
		path := s.path
		dir.last = func(fd int) {
			if err := setMetadata(fd, ".", e); err != nil {
				s.workers.fail(fmt.Errorf("finish directory %q: %w", path, err))
			}
		}
	}
	s.chain.pop()
	s.pending = s.pending[:last]
	s.path, _ = split(s.path)
	return nil
}

func (s *treeSink) finish() error {
	for len(s.pending) > 0 {
		if err := s.leave(); err != nil {
			return err
		}
	}
	s.running.Wait()
	if err := s.workers.Err(); err != nil {
		return err
	}
	if err := setMetadata(s.chain.root.fd, ".", s.root); err != nil {
		return fmt.Errorf("finish root: %w", err)
	}
	return nil
}

func (s *treeSink) close() {
	s.running.Wait()
	s.chain.close()
}

// putBeside puts a batch down beside others. A directory takes one new name at a
// time, and who waits for that in the kernel keeps a processor busy. So small
// files are made by one goroutine in each directory, and by others in others:
// more batches are under way than goroutines work.
func (s *treeSink) putBeside(b *batch, dir *directory) error {
	if b.isSmall() {
		s.writeBehind(b.held())
		dir.making.Lock()
		defer dir.making.Unlock()
	}
	s.busy <- struct{}{}
	defer func() { <-s.busy }()
	return s.putAll(b, dir)
}

// writeBehind has small files written to the disk while others are made, so
// that a sync at the end waits for little. What it meets is left to that sync,
// which is told of it when it comes from a descriptor that is older than the
// files, and another than the one used here.
func (s *treeSink) writeBehind(bytes int64) {
	if s.small.Add(bytes) < writeBehind || !s.behind.CompareAndSwap(false, true) {
		return
	}
	s.small.Store(0)
	root := s.chain.root.retain() // this may outlast the sink
	s.workers.running.Go(func() {
		_ = unix.Syncfs(root.fd)
		root.release()
		s.behind.Store(false)
	})
}

func (s *treeSink) putAll(b *batch, dir *directory) error {
	defer b.free()
	for i := range b.entries {
		if err := s.workers.Err(); err != nil {
			return err
		}
		e := &b.entries[i]
		_, name := split(e.path)
		if err := s.putEntry(dir, name, e); err != nil {
			return fmt.Errorf("make %q: %w", e.path, err)
		}
	}
	return nil
}

func (s *treeSink) putEntry(dir *directory, name string, e *entry) (err error) {
	switch {
	case e.sameAs != "":
		return s.link(dir, name, e)
	case e.kind() == unix.S_IFREG:
		err = s.putFile(dir, name, e)
	case e.kind() == unix.S_IFLNK:
		err = unix.Symlinkat(e.target, dir.fd, name)
	default:
		err = unix.Mknodat(dir.fd, name, e.kind()|0o600, int(e.device))
	}
	if err != nil {
		return err
	}
	return setMetadata(dir.fd, name, e)
}

// link gives the file e.sameAs one more name. The way to it is as safe as
// any other.
func (s *treeSink) link(dir *directory, name string, e *entry) error {
	path, target := split(e.sameAs)
	from := s.chain.root.retain()
	for component := range strings.SplitSeq(path, "/") {
		if path == "" {
			break
		}
		next, err := openDirectory(from.fd, component)
		from.release()
		if err != nil {
			return fmt.Errorf("link to %q: %w", e.sameAs, err)
		}
		from = next
	}
	defer from.release()
	if err := unix.Linkat(from.fd, target, dir.fd, name, 0); err != nil {
		return fmt.Errorf("link to %q: %w", e.sameAs, err)
	}
	return nil
}

func (s *treeSink) putFile(dir *directory, name string, e *entry) error {
	const flags = unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC
	file, err := unix.Openat(dir.fd, name, flags, e.mode&0o777)
	if err != nil {
		return err
	}
	return errors.Join(s.fill(file, e), unix.Close(file))
}

// fill writes a file's contents. Of a live file, it clones all at one instant,
// or copies until it finds it unchanged.
func (s *treeSink) fill(file int, e *entry) error {
	c := &e.contents
	if c.owned && !s.mover.noClone.Load() {
		err := cloneFile(file, c.file)
		if err == nil {
			s.mover.progress.Add(c.stored())
		}
		if !errors.Is(err, ErrCannotClone) {
			return err
		}
	}
	for attempt := 1; ; attempt++ {
		if err := s.mover.store(file, c); err != nil {
			return err
		}
		if changed, err := c.changed(); err != nil || !changed || attempt == maxAttempts {
			return err
		}
		if err := unix.Ftruncate(file, 0); err != nil {
			return os.NewSyscallError("ftruncate", err)
		}
		s.mover.progress.Add(-c.stored())
		if err := e.rescan(); err != nil {
			return err
		}
	}
}

// setMetadata gives name in dir what e has beside its contents. Order matters:
// a change of owner clears setuid and security.capability. What is right as it
// was made costs a look instead of a change.
func setMetadata(dir int, name string, e *entry) error {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return os.NewSyscallError("fstatat", err)
	}
	sameOwner := st.Uid == e.uid && st.Gid == e.gid
	if !sameOwner {
		if err := unix.Fchownat(dir, name, int(e.uid), int(e.gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return os.NewSyscallError("fchownat", err)
		}
	}
	if e.kind() != unix.S_IFLNK && (!sameOwner || st.Mode != e.mode) {
		if err := unix.Fchmodat(dir, name, e.mode&^unix.S_IFMT, 0); err != nil {
			return os.NewSyscallError("fchmodat", err)
		}
	}
	for _, attribute := range e.xattrs {
		path := procSelf + "/" + strconv.Itoa(dir) + "/" + name
		if err := unix.Lsetxattr(path, attribute.name, []byte(attribute.value), 0); err != nil { //nolint:forbidigo // one name in an open directory
			return fmt.Errorf("set extended attribute %s: %w", attribute.name, err)
		}
	}
	times := []unix.Timespec{e.atime, e.mtime}
	return os.NewSyscallError("utimensat", unix.UtimesNanoAt(dir, name, times, unix.AT_SYMLINK_NOFOLLOW))
}
