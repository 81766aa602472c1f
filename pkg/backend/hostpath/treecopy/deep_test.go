package treecopy

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/internal/testenv"
	"github.com/snapdriver/snapdriver/pkg/backend"
)

// makeDeep makes a chain of directories, with a file in each but the last.
func makeDeep(t *testing.T, top string, nameLength, depth int) {
	t.Helper()
	name := strings.Repeat("n", nameLength)
	at, err := unix.Open(top, unix.O_PATH, 0)
	must(t, err)
	for range depth {
		must(t, unix.Mkdirat(at, name, 0o755))
		next, err := unix.Openat(at, name, unix.O_PATH, 0)
		must(t, err)
		must(t, unix.Mknodat(at, "file", unix.S_IFREG|0o644, 0))
		unix.Close(at)
		at = next
	}
	unix.Close(at)
}

func TestTooDeepTreeIsRefused(t *testing.T) {
	dir := testenv.TempDir(t)
	source := filepath.Join(dir, "source")
	root := openDir(t, source)
	makeDeep(t, source, 255, maxPath/256) // a byte less than the limit
	must(t, WriteTar(t.Context(), root, createFile(t, filepath.Join(dir, "tar")), nil))
	must(t, os.MkdirAll(filepath.Join(source, "m"), 0o755))
	must(t, os.Rename(filepath.Join(source, strings.Repeat("n", 255)), filepath.Join(source, "m", strings.Repeat("n", 255))))
	for name, err := range map[string]error{
		"WriteTar": WriteTar(t.Context(), root, createFile(t, filepath.Join(dir, "tar-2")), nil),
		"CopyTree": CopyTree(t.Context(), root, openDir(t, filepath.Join(dir, "copy")), nil),
	} {
		if !errors.Is(err, backend.ErrPrecondition) || len(err.Error()) > 1000 {
			t.Errorf("%s: want a short backend.ErrPrecondition, got %v", name, err)
		}
	}
}

func TestDeepTree(t *testing.T) {
	const depth = 3000
	ctx := context.Background()
	dir := testenv.TempDir(t)
	source := filepath.Join(dir, "source")
	root := openDir(t, source)
	makeDeep(t, source, 20, depth) // far more than PATH_MAX
	count := func(tree string) string {
		return testenv.Run(t, "sh", "-c", "find "+tree+" -printf '%d %y %f\n' | tail -n +2 | sort | uniq -c | sort | sha256sum")
	}
	want := count(source)
	var limit unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	few := unix.Rlimit{Cur: min(500, limit.Max), Max: limit.Max}
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &few))
	defer func() { must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)) }()

	must(t, ReadTar(ctx, archive(t, source), openDir(t, filepath.Join(dir, "from-tar")), nil))
	must(t, CopyTree(ctx, root, openDir(t, filepath.Join(dir, "from-tree")), nil))
	for _, tree := range []string{"from-tar", "from-tree"} {
		if got := count(filepath.Join(dir, tree)); got != want {
			t.Errorf("%s differs", tree)
		}
	}
}

// TestPathsOfADeepTreeAreNotAllKept, neither on the way down a tree nor while one
// is made: those of 64 Ki directories in each other have 4 GiB.
func TestPathsOfADeepTreeAreNotAllKept(t *testing.T) {
	const depth, length = 3000, 20 // the paths have 94 MB
	const most = 20 << 20
	dir := testenv.TempDir(t)
	source := filepath.Join(dir, "source")
	root := openDir(t, source)
	makeDeep(t, source, length, depth)
	before, took := heap(), int64(0)
	w := walker{
		ctx: t.Context(),
		enter: func(path string, _ *directory, _ *unix.Stat_t) error {
			if strings.Count(path, "/") == depth-1 {
				took = heap() - before
			}
			return nil
		},
		files: func(string, *directory, []string) error { return nil },
	}
	must(t, w.walk(root))
	if took == 0 || took > most {
		t.Errorf("%d bytes are kept of a tree", took)
	}

	copying := newWorkers(t.Context())
	defer copying.cancel(nil)
	made := openDir(t, filepath.Join(dir, "made"))
	m, err := newMover(copying, made, nil)
	must(t, err)
	sink, err := newTreeSink(copying, m, made)
	must(t, err)
	defer sink.close()
	before = heap()
	path := ""
	for range depth {
		path = join(path, strings.Repeat("n", length))
		must(t, sink.makeDirectory(entry{path: strings.Clone(path), mode: unix.S_IFDIR | 0o755}))
	}
	if took := heap() - before; took > most {
		t.Errorf("%d bytes are kept of a tree that is made", took)
	}
}
