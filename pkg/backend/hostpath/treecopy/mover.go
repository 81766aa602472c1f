package treecopy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

const (
	// smallFile is the size in bytes up to which the data of a file is read
	// into memory: sharing blocks costs more than it saves.
	smallFile = 64 << 10

	// writeBehind is how much may be written before the kernel is asked to
	// begin putting it on the disk.
	writeBehind = 4 << 20

	// copyChunk is how much is copied between two looks at the context.
	copyChunk = 8 << 20

	// maxBlock is the largest block size for which data is aligned.
	maxBlock = 64 << 10
)

// ErrCannotClone says that two files cannot share blocks: the filesystem does
// not know how, or they lie on different ones.
var ErrCannotClone = errors.New("files cannot share blocks")

// CloneFile makes dst share all blocks of src, by FICLONE: dst then has the
// size and the data that src had at one instant. ErrCannotClone when the
// filesystem cannot do that.
func CloneFile(dst, src *os.File) error {
	return classify(cloneFile(int(dst.Fd()), int(src.Fd())))
}

func cloneFile(dst, src int) error {
	err := unix.IoctlFileClone(dst, src)
	if cannotEver(err) || cannotThese(err) {
		return fmt.Errorf("%w: %w", ErrCannotClone, err)
	}
	return err
}

// cannotEver says whether err is a filesystem's answer to any clone.
func cannotEver(err error) bool {
	return isAny(err, unix.EOPNOTSUPP, unix.EXDEV, unix.ENOTTY, unix.ENOSYS)
}

// cannotThese says whether err is the answer to a clone of these two files:
// one of them may be without checksums on btrfs, a swap file, or immutable.
func cannotThese(err error) bool {
	return isAny(err, unix.EINVAL, unix.ETXTBSY, unix.EPERM)
}

func isAny(err error, of ...unix.Errno) bool {
	return slices.ContainsFunc(of, func(errno unix.Errno) bool { return errors.Is(err, errno) })
}

// mover moves bytes between files in the cheapest way that works. It may be
// used by several goroutines.
type mover struct {
	ctx      context.Context
	progress *backend.Progress

	// block is the alignment in bytes that cloning asks for.
	block   int64
	noClone atomic.Bool
	noRange atomic.Bool // no copy_file_range
}

// newMover returns a mover for files on dst's filesystem.
func newMover(ctx context.Context, dst *os.File, progress *backend.Progress) (*mover, error) {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(dst.Fd()), &fs); err != nil {
		return nil, os.NewSyscallError("fstatfs", err)
	}
	m := &mover{ctx: ctx, progress: progress, block: fs.Bsize}
	m.noClone.Store(m.block <= 0 || m.block > maxBlock || m.block%512 != 0)
	return m, nil
}

// clone shares the blocks that lie wholly within length bytes and returns how
// many bytes that makes: none where it cannot be done.
func (m *mover) clone(dst int, dstOffset int64, src int, srcOffset, length int64) (int64, error) {
	length -= length % m.block
	if length == 0 || m.noClone.Load() || dstOffset%m.block != 0 || srcOffset%m.block != 0 {
		return 0, nil
	}
	err := unix.IoctlFileCloneRange(dst, &unix.FileCloneRange{
		Src_fd: int64(src), Src_offset: uint64(srcOffset), Src_length: uint64(length), Dest_offset: uint64(dstOffset),
	})
	switch {
	case err == nil:
		m.progress.Add(length)
		return length, m.ctx.Err()
	case cannotEver(err):
		m.noClone.Store(true)
		return 0, nil
	case cannotThese(err):
		return 0, nil
	}
	return 0, os.NewSyscallError("ficlonerange", err)
}

// copy copies length bytes and returns how many there were: less when src
// ends before.
func (m *mover) copy(dst int, dstOffset int64, src int, srcOffset, length int64) (int64, error) {
	var done int64
	for done < length {
		if err := m.ctx.Err(); err != nil {
			return done, err
		}
		n, err := m.copySome(dst, dstOffset+done, src, srcOffset+done, min(length-done, copyChunk))
		if n == 0 || err != nil {
			return done, err
		}
		m.progress.Add(n)
		done += n
	}
	return done, nil
}

