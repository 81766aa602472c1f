package treecopy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/internal/testenv"
	"github.com/snapdriver/snapdriver/pkg/backend"
)

// makeAttributes makes a file with so many extended attributes of 64 KiB.
func makeAttributes(t *testing.T, path string, count int) {
	t.Helper()
	value := []byte(strings.Repeat("v", 64<<10))
	must(t, os.WriteFile(path, nil, 0o644))
	for i := range count {
		must(t, unix.Setxattr(path, fmt.Sprint("user.", i), value, 0))
	}
}

// batchesOf returns how many entries a source has in its batches, and the most
// that comes with those of one.
func batchesOf(t *testing.T, w *workers, from source) (entries int, most int64) {
	t.Helper()
	defer w.running.Wait()
	defer from.close()
	for {
		b, err := from.next()
		if err == io.EOF { //nolint:errorlint // as in pump
			return entries, most
		}
		must(t, err)
		entries, most = entries+len(b.entries), max(most, b.extras())
		b.free()
	}
}

// TestBatchesEndWithManyAttributes: what comes with the files of a batch is not
// some megabytes for each.
func TestBatchesEndWithManyAttributes(t *testing.T) {
	dir := testenv.Filesystem(t, "xfs", 1<<30)
	root := openDir(t, filepath.Join(dir, "source"))
	const files, each = 60, 8 // that is half a megabyte
	for i := range files {
		makeAttributes(t, filepath.Join(root.Name(), fmt.Sprint("file-", i)), each)
	}
	out := createFile(t, filepath.Join(dir, "tar"))
	must(t, WriteTar(t.Context(), root, out, nil))
	for name, open := range map[string]func(w *workers) (source, error){
		"tree": func(w *workers) (source, error) {
			m, err := newMover(w, out, nil)
			must(t, err)
			f, err := newFreezer(out, m)
			must(t, err)
			return newTreeSource(w, root, f)
		},
		"archive": func(w *workers) (source, error) { return newTarSource(w, out, nil) },
	} {
		w := newWorkers(t.Context())
		from, err := open(w)
		must(t, err)
		entries, most := batchesOf(t, w, from)
		if entries != files+1 || most > batchExtras+batchExtras/2+1<<16 {
			t.Errorf("%s: %d entries, up to %d bytes come with a batch", name, entries, most)
		}
		w.cancel(nil)
	}
}

// TestBatchesEndWithLongPaths, of which each entry has its own.
func TestBatchesEndWithLongPaths(t *testing.T) {
	b := newBatch(strings.Repeat("d", maxPath))
	defer b.free()
	b.names, b.ready = strings.Fields(strings.Repeat("name ", batchEntries)), make(chan struct{})
	root := openDir(t, t.TempDir())
	must(t, unix.Mkfifo(filepath.Join(root.Name(), "name"), 0o644))
	from, err := openDirectory(int(root.Fd()), ".")
	must(t, err)
	b.from = from
	proc, err := unix.Open(procSelf, unix.O_PATH|unix.O_DIRECTORY, 0)
	must(t, err)
	defer unix.Close(proc)
	w := newWorkers(t.Context())
	defer w.cancel(nil)
	must(t, (&treeSource{workers: w}).read(newReader(proc, nil), b))
	if b.extras() > batchExtras+2*maxPath || len(b.names) == 0 {
		t.Errorf("%d bytes come with a batch, and %d names are left", b.extras(), len(b.names))
	}
}

// TestOneEntryLargerThanTheRoom does not wait for room that there never is.
func TestOneEntryLargerThanTheRoom(t *testing.T) {
	dir := testenv.Filesystem(t, "xfs", 1<<30)
	source := filepath.Join(dir, "source")
	root := openDir(t, source)
	for i := range 3 {
		makeAttributes(t, filepath.Join(source, fmt.Sprint("file-", i)), maxXattrs/(64<<10)-1)
	}
	to := openDir(t, filepath.Join(dir, "copy"))
	must(t, CopyTree(testenv.Context(t), root, to, nil))
	equal(t, describe(t, source), describe(t, to.Name()))

	b := newBatch("")
	b.add().xattrs = []xattr{{"user.large", strings.Repeat("v", maxRecords)}}
	if weight(b) > sinkRoom() {
		t.Errorf("it weighs %d, and the room is %d", weight(b), sinkRoom())
	}
}

func TestTooManyAttributesAreRefused(t *testing.T) {
	dir := testenv.Filesystem(t, "xfs", 1<<30)
	source := filepath.Join(dir, "source")
	root := openDir(t, source)
	makeAttributes(t, filepath.Join(source, "file"), maxXattrs/(64<<10))
	wantRefused(t, dir, root, "file")
}

// TestMoreAttributeNamesThanAreListed: the kernel lets one set more than it lists.
func TestMoreAttributeNamesThanAreListed(t *testing.T) {
	dir := testenv.Filesystem(t, "xfs", 1<<30)
	source := filepath.Join(dir, "source")
	root := openDir(t, source)
	must(t, os.WriteFile(filepath.Join(source, "file"), nil, 0o644))
	for i := range 300 {
		must(t, unix.Setxattr(filepath.Join(source, "file"), fmt.Sprintf("user.%0245d", i), nil, 0))
	}
	wantRefused(t, dir, root, "file")
}

// TestMoreAttributesThanAnArchiveHolds is about the archive's own limit.
func TestMoreAttributesThanAnArchiveHolds(t *testing.T) {
	var enc encoder
	e := entry{path: "file", mode: unix.S_IFREG | 0o644, xattrs: []xattr{{"user.large", strings.Repeat("v", maxRecords)}}}
	if _, err := enc.header(nil, &e, 0, 0); !errors.Is(err, backend.ErrPrecondition) {
		t.Error(err)
	}
}

// wantRefused makes sure that a tree is refused because of a file in it.
func wantRefused(t *testing.T, dir string, root *os.File, file string) {
	t.Helper()
	for name, err := range map[string]error{
		"WriteTar": WriteTar(context.Background(), root, createFile(t, filepath.Join(dir, "refused.tar")), nil),
		"CopyTree": CopyTree(context.Background(), root, openDir(t, filepath.Join(dir, "refused")), nil),
	} {
		if !errors.Is(err, backend.ErrPrecondition) || !strings.Contains(err.Error(), file) || !strings.Contains(err.Error(), "remove some") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
