package treecopy

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

// pageSize is the size of the buffer for names; the names in one such page
// are visited in the order of their inodes, which is the order on the disk.
const pageSize = 128 << 10

// maxPath is the length in bytes of the longest path to a directory that is
// copied, 32 times PATH_MAX. As every entry of an archive has its whole path, a
// deep tree takes room and memory by the square of its depth.
const maxPath = 128 << 10

// walker visits a tree: each directory first, then its files, then the
// directories in it.
type walker struct {
	ctx   context.Context
	chain *chain
	page  []byte

	// path leads to the directory that is visited. It is the only one that is
	// kept: those of all above it grow by the square of the depth.
	path []byte

	// mayRepeat says that a name may come twice that is made again meanwhile: the
	// names of a large directory are then not kept.
	mayRepeat bool

	// enter is called for each directory, the root included.
	enter func(path string, dir *directory, st *unix.Stat_t) error

	// files is called with names in a directory. Which type they have is
	// not known yet, but they are not likely to be directories.
	files func(path string, dir *directory, names []string) error
}

// walk visits the tree below root.
func (w *walker) walk(root *os.File) (err error) {
	if w.chain, err = newChain(root); err != nil {
		return err
	}
	defer w.chain.close()
	w.page = make([]byte, pageSize)
	var st unix.Stat_t
	if err := unix.Fstat(w.chain.root.fd, &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	return w.visit(w.chain.root, &st)
}

func (w *walker) visit(dir *directory, st *unix.Stat_t) error {
	path := string(w.path)
	if len(path) > maxPath {
		return fmt.Errorf("copy directory %.200q...: its path is longer than %d bytes, the limit; move it up: %w",
			path, maxPath, backend.ErrPrecondition)
	}
	if err := w.enter(path, dir, st); err != nil {
		return err
	}
	names, err := w.list(path, dir)
	if err != nil {
		return err
	}
	above := len(path)
	for _, name := range names {
		if err := w.ctx.Err(); err != nil {
			return err
		}
		if w.path = w.path[:above]; above > 0 {
			w.path = append(w.path, '/')
		}
		w.path = append(w.path, name...)
		child, st, err := w.chain.push(name)
		if vanished(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("open directory %q: %w", w.path, err)
		}
		if err := w.visit(child, st); err != nil {
			return err
		}
		w.chain.up()
	}
	return nil
}

// list hands the names in dir to files, apart from those of directories,
// which it returns. Every name comes once, also when it is removed and made
// again between two pages, which may both have it then.
func (w *walker) list(path string, dir *directory) (directories []string, err error) {
	var first []dirent // the first page
	var seen *nameSet  // the names in all pages, once there are several
	for {
		n, err := unix.ReadDirent(dir.fd, w.page)
		if n == 0 || err == unix.ENOENT { // at the end, or removed meanwhile
			return directories, nil
		}
		if err != nil {
			return nil, fmt.Errorf("list directory %q: %w", path, err)
		}
		found := parseNames(w.page[:n])
		switch {
		case w.mayRepeat:
		case first == nil:
			first = found
		case seen == nil:
			seen = newNameSet()
			seen.dropRepeated(first)
			fallthrough
		default:
			found = seen.dropRepeated(found)
		}
		slices.SortFunc(found, func(a, b dirent) int { return cmp.Compare(a.inode, b.inode) })
		names := make([]string, 0, len(found))
		for _, entry := range found {
			if entry.isDir(dir) {
				directories = append(directories, entry.name)
			} else {
				names = append(names, entry.name)
			}
		}
		if err := w.files(path, dir, names); err != nil {
			return nil, err
		}
	}
}

// nameSet is a set of names. Of each it has two hashes, by seeds that nobody
// knows, together so long that no two names have the same.
type nameSet struct {
	seeds [2]maphash.Seed
	names map[[2]uint64]struct{}
}

func newNameSet() *nameSet {
	return &nameSet{[2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}, make(map[[2]uint64]struct{})}
}

// add says whether the name is new.
func (s *nameSet) add(name string) bool {
	before := len(s.names)
	s.names[[2]uint64{maphash.String(s.seeds[0], name), maphash.String(s.seeds[1], name)}] = struct{}{}
	return len(s.names) > before
}

// dropRepeated adds the names in page and returns those that are new.
func (s *nameSet) dropRepeated(page []dirent) []dirent {
	return slices.DeleteFunc(page, func(d dirent) bool { return !s.add(d.name) })
}

type dirent struct {
	inode uint64
	kind  byte
	name  string
}

// isDir goes by what the directory says, where it says it.
func (d *dirent) isDir(dir *directory) bool {
	if d.kind != unix.DT_UNKNOWN {
		return d.kind == unix.DT_DIR
	}
	var st unix.Stat_t
	err := unix.Fstatat(dir.fd, d.name, &st, unix.AT_SYMLINK_NOFOLLOW)
	return err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
}

// parseNames reads what getdents64(2) returned.
func parseNames(page []byte) []dirent {
	const headerSize = 19 // inode, offset, length of the record, type
	var names []dirent
	for len(page) > headerSize {
		length := binary.NativeEndian.Uint16(page[16:])
		name := page[headerSize:length]
		name = name[:bytes.IndexByte(name, 0)]
		if string(name) != "." && string(name) != ".." {
			names = append(names, dirent{binary.NativeEndian.Uint64(page), page[18], string(name)})
		}
		page = page[length:]
	}
	return names
}

// vanished says whether err means that a name found in a directory is not, or
// no longer, that of something in this tree: removed, made something else, or
// hidden by a mount.
func vanished(err error) bool {
	for _, gone := range []error{unix.ENOENT, unix.ENOTDIR, unix.ELOOP, unix.EXDEV, unix.ESTALE} {
		if errors.Is(err, gone) {
			return true
		}
	}
	return false
}
