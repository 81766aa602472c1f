package treecopy

import (
	"bytes"
	"math"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

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
	s, _, _ := bytes.Cut(block[f.start:f.end], []byte{0})
	return string(s)
}

// octal reads a number that may be filled up with spaces and zero bytes.
func octal(block []byte, f field) (int64, error) {
	digits := bytes.Trim(block[f.start:f.end], " \x00")
	var n int64
	for _, digit := range digits {
		if digit < '0' || digit > '7' || n > math.MaxInt64>>3 {
			return 0, malformed("%.20q is not an octal number", digits)
		}
		n = n<<3 | int64(digit-'0')
	}
	return n, nil
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
