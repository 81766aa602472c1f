package treecopy

import (
	"bytes"
	"fmt"
	"io"
	"math"

	"golang.org/x/sys/unix"
)

// decoder reads what encoder made. It believes nothing: every number and every
// name is checked before it is used.
type decoder struct {
	in      *input
	header  [blockSize]byte // see block
	records []byte

	// data is how many bytes of the last entry, its filling included, have
	// not been read.
	data int64

	// started says that the root was read.
	started bool
}

// next fills e with the next entry, skipping the data of the last one. The
// contents have no bytes yet, just their place in the archive. io.EOF after
// the last entry.
func (d *decoder) next(e *entry) error {
	if err := d.in.skip(d.data); err != nil {
		return err
	}
	d.data, d.records = 0, d.records[:0]
	block, err := d.block()
	if err != nil {
		return err
	}
	if block[typeField.start] == typeExtended {
		if err := d.readRecords(block); err != nil {
			return err
		}
		if block, err = d.block(); err == io.EOF { //nolint:errorlint // as in pump
			return malformed("records without an entry")
		} else if err != nil {
			return err
		}
	}
	h := header{entry: entry{contents: contents{file: noFile}}}
	if err := h.parse(block); err != nil {
		return err
	}
	if err := parseRecords(d.records, h.apply); err != nil {
		return err
	}
	if err := d.complete(&h); err != nil {
		return fmt.Errorf("entry %.200q: %w", h.name, err)
	}
	*e = h.entry
	return nil
}

// block reads a header and checks it. It is valid until the next one is read.
// io.EOF at the end of the archive.
func (d *decoder) block() (*[blockSize]byte, error) {
	block := &d.header
	if err := d.in.read(block[:]); err != nil {
		return nil, err
	}
	if *block == zeros {
		return nil, d.end()
	}
	sum, err := octal(block[:], checksumField)
	if err != nil {
		return nil, err
	}
	if sum != checksum(block[:]) {
		return nil, malformed("a header's checksum is wrong")
	}
	if !bytes.Equal(block[magicField.start:magicField.end], []byte(magic)) {
		return nil, malformed("it is not a POSIX tar file")
	}
	return block, nil
}

// end reads the second block of the end mark and makes sure that nothing
// comes after it but more of the same.
func (d *decoder) end() error {
	if !d.started {
		return malformed("it is empty")
	}
	var block [blockSize]byte
	if err := d.in.read(block[:]); err != nil {
		return err
	}
	for {
		if block != zeros {
			return malformed("there is something after its end")
		}
		if _, err := io.ReadFull(d.in.reader, block[:]); err == io.EOF {
			return io.EOF
		} else if err != nil {
			return truncated(err)
		}
	}
}

// readRecords reads the data of an extended header.
func (d *decoder) readRecords(block *[blockSize]byte) error {
	size, err := octal(block[:], sizeField)
	if err != nil {
		return err
	}
	if size > maxRecords {
		return malformed("records of %d bytes; at most %d are allowed", size, maxRecords)
	}
	// By and by, lest a false size cost memory.
	for rest := roundUp(size); rest > 0; {
		n := min(rest, 1<<20)
		start := len(d.records)
		d.records = append(d.records, make([]byte, n)...)
		if err := d.in.read(d.records[start:]); err != nil {
			return err
		}
		rest -= n
	}
	d.records = d.records[:size]
	return nil
}

// complete makes a whole entry of h, after its headers, and reads what sparse
// files have before their data.
func (d *decoder) complete(h *header) (err error) {
	if h.sparse {
		h.name = h.sparseName
	}
	if h.path, err = cleanPath(h.name, h.isDir()); err != nil {
		return err
	}
	if d.started == (h.path == "") {
		return malformed("the root must come first, and once")
	}
	d.started = true
	if !h.atimeSet {
		h.atime = h.mtime
	}
	switch {
	case h.mode&unix.S_IFMT == 0:
		h.sameAs, err = cleanPath(h.link, false)
		if err != nil || h.sameAs == "" {
			return malformed("it is a link to %.200q", h.link)
		}
	case h.kind() == unix.S_IFLNK:
		if h.target = h.link; h.target == "" {
			return malformed("it is a symbolic link to nothing")
		}
	case h.kind() == unix.S_IFREG && !h.socket:
		return d.contents(h)
	}
	if h.socket {
		h.mode = h.mode&^unix.S_IFMT | unix.S_IFSOCK
	}
	if h.stored != 0 {
		return malformed("it has data, although it is no file")
	}
	return nil
}

// contents says where the data of a regular file is.
func (d *decoder) contents(h *header) error {
	if h.stored > math.MaxInt64-blockSize {
		return malformed("a size of %d bytes", h.stored)
	}
	d.data = roundUp(h.stored)
	if err := d.in.has(d.data); err != nil {
		return err
	}
	c := &h.contents
	if c.size = h.stored; h.sparse {
		c.size = h.realSize
		return d.readMap(c, h.stored)
	}
	if c.size > 0 {
		c.segments = []segment{{length: c.size, stored: d.in.offset}}
	}
	return nil
}

// readMap reads the map of a sparse file for which there are stored bytes, map
// included.
func (d *decoder) readMap(c *contents, stored int64) error {
	numbers := mapReader{decoder: d, stored: stored}
	count, err := numbers.next()
	if err != nil {
		return err
	}
	if count > maxSegments+1 {
		return malformed("a sparse file of %d segments", count)
	}
	var end, sum int64
	for range count {
		s := segment{stored: sum}
		if s.offset, err = numbers.next(); err == nil {
			s.length, err = numbers.next()
		}
		if err != nil {
			return err
		}
		if s.offset < end || s.length > c.size-s.offset {
			return malformed("a sparse file's segment of %d bytes at %d, after %d and within %d", s.length, s.offset, end, c.size)
		}
		end, sum = s.offset+s.length, sum+s.length
		if s.length > 0 {
			c.segments = append(c.segments, s)
		}
	}
	if sum != numbers.stored {
		return malformed("a sparse file's segments have %d bytes, its data has %d", sum, numbers.stored)
	}
	for i := range c.segments {
		c.segments[i].stored += d.in.offset
	}
	return nil
}

// mapReader reads the numbers of a sparse file's map.
type mapReader struct {
	decoder *decoder
	stored  int64 // bytes of the file that have not been read
	block   [blockSize]byte
	rest    []byte // of block
}

// next reads one number and the newline after it.
func (m *mapReader) next() (int64, error) {
	var digits []byte
	for {
		if len(m.rest) == 0 {
			if m.stored < blockSize {
				return 0, malformed("the map of a sparse file has no end")
			}
			if err := m.decoder.read(m.block[:]); err != nil {
				return 0, err
			}
			m.rest, m.stored = m.block[:], m.stored-blockSize
		}
		digit := m.rest[0]
		m.rest = m.rest[1:]
		if digit == '\n' {
			return decimal(string(digits), math.MaxInt64)
		}
		if digits = append(digits, digit); len(digits) > 20 {
			return 0, malformed("the map of a sparse file has a number too long")
		}
	}
}

// read reads some of the last entry's data.
func (d *decoder) read(buf []byte) error {
	d.data -= int64(len(buf))
	return d.in.read(buf)
}
