package treecopy

import (
	"fmt"
	"strings"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

const (
	// linksMemory is how many bytes a copy may take to know which files it has
	// seen under another name.
	linksMemory = 512 << 20

	// linkSize is about what a file takes of that beside its name: its inode,
	// its handle, and a map that is half empty.
	linkSize = 200
)

// links has the files with several names of which not all were seen.
type links struct {
	budget int64 // in bytes
	used   int64
	files  map[inode]linked
	last   *linksDir // where the last file was first seen
}

// linked is a file with several names.
type linked struct {
	dir   *linksDir // where it was first seen
	name  string    // under which
	seen  uint32    // names
	links uint32    // the most names that it was seen to have
}

// linksDir is a directory that files were first seen in.
type linksDir struct {
	path  string
	files int
}

func newLinks(budget int64) *links { return &links{budget: budget, files: make(map[inode]linked)} }

// see returns the path under which a file was first seen, empty if that is now.
// backend.ErrPrecondition when there are too many to know.
func (l *links) see(dir string, e *entry) (first string, err error) {
	file, found := l.files[e.inode]
	if !found {
		file = l.record(dir, e)
	} else {
		first = join(file.dir.path, file.name)
	}
	file.seen, file.links = file.seen+1, max(file.links, e.links)
	if file.seen >= file.links {
		l.forget(e.inode, file)
		return first, nil
	}
	l.files[e.inode] = file
	if l.used > l.budget {
		return "", fmt.Errorf("copy %.200q: it is one of %d files with several names (hard links) that were not all met yet, and to keep them in mind takes more than %d bytes, the limit; remove some, or make copies of them: %w",
			e.path, len(l.files), l.budget, backend.ErrPrecondition)
	}
	return first, nil
}

func (l *links) record(dir string, e *entry) linked {
	if l.last == nil || l.last.files == 0 || l.last.path != dir {
		l.last = &linksDir{path: dir}
		l.used += int64(len(dir))
	}
	l.last.files++
	_, name := split(e.path)
	l.used += linkSize + int64(len(name))
	// The path that it is part of may be many times as long.
	return linked{dir: l.last, name: strings.Clone(name)}
}

// forget lets go of a file all of whose names were seen.
func (l *links) forget(id inode, file linked) {
	delete(l.files, id)
	l.used -= linkSize + int64(len(file.name))
	if file.dir.files--; file.dir.files == 0 {
		l.used -= int64(len(file.dir.path))
	}
}
