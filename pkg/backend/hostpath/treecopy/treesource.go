package treecopy

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// treeSource reads a tree. One goroutine walks the directories, some read
// files ahead, and next puts it all in order.
type treeSource struct {
	workers *workers

	// Every batch goes through ordered; those with files to be read go
	// through unread first. Capacities bound how far reading runs ahead.
	ordered chan *batch
	unread  chan *batch

	// rest, if set, is the next batch, of what another had no room for. It
	// goes through left to be read.
	rest *batch
	left chan *batch

	links *links

	proc int // procSelf, opened
}

// inode tells files with several names apart, also from those that had the
// same number before and were deleted meanwhile.
type inode struct {
	dev, ino uint64
	life     string
}

// identify returns the inode of an open file, which st describes. The handle
// that a filesystem has for a file is never another's. Where there are none, a
// file is taken for one read earlier only if nothing has changed it since;
// where even that cannot be told, the inode is empty.
func identify(fd int, st *unix.Stat_t) inode {
	id := inode{dev: st.Dev, ino: st.Ino}
	if handle, _, err := unix.NameToHandleAt(fd, "", unix.AT_EMPTY_PATH); err == nil {
		id.life = string(handle.Bytes())
		return id
	}
	if recent(time.Now(), st) {
		return inode{}
	}
	id.life = fmt.Sprint(st.Ctim)
	return id
}

func newTreeSource(w *workers, root *os.File, f *freezer) (*treeSource, error) {
	proc, err := unix.Open(procSelf, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0) //nolint:forbidigo // the kernel's
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", procSelf, err)
	}
	s := &treeSource{
		workers: w,
		ordered: make(chan *batch, 2*parallel()),
		unread:  make(chan *batch, 2*parallel()),
		left:    make(chan *batch, 1),
		links:   newLinks(linksMemory),
		proc:    proc,
	}
	w.running.Go(func() {
		r := newReader(proc, f)
		enter := func(path string, dir *directory, st *unix.Stat_t) error { return s.enter(r, path, dir, st) }
		w.fail((&walker{ctx: w, enter: enter, files: s.files}).walk(root))
		close(s.unread)
		close(s.ordered)
	})
	for range parallel() {
		w.running.Go(func() { s.readAll(newReader(proc, f), s.unread) })
	}
	w.running.Go(func() { s.readAll(newReader(proc, f), s.left) })
	return s, nil
}

// enter makes a batch of a directory.
func (s *treeSource) enter(r *reader, path string, dir *directory, st *unix.Stat_t) error {
	parent, _ := split(path)
	b := newBatch(parent)
	e := b.add()
	e.path = path
	e.setStat(st)
	if err := r.openXattrs(dir.fd, e); err != nil {
		return fmt.Errorf("read directory %q: %w", path, err)
	}
	return s.send(b, s.ordered)
}

// files makes batches of files to be read.
func (s *treeSource) files(path string, dir *directory, names []string) error {
	for len(names) > 0 {
		n := min(len(names), batchEntries)
		b := newBatch(path)
		b.from, b.names, b.ready = dir.retain(), names[:n], make(chan struct{})
		names = names[n:]
		if err := s.send(b, s.unread); err != nil {
			b.free()
			return err
		}
		if err := s.send(b, s.ordered); err != nil {
			<-b.ready
			b.free()
			return err
		}
	}
	return nil
}

func (s *treeSource) send(b *batch, to chan<- *batch) error {
	select {
	case to <- b:
		return nil
	case <-s.workers.Done():
		return context.Cause(s.workers)
	}
}

// readAll goes on to the end also when there was an error, though it reads no
// more: every batch becomes ready.
func (s *treeSource) readAll(r *reader, unread <-chan *batch) {
	for b := range unread {
		s.workers.fail(s.read(r, b))
		close(b.ready)
	}
}

// read takes names from the batch until it has all, or enough open files or
// bytes of what comes with them.
func (s *treeSource) read(r *reader, b *batch) error {
	open, extras := 0, int64(0)
	for ; len(b.names) > 0 && open < batchFiles && extras < batchExtras; b.names = b.names[1:] {
		if err := s.workers.Err(); err != nil {
			return err
		}
		name := b.names[0]
		e := b.add()
		e.path = join(b.dir, name)
		kept, err := r.read(b, name, e)
		if err != nil {
			return fmt.Errorf("read %q: %w", e.path, err)
		}
		if !kept {
			e.contents.close()
			b.entries = b.entries[:len(b.entries)-1]
			continue
		}
		extras += e.extras()
		if e.contents.owned {
			open++
		}
	}
	return nil
}

func (s *treeSource) next() (*batch, error) {
	b, more := s.rest, true
	if s.rest = nil; b == nil {
		b, more = <-s.ordered
	}
	if !more {
		// Without an error, the walk is at its end.
		if err := s.workers.Err(); err != nil {
			return nil, err
		}
		return nil, io.EOF
	}
	if b.ready == nil {
		return b, nil
	}
	<-b.ready
	if err := s.workers.Err(); err != nil {
		b.free()
		return nil, err
	}
	if len(b.names) > 0 {
		s.rest = newBatch(b.dir)
		s.rest.from, s.rest.names, s.rest.ready = b.from.retain(), b.names, make(chan struct{})
		s.left <- s.rest
	}
	for i := range b.entries {
		if err := s.findFirst(b, &b.entries[i]); err != nil {
			b.free()
			return nil, err
		}
	}
	return b, nil
}

// findFirst makes e a link, if it is another name of an earlier entry.
func (s *treeSource) findFirst(b *batch, e *entry) error {
	if e.inode == (inode{}) {
		return nil
	}
	first, err := s.links.see(b.dir, e)
	if err != nil || first == "" {
		return err
	}
	e.contents.close()
	e.contents = contents{file: noFile}
	e.sameAs, b.alone = first, true
	return nil
}

func (s *treeSource) close() {
	close(s.left)
	if s.rest != nil {
		<-s.rest.ready
		s.rest.free()
	}
	for b := range s.ordered {
		if b.ready != nil {
			<-b.ready
		}
		b.free()
	}
	s.workers.running.Wait()
	unix.Close(s.proc)
}
