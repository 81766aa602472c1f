package treecopy

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/sys/unix"
)

// A tar file is a series of blocks: for each entry a header and its data,
// filled up to a whole block, and two empty blocks at the end.
const blockSize = 512

// The fields of a ustar header (POSIX.1-2024, pax, "ustar Interchange Format").
type field struct{ start, end int }

var (
	nameField     = field{0, 100}
	modeField     = field{100, 108}
	uidField      = field{108, 116}
	gidField      = field{116, 124}
	sizeField     = field{124, 136}
	mtimeField    = field{136, 148}
	checksumField = field{148, 156}
	typeField     = field{156, 157}
	linkField     = field{157, 257}
	magicField    = field{257, 265}
	majorField    = field{329, 337}
	minorField    = field{337, 345}
)

// magic is the ustar magic with its version.
const magic = "ustar\x0000"

// The types of entries.
const (
	typeFile     = '0'
	typeLink     = '1'
	typeSymlink  = '2'
	typeChar     = '3'
	typeBlock    = '4'
	typeDir      = '5'
	typeFifo     = '6'
	typeExtended = 'x'
)

// The keywords of PAX records.
const (
	paxPath           = "path"
	paxLinkPath       = "linkpath"
	paxSize           = "size"
	paxUID            = "uid"
	paxGID            = "gid"
	paxMtime          = "mtime"
	paxAtime          = "atime"
	paxComment        = "comment"
	paxXattr          = "SCHILY.xattr."
	paxSparseMajor    = "GNU.sparse.major"
	paxSparseMinor    = "GNU.sparse.minor"
	paxSparseName     = "GNU.sparse.name"
	paxSparseRealSize = "GNU.sparse.realsize"
	paxType           = "SNAPDRIVER.type"
	paxTypeSocket     = "socket"
)

// rootName is what names in the archive begin with: the name of the root.
const rootName = "./"

// maxRecords bounds the PAX records of one entry, in bytes.
const maxRecords = 64 << 20

// GNU tar writes a keyword with these characters in it so.
var (
	keyEscaper   = strings.NewReplacer("%", "%25", "=", "%3D")
	keyUnescaper = strings.NewReplacer("%25", "%", "%3D", "=")
)

// fileTypes are the types of entries and what they are in a tree.
var fileTypes = map[byte]uint32{
	typeFile:    unix.S_IFREG,
	typeSymlink: unix.S_IFLNK,
	typeChar:    unix.S_IFCHR,
	typeBlock:   unix.S_IFBLK,
	typeDir:     unix.S_IFDIR,
	typeFifo:    unix.S_IFIFO,
}

// errArchive is what every complaint about an archive wraps.
var errArchive = errors.New("bad archive")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %w", errArchive, fmt.Errorf(format, args...))
}

// truncated makes the end of the archive, where there should be more, an error
// that says so.
func truncated(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return malformed("it ends too early: %w", io.ErrUnexpectedEOF)
	}
	return err
}

// roundUp returns n, filled up to whole blocks.
func roundUp(n int64) int64 { return (n + blockSize - 1) &^ (blockSize - 1) }

// checksum returns the sum of a header's bytes, its checksum taken as spaces.
func checksum(header []byte) int64 {
	var sum int64
	for _, b := range header {
		sum += int64(b)
	}
	for _, b := range header[checksumField.start:checksumField.end] {
		sum += ' ' - int64(b)
	}
	return sum
}
