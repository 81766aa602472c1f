package treecopy

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// writeBuffer is how much of an archive is collected before it is written.
const writeBuffer = 1 << 20

// tarSink writes an archive: to a file, into which data can be cloned and in
// which one can go back, or to a stream.
type tarSink struct {
	workers *workers
	mover   *mover
	freezer *freezer
	encoder encoder

	// file is the archive; with stream, it is written through that.
	file   int
	stream *compressor

	// buf is to be written at offset in the archive.
	buf     []byte
	offset  int64
	flusher flusher
}

func (s *tarSink) put(b *batch) error {
	defer b.free()
	for i := range b.entries {
		e := &b.entries[i]
		if err := s.workers.Err(); err != nil {
			return err
		}
		if err := s.putEntry(e); err != nil {
			return fmt.Errorf("archive %q: %w", e.path, err)
		}
	}
	return nil
}

// putEntry writes an entry. A file that changes meanwhile is written again,
// after that from a copy of one instant, if there can be one. To go back in a
// stream costs a frame of its own, so that there the copy is made before.
func (s *tarSink) putEntry(e *entry) error {
	c := &e.contents
	if c.live && (s.stream != nil || c.fresh) {
		if _, err := s.freezer.freeze(e); err != nil {
			return err
		}
	}
	if c.live && s.stream != nil {
		if err := s.flush(); err != nil {
			return err
		}
		if err := s.stream.mark(); err != nil {
			return err
		}
	}
	// It was looked at ahead. While what comes before was copied, all of it may
	// have been cut off, and be written as zeros.
	if changed, err := c.changed(); err != nil {
		return err
	} else if changed {
		if err := e.rescan(); err != nil {
			return err
		}
	}
	start := s.end()
	for attempt := 1; ; attempt++ {
		if err := s.write(e); err != nil {
			return err
		}
		if changed, err := c.changed(); err != nil || !changed || attempt == maxAttempts {
			return err
		}
		if err := s.goBack(start); err != nil {
			return err
		}
		s.mover.progress.Add(-c.stored())
		if frozen, err := s.freezer.freeze(e); err != nil {
			return err
		} else if frozen {
			continue
		}
		if err := e.rescan(); err != nil {
			return err
		}
	}
}

// write writes an entry's header and data.
func (s *tarSink) write(e *entry) (err error) {
	c := &e.contents
	align := int64(0) // cloning asks for it, and copying is faster with it
	if s.stream == nil && c.file != noFile && c.stored() > smallFile {
		align = s.mover.block
	}
	if s.buf, err = s.encoder.header(s.buf, e, s.end(), align); err != nil {
		return err
	}
	for _, segment := range c.segments {
		if c.memory != nil {
			s.buf = append(s.buf, c.memory...)
			s.mover.progress.Add(segment.length)
		} else if err := s.writeSegment(c.file, segment); err != nil {
			return err
		}
	}
	s.buf = appendZeros(s.buf, roundUp(s.end())-s.end())
	if len(s.buf) >= writeBuffer {
		return s.flush()
	}
	return nil
}

// writeSegment writes a segment of an open file, and zeros for what is missing
// because the file has shrunk.
func (s *tarSink) writeSegment(file int, part segment) error {
	if s.stream == nil && part.length > smallFile {
		if err := s.flush(); err != nil {
			return err
		}
		done, err := s.mover.clone(s.file, s.offset, file, part.stored, part.length)
		if err != nil {
			return err
		}
		if part.length-done > smallFile {
			copied, err := s.mover.copy(s.file, s.offset+done, file, part.stored+done, part.length-done)
			if err != nil {
				return err
			}
			done += copied
		}
		s.offset += done
		part.stored, part.length = part.stored+done, part.length-done
	}
	for part.length > 0 {
		if err := s.workers.Err(); err != nil {
			return err
		}
		n := min(part.length, writeBuffer)
		start := len(s.buf)
		s.buf = append(s.buf, make([]byte, n)...)
		if _, err := readAt(file, s.buf[start:], part.stored); err != nil {
			return err
		}
		if len(s.buf) >= writeBuffer {
			if err := s.flush(); err != nil {
				return err
			}
		}
		s.mover.progress.Add(n)
		part.stored, part.length = part.stored+n, part.length-n
	}
	return nil
}

// end returns where in the archive the next byte goes.
func (s *tarSink) end() int64 { return s.offset + int64(len(s.buf)) }

func (s *tarSink) flush() (err error) {
	if s.stream != nil {
		_, err = s.stream.Write(s.buf)
	} else {
		err = writeAt(s.file, s.buf, s.offset)
	}
	s.offset, s.buf = s.end(), s.buf[:0]
	if s.stream == nil {
		s.flusher.reached(s.file, s.offset)
	}
	return err
}

// goBack takes back what was written to the archive from offset on. In a
// stream, that has to be its mark.
func (s *tarSink) goBack(offset int64) error {
	if offset >= s.offset {
		s.buf = s.buf[:offset-s.offset]
		return nil
	}
	s.buf, s.offset = s.buf[:0], offset
	if s.stream != nil {
		return s.stream.goBack()
	}
	return os.NewSyscallError("ftruncate", unix.Ftruncate(s.file, offset))
}

func (s *tarSink) finish() error {
	s.buf = append(append(s.buf, zeros[:]...), zeros[:]...)
	if err := s.flush(); err != nil {
		return err
	}
	if s.stream != nil {
		return s.stream.Close()
	}
	return nil
}

func (s *tarSink) close() {
	if s.stream != nil {
		_ = s.stream.Close() // the copy has failed already
	}
}