func (m *mover) copySome(dst int, dstOffset int64, src int, srcOffset, length int64) (int64, error) {
	if !m.noRange.Load() {
		from, to := srcOffset, dstOffset
		n, err := unix.CopyFileRange(src, &from, dst, &to, int(length), 0)
		if n > 0 {
			return int64(n), nil
		}
		m.noRange.Store(cannotEver(err))
	}
	// Whatever else copy_file_range said, reading and writing tell for sure
	// where the file ends and what is wrong.
	buf := make([]byte, min(length, 1<<20))
	n, err := readAt(src, buf, srcOffset)
	if err != nil {
		return 0, err
	}
	return int64(n), writeAt(dst, buf[:n], dstOffset)
}

// store writes what c holds to dst, an empty file, and gives it c's size. All
// that c holds counts as progress, also what a live file that has shrunk lacks.
func (m *mover) store(dst int, c *contents) error {
	var end int64
	left := c.stored()
	for _, s := range c.segments {
		n, err := m.storeSegment(dst, c, s)
		if err != nil {
			return err
		}
		end = s.offset + n
		if n < s.length && !c.live {
			return truncated(io.ErrUnexpectedEOF)
		}
		if left -= n; n < s.length { // it has shrunk
			m.progress.Add(left)
			break
		}
	}
	if end < c.size {
		return os.NewSyscallError("ftruncate", unix.Ftruncate(dst, c.size))
	}
	return nil
}

func (m *mover) storeSegment(dst int, c *contents, s segment) (int64, error) {
	switch {
	case c.memory != nil:
		m.progress.Add(s.length)
		return s.length, writeAt(dst, c.memory, s.offset)
	case c.stream != nil:
		return s.length, m.drain(dst, c.stream, s)
	}
	cloned, err := m.clone(dst, s.offset, c.file, s.stored, s.length)
	if err != nil {
		return 0, err
	}
	copied, err := m.copy(dst, s.offset+cloned, c.file, s.stored+cloned, s.length-cloned)
	return cloned + copied, err
}

// drain writes the next bytes of a stream, the segment s, to dst.
func (m *mover) drain(dst int, stream io.Reader, s segment) error {
	buf := make([]byte, min(s.length, 1<<20))
	for s.length > 0 {
		if err := m.ctx.Err(); err != nil {
			return err
		}
		part := buf[:min(s.length, int64(len(buf)))]
		if _, err := io.ReadFull(stream, part); err != nil {
			return truncated(err)
		}
		if err := writeAt(dst, part, s.offset); err != nil {
			return err
		}
		m.progress.Add(int64(len(part)))
		s.offset, s.length = s.offset+int64(len(part)), s.length-int64(len(part))
	}
	return nil
}

// CopyFile copies src to dst, an empty file, which gets src's size: data by
// copy_file_range or, where that is not to be had, by reading and writing;
// holes not at all. Nobody may write to src meanwhile.
func CopyFile(ctx context.Context, dst, src *os.File, progress *backend.Progress) error {
	m, err := newMover(ctx, dst, progress)
	if err != nil {
		return classify(err)
	}
	m.noClone.Store(true)
	c := contents{file: int(src.Fd())}
	if err := c.scan(); err != nil {
		return classify(err)
	}
	progress.SetTotal(c.stored())
	return classify(m.store(int(dst.Fd()), &c))
}

// readAt reads until buf is full or the file ends.
func readAt(fd int, buf []byte, offset int64) (int, error) {
	for n := 0; ; {
		m, err := unix.Pread(fd, buf[n:], offset+int64(n))
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return n, os.NewSyscallError("pread", err)
		}
		n += m
		if m == 0 || n == len(buf) {
			return n, nil
		}
	}
}

// flusher has the kernel put on the disk what was written to a file, while more
// is written, so that a sync at the end waits for little.
type flusher struct{ asked int64 }

// reached tells that the file is written up to offset.
func (f *flusher) reached(fd int, offset int64) {
	if offset-f.asked < writeBehind {
		return
	}
	// Only a hint: what is wrong with the disk, the sync will say.
	_ = unix.SyncFileRange(fd, f.asked, offset-f.asked, unix.SYNC_FILE_RANGE_WRITE)
	f.asked = offset
}

func writeAt(fd int, data []byte, offset int64) error {
	for len(data) > 0 {
		n, err := unix.Pwrite(fd, data, offset)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return os.NewSyscallError("pwrite", err)
		}
		data, offset = data[n:], offset+int64(n)
	}
	return nil
}
