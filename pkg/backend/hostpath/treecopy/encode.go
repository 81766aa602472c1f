package treecopy

import (
	"fmt"
	"math"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

// encoder makes the headers of entries. It keeps its memory between them.
type encoder struct {
	block     [blockSize]byte
	records   []byte
	sparseMap []byte
}

// header appends to buf all that comes before e's data. buf ends at offset in
// the archive; with align above zero, a multiple of blockSize, the data starts
// at a multiple of align.
func (enc *encoder) header(buf []byte, e *entry, offset, align int64) ([]byte, error) {
	enc.block, enc.records, enc.sparseMap = [blockSize]byte{}, enc.records[:0], enc.sparseMap[:0]
	enc.number(modeField, "", int64(e.mode&^unix.S_IFMT))
	enc.number(uidField, paxUID, int64(e.uid))
	enc.number(gidField, paxGID, int64(e.gid))
	kind := byte(typeLink)
	if e.sameAs != "" {
		enc.text(nameField, paxPath, rootName+e.path)
		enc.text(linkField, paxLinkPath, rootName+e.sameAs)
		enc.number(mtimeField, "", e.mtime.Sec)
		enc.number(sizeField, paxSize, 0)
	} else {
		kind = enc.describe(e)
	}
	enc.pad(offset, align)
	if len(enc.records) > maxRecords {
		return buf, fmt.Errorf("its name and extended attributes have %d bytes, and an archive holds %d for one file; remove some: %w",
			len(enc.records), maxRecords, backend.ErrPrecondition)
	}
	if len(enc.records) > 0 {
		buf = appendExtended(buf, enc.records)
	}
	buf = appendBlock(buf, &enc.block, kind)
	return append(buf, enc.sparseMap...), nil
}

// describe encodes all of e but what a hard link has too, and returns its type.
func (enc *encoder) describe(e *entry) (kind byte) {
	enc.time(e)
	for _, attribute := range e.xattrs {
		enc.record(paxXattr+keyEscaper.Replace(attribute.name), attribute.value)
	}
	name := rootName + e.path
	switch e.kind() {
	case unix.S_IFREG:
		enc.file(e)
		return typeFile
	case unix.S_IFSOCK:
		enc.record(paxType, paxTypeSocket)
		kind = typeFile
	case unix.S_IFDIR:
		if e.path != "" {
			name += "/"
		}
		kind = typeDir
	case unix.S_IFLNK:
		enc.text(linkField, paxLinkPath, e.target)
		kind = typeSymlink
	case unix.S_IFIFO:
		kind = typeFifo
	case unix.S_IFCHR:
		kind = typeChar
	case unix.S_IFBLK:
		kind = typeBlock
	}
	if kind == typeChar || kind == typeBlock {
		enc.number(majorField, "", int64(unix.Major(e.device)))
		enc.number(minorField, "", int64(unix.Minor(e.device)))
	}
	enc.text(nameField, paxPath, name)
	enc.number(sizeField, paxSize, 0)
	return kind
}

// file encodes what only regular files have.
func (enc *encoder) file(e *entry) {
	size := e.contents.stored()
	if !e.contents.sparse() {
		enc.text(nameField, paxPath, rootName+e.path)
		enc.number(sizeField, paxSize, size)
		return
	}
	enc.makeMap(&e.contents)
	enc.record(paxSparseMajor, "1")
	enc.record(paxSparseMinor, "0")
	enc.record(paxSparseName, rootName+e.path)
	enc.record(paxSparseRealSize, strconv.FormatInt(e.contents.size, 10))
	// The plain name is for programs that do not know sparse files.
	dir, name := split(e.path)
	enc.text(nameField, "", rootName+join(dir, "GNUSparseFile.0/"+name))
	enc.number(sizeField, paxSize, size+int64(len(enc.sparseMap)))
}

// makeMap makes the map that GNU sparse format 1.0 puts before the data: how
// many segments there are, and where each is.
func (enc *encoder) makeMap(c *contents) {
	segments := c.segments
	if n := len(segments); n == 0 || segments[n-1].offset+segments[n-1].length < c.size {
		// GNU tar takes the size of the file from an empty last segment.
		segments = append(segments[:n:n], segment{offset: c.size})
	}
	number := func(n int64) {
		enc.sparseMap = append(strconv.AppendInt(enc.sparseMap, n, 10), '\n')
	}
	number(int64(len(segments)))
	for _, s := range segments {
		number(s.offset)
		number(s.length)
	}
	enc.sparseMap = appendZeros(enc.sparseMap, roundUp(int64(len(enc.sparseMap)))-int64(len(enc.sparseMap)))
}

// time encodes the times of modification and, where it is another, of access.
func (enc *encoder) time(e *entry) {
	mtime, atime := readable(e.mtime), readable(e.atime)
	if mtime.Nsec == 0 {
		enc.number(mtimeField, paxMtime, mtime.Sec)
	} else {
		enc.number(mtimeField, "", mtime.Sec)
		enc.timeRecord(paxMtime, mtime)
	}
	if atime != mtime {
		enc.timeRecord(paxAtime, atime)
	}
}

// readable returns a time that can be read again. Before the earliest is one
// more second, which some filesystems take and whose number has no negative.
func readable(t unix.Timespec) unix.Timespec {
	t.Sec = max(t.Sec, -math.MaxInt64)
	return t
}

// timeRecord appends a record with a time as seconds with nine decimals.
func (enc *encoder) timeRecord(key string, t unix.Timespec) {
	var digits [32]byte
	text := digits[:0]
	seconds, nanoseconds := t.Sec, t.Nsec
	if seconds < 0 {
		text = append(text, '-')
		seconds = -seconds
		if nanoseconds > 0 {
			seconds, nanoseconds = seconds-1, 1e9-nanoseconds
		}
	}
	text = strconv.AppendInt(text, seconds, 10)
	point := len(text)
	text = strconv.AppendInt(text, 1e9+nanoseconds, 10) // a 1 and nine digits
	text[point] = '.'
	enc.record(key, string(text))
}

// text puts s into a field, and into a record when it is too long for that
// and there is a keyword.
func (enc *encoder) text(f field, key, s string) {
	if n := copy(enc.block[f.start:f.end], s); n < len(s) && key != "" {
		enc.record(key, s)
	}
}

// number puts n into a field, in octal digits, or into a record when it does
// not fit and there is a keyword.
func (enc *encoder) number(f field, key string, n int64) {
	digits := f.end - f.start - 1
	if n < 0 || n >= 1<<(3*digits) {
		if key != "" {
			enc.record(key, strconv.FormatInt(n, 10))
		}
		n = 0
	}
	putOctal(enc.block[f.start:][:digits], n)
}

func putOctal(digits []byte, n int64) {
	for i := len(digits) - 1; i >= 0; i-- {
		digits[i] = '0' + byte(n&7)
		n >>= 3
	}
}

// record appends a PAX record: its length in all, keyword, value.
func (enc *encoder) record(key, value string) {
	fixed := len(key) + len(value) + len(" =\n")
	length := fixed + len(strconv.Itoa(fixed))
	length = fixed + len(strconv.Itoa(length))
	enc.records = strconv.AppendInt(enc.records, int64(length), 10)
	enc.records = append(enc.records, ' ')
	enc.records = append(enc.records, key...)
	enc.records = append(enc.records, '=')
	enc.records = append(enc.records, value...)
	enc.records = append(enc.records, '\n')
}

// pad adds a comment to the records that brings the data, which the headers
// precede, to a multiple of align.
func (enc *encoder) pad(offset, align int64) {
	if align == 0 {
		return
	}
	data := offset + blockSize + int64(len(enc.sparseMap))
	if len(enc.records) > 0 {
		data += blockSize + roundUp(int64(len(enc.records)))
	}
	missing := (align - data%align) % align
	if missing > 0 && len(enc.records) == 0 {
		// The first record costs a header of its own.
		missing = (missing+align-blockSize-1)%align + 1
	}
	if missing == 0 {
		return
	}
	// As missing is whole blocks, a record of just that length will do.
	start := len(enc.records)
	enc.records = fmt.Appendf(enc.records, "%d %s=", missing, paxComment)
	for int64(len(enc.records)-start) < missing-1 {
		enc.records = append(enc.records, ' ')
	}
	enc.records = append(enc.records, '\n')
}

// appendExtended appends the records as an entry of their own.
func appendExtended(buf, records []byte) []byte {
	var block [blockSize]byte
	copy(block[:], rootName+"PaxHeaders/records")
	for _, f := range []field{uidField, gidField, mtimeField} {
		putOctal(block[f.start:f.end-1], 0)
	}
	putOctal(block[modeField.start:modeField.end-1], 0o644)
	putOctal(block[sizeField.start:sizeField.end-1], int64(len(records)))
	buf = append(appendBlock(buf, &block, typeExtended), records...)
	return appendZeros(buf, roundUp(int64(len(records)))-int64(len(records)))
}

// appendBlock completes a header and appends it.
func appendBlock(buf []byte, block *[blockSize]byte, kind byte) []byte {
	block[typeField.start] = kind
	copy(block[magicField.start:], magic)
	putOctal(block[checksumField.start:checksumField.end-2], checksum(block[:]))
	block[checksumField.end-1] = ' '
	return append(buf, block[:]...)
}

var zeros [blockSize]byte

// appendZeros appends n zeros, less than a block.
func appendZeros(buf []byte, n int64) []byte { return append(buf, zeros[:n]...) }
