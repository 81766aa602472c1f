package treecopy

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// decoder reads what encoder made. It believes nothing: every number and every
// name is checked before it is used.
type decoder struct {
	in      *input
	records []byte

	// data is how many bytes of the last entry, its filling included, have
	// not been read.
	data int64

	// started says that the root was read.
	started bool
}

// header is an entry in the making.
type header struct {
	entry
	name   string
	link   string
	stored int64 // what the header has as its size

	sparse     bool
	realSize   int64
	sparseName string
	socket     bool
	atimeSet   bool
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
		if err := d.readRecords(&block); err != nil {
			return err
		}
		if block, err = d.block(); err == io.EOF {
			return malformed("records without an entry")
		} else if err != nil {
			return err
		}
	}
	h := header{entry: entry{contents: contents{file: noFile}}}
	if err := h.parse(&block); err != nil {
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

// block reads a header and checks it. io.EOF at the end of the archive.
func (d *decoder) block() (block [blockSize]byte, err error) {
	if err := d.in.read(block[:]); err != nil {
		return block, err
	}
	if block == zeros {
		return block, d.end()
	}
	sum, err := octal(block[:], checksumField)
	if err != nil {
		return block, err
	}
	if sum != checksum(block[:]) {
		return block, malformed("a header's checksum is wrong")
	}
	if !bytes.Equal(block[magicField.start:magicField.end], []byte(magic)) {
		return block, malformed("it is not a POSIX tar file")
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

// parse takes what the ustar header says.
func (h *header) parse(block *[blockSize]byte) error {
	kind := block[typeField.start]
	if kind != typeLink {
		h.mode = fileTypes[kind]
		if h.mode == 0 {
			return malformed("an entry of type %q, which is not ours", kind)
		}
	}
	h.name, h.link = text(block, nameField), text(block, linkField)
	for _, number := range []struct {
		field
		set func(int64)
	}{
		{modeField, func(n int64) { h.mode |= uint32(n) &^ unix.S_IFMT & 0o7777 }},
		{uidField, func(n int64) { h.uid = uint32(n) }},
		{gidField, func(n int64) { h.gid = uint32(n) }},
		{sizeField, func(n int64) { h.stored = n }},
		{mtimeField, func(n int64) { h.mtime.Sec = n }},
	} {
		n, err := octal(block[:], number.field)
		if err != nil {
			return err
		}
		number.set(n)
	}
	if kind == typeChar || kind == typeBlock {
		major, err := octal(block[:], majorField)
		if err != nil {
			return err
		}
		minor, err := octal(block[:], minorField)
		if err != nil {
			return err
		}
		h.device = unix.Mkdev(uint32(major), uint32(minor))
	}
	return nil
}

// apply takes what a PAX record says.
func (h *header) apply(key, value string) (err error) {
	switch key {
	case paxPath:
		h.name = value
	case paxLinkPath:
		h.link = value
	case paxSize:
		h.stored, err = decimal(value, math.MaxInt64)
	case paxUID:
		h.uid, err = id(value)
	case paxGID:
		h.gid, err = id(value)
	case paxMtime:
		h.mtime, err = parseTime(value)
	case paxAtime:
		h.atimeSet = true
		h.atime, err = parseTime(value)
	case paxSparseMajor, paxSparseMinor:
		h.sparse = true
		if value != map[string]string{paxSparseMajor: "1", paxSparseMinor: "0"}[key] {
			err = malformed("%s is %.20q: only sparse format 1.0 is known", key, value)
		}
	case paxSparseName:
		h.sparseName = value
	case paxSparseRealSize:
		h.realSize, err = decimal(value, math.MaxInt64)
	case paxType:
		h.socket = value == paxTypeSocket
		if !h.socket {
			err = malformed("%s is %.20q, which is not known", key, value)
		}
	default:
		if name, found := strings.CutPrefix(key, paxXattr); found {
			h.xattrs = append(h.xattrs, xattr{keyUnescaper.Replace(name), value})
		}
	}
	return err
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
	var block [blockSize]byte
	var rest []byte
	number := func() (int64, error) {
		var digits []byte
		for {
			if len(rest) == 0 {
				if stored < blockSize {
					return 0, malformed("the map of a sparse file has no end")
				}
				if err := d.read(block[:]); err != nil {
					return 0, err
				}
				rest, stored = block[:], stored-blockSize
			}
			digit := rest[0]
			rest = rest[1:]
			if digit == '\n' {
				return decimal(string(digits), math.MaxInt64)
			}
			if digits = append(digits, digit); len(digits) > 20 {
				return 0, malformed("the map of a sparse file has a number too long")
			}
		}
	}
	count, err := number()
	if err != nil {
		return err
	}
	if count > maxSegments+1 {
		return malformed("a sparse file of %d segments", count)
	}
	var end, sum int64
	for range count {
		s := segment{stored: sum}
		if s.offset, err = number(); err == nil {
			s.length, err = number()
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
	if sum != stored {
		return malformed("a sparse file's segments have %d bytes, its data has %d", sum, stored)
	}
	for i := range c.segments {
		c.segments[i].stored += d.in.offset
	}
	return nil
}

// read reads some of the last entry's data.
func (d *decoder) read(buf []byte) error {
	d.data -= int64(len(buf))
	return d.in.read(buf)
}

// parseRecords calls apply with each PAX record.
func parseRecords(records []byte, apply func(key, value string) error) error {
	for len(records) > 0 {
		space := bytes.IndexByte(records[:min(len(records), 20)], ' ')
		if space < 0 {
			return malformed("a record without a length")
		}
		length, err := decimal(string(records[:space]), int64(len(records)))
		if err != nil {
			return err
		}
		if int(length) <= space+1 || records[length-1] != '\n' {
			return malformed("a record of a wrong length")
		}
		key, value, found := strings.Cut(string(records[space+1:length-1]), "=")
		if !found {
			return malformed("a record without a value")
		}
		if err := apply(key, value); err != nil {
			return err
		}
		records = records[length:]
	}
	return nil
}

// cleanPath returns the path of an entry that the archive calls name. Nothing
// is cleaned up: a name that could lead elsewhere is refused.
func cleanPath(name string, dir bool) (string, error) {
	path, found := strings.CutPrefix(name, rootName)
	if dir && path != "" {
		path = strings.TrimSuffix(path, "/")
	}
	if !found || strings.IndexByte(path, 0) >= 0 {
		return "", malformed("its name does not begin with %q", rootName)
	}
	if path == "" && dir {
		return "", nil
	}
	for component := range strings.SplitSeq(path, "/") {
		if component == "" || component == "." || component == ".." {
			return "", malformed("its name has the component %q", component)
		}
	}
	return path, nil
}

func text(block *[blockSize]byte, f field) string {
	s, _, _ := strings.Cut(string(block[f.start:f.end]), "\x00")
	return s
}

// octal reads a number that may be filled up with spaces and zero bytes.
func octal(block []byte, f field) (int64, error) {
	digits := string(bytes.Trim(block[f.start:f.end], " \x00"))
	if digits == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(digits, 8, 63)
	if err != nil {
		return 0, malformed("%.20q is not an octal number", digits)
	}
	return int64(n), nil
}

// decimal reads a number from zero to most.
func decimal(s string, most int64) (int64, error) {
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil || int64(n) > most {
		return 0, malformed("%.20q is not a number from 0 to %d", s, most)
	}
	return int64(n), nil
}

// id reads the number of a user or a group.
func id(s string) (uint32, error) {
	n, err := decimal(s, math.MaxUint32)
	return uint32(n), err
}

// parseTime reads what timeRecord wrote.
func parseTime(s string) (unix.Timespec, error) {
	seconds, fraction, _ := strings.Cut(s, ".")
	seconds, negative := strings.CutPrefix(seconds, "-")
	sec, err := decimal(seconds, math.MaxInt64)
	if err != nil {
		return unix.Timespec{}, err
	}
	nsec, err := decimal((fraction + "000000000")[:9], 1e9-1)
	if err != nil {
		return unix.Timespec{}, err
	}
	if negative {
		if sec = -sec; nsec > 0 {
			sec, nsec = sec-1, 1e9-nsec
		}
	}
	return unix.Timespec{Sec: sec, Nsec: nsec}, nil
}
