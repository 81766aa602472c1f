package treecopy

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/snapdriver/snapdriver/internal/testenv"
	"github.com/snapdriver/snapdriver/pkg/backend"
)

// seeAll has l see a file of an inode under so many names, in one directory.
func seeAll(t *testing.T, l *links, dir string, ino uint64, names int) {
	t.Helper()
	for i := range names {
		e := entry{path: fmt.Sprintf("%s/%d-%d", dir, ino, i), inode: inode{ino: ino}, links: uint32(names)}
		first, err := l.see(dir, &e)
		must(t, err)
		if want := fmt.Sprintf("%s/%d-0", dir, ino); i > 0 && first != want || i == 0 && first != "" {
			t.Fatalf("name %d is one more of %q, want %q", i, first, want)
		}
	}
}

// TestFilesOfWhichAllNamesWereSeenAreForgotten, or a tree of many files with two
// names each, one beside the other, would take more memory than there is.
func TestFilesOfWhichAllNamesWereSeenAreForgotten(t *testing.T) {
	const length = 2000
	long := strings.Repeat("d", length)
	l := newLinks(2 * length)
	for i := range uint64(1000) {
		seeAll(t, l, fmt.Sprint(long, i), i, 3)
	}
	if len(l.files) > 0 || l.used != 0 {
		t.Errorf("%d files, %d bytes are kept", len(l.files), l.used)
	}
	// A name that is made between the first and the last is one of them.
	for i, links := range []uint32{2, 3, 3} {
		e := entry{path: fmt.Sprint("d/", i), inode: inode{ino: 1}, links: links}
		if first, err := l.see("d", &e); err != nil || (first == "") != (i == 0) {
			t.Errorf("name %d: %q %v", i, first, err)
		}
	}
	if len(l.files) > 0 || l.used != 0 {
		t.Errorf("%d files, %d bytes are kept", len(l.files), l.used)
	}
}

// TestLinksTakeLittleMemory: of files in a deep directory, what is kept are the
// names, and not the paths.
func TestLinksTakeLittleMemory(t *testing.T) {
	dir := strings.Repeat("d", 4000)
	l := newLinks(linksMemory)
	const files = 10_000
	before := heap()
	for i := range uint64(files) {
		path := fmt.Sprintf("%s/name-%d", dir, i)
		_, err := l.see(dir, &entry{path: path, inode: inode{ino: i, life: fmt.Sprintf("handle-%020d", i)}, links: 2})
		must(t, err)
	}
	if took := heap() - before; took > l.used {
		t.Errorf("%d bytes for %d files, of which %d are accounted for", took, files, l.used)
	}
}

func TestTooManyLinksAreRefused(t *testing.T) {
	l := newLinks(10_000)
	var err error
	n := 0
	for ; err == nil && n < 1000; n++ {
		_, err = l.see("dir", &entry{path: fmt.Sprint("dir/file-", n), inode: inode{ino: uint64(n)}, links: 2})
	}
	if !errors.Is(err, backend.ErrPrecondition) || n > 60 || !strings.Contains(err.Error(), "dir/file-") {
		t.Errorf("after %d files: %v", n, err)
	}
}

// TestLinksAcrossDirectories: whichever names of a file lie where, a copy has
// them all.
func TestLinksAcrossDirectories(t *testing.T) {
	dir := testenv.TempDir(t)
	source := filepath.Join(dir, "source")
	for i := range 300 {
		in := filepath.Join(source, fmt.Sprint("dir-", i%3))
		must(t, os.MkdirAll(in, 0o755))
		name := filepath.Join(in, fmt.Sprint("file-", i))
		must(t, os.WriteFile(name, []byte(name), 0o600))
		for j := range i % 4 {
			to := filepath.Join(source, fmt.Sprint("dir-", (i+j)%5))
			must(t, os.MkdirAll(to, 0o755))
			must(t, os.Link(name, filepath.Join(to, fmt.Sprintf("link-%d-%d", i, j))))
		}
	}
	to := filepath.Join(dir, "copy")
	must(t, CopyTree(t.Context(), openDir(t, source), openDir(t, to), nil))
	equal(t, describe(t, source), describe(t, to))
}

// heap returns how many bytes are in use.
func heap() int64 {
	var stats runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}
