package treecopy

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/internal/testenv"
)

// TestNamesMadeAgainAreListedOnce removes and makes again what was listed, as
// a directory of several pages is listed: some filesystems put a name made
// again where the listing has not been yet.
func TestNamesMadeAgainAreListedOnce(t *testing.T) {
	onFilesystems(t, func(t *testing.T, dir string) {
		root := openDir(t, filepath.Join(dir, "source"))
		const files = 1500 // with long names, that is many pages
		long := strings.Repeat("n", 200)
		for i := range files {
			must(t, os.WriteFile(fmt.Sprintf("%s/%s-file-%d", root.Name(), long, i), nil, 0o644))
			if i%100 == 0 {
				must(t, os.Mkdir(fmt.Sprintf("%s/%s-dir-%d", root.Name(), long, i), 0o755))
			}
		}
		times := make(map[string]int)
		w := walker{
			ctx:   context.Background(),
			enter: func(path string, _ *directory, _ *unix.Stat_t) error { times[path]++; return nil },
			files: func(_ string, _ *directory, names []string) error {
				for _, name := range names {
					times[name]++
					path := filepath.Join(root.Name(), name)
					must(t, os.Remove(path))
					must(t, os.WriteFile(path, nil, 0o644))
				}
				for i := 0; i < files; i += 100 {
					path := fmt.Sprintf("%s/%s-dir-%d", root.Name(), long, i)
					must(t, os.Remove(path))
					must(t, os.Mkdir(path, 0o755))
				}
				return nil
			},
		}
		must(t, w.walk(root))
		for name, n := range times {
			if n != 1 {
				t.Fatalf("%s was visited %d times", name, n)
			}
		}
	})
}

// TestNamesOfALargeDirectoryTakeLittleMemory, less than they have bytes, so that
// millions of them fit.
func TestNamesOfALargeDirectoryTakeLittleMemory(t *testing.T) {
	const files, perName = 60_000, 60
	long := strings.Repeat("n", 200)
	set := newNameSet()
	before := heap()
	for range 2 {
		for page := range files / 100 {
			var found []dirent
			for i := range 100 {
				found = append(found, dirent{name: fmt.Sprint(long, page, "-", i)})
			}
			set.dropRepeated(found)
		}
	}
	if took := heap() - before; len(set.names) != files || took > files*perName {
		t.Errorf("%d names of %d take %d bytes", len(set.names), files, took)
	}
}

// TestCountingALargeDirectory, of which no names are kept, counts each once.
func TestCountingALargeDirectory(t *testing.T) {
	root := openDir(t, filepath.Join(testenv.TempDir(t), "source"))
	const files = 1500
	for i := range files {
		must(t, os.WriteFile(fmt.Sprintf("%s/%s-%d", root.Name(), strings.Repeat("n", 200), i), []byte("content"), 0o644))
	}
	if total, err := countTree(t.Context(), root); err != nil || total != files*int64(len("content")) {
		t.Errorf("%d bytes, %v", total, err)
	}
}

// TestRenamedAncestorHidesNothing renames the top of a branch while the walk is
// so deep in it that the top is no longer open.
func TestRenamedAncestorHidesNothing(t *testing.T) {
	onFilesystems(t, func(t *testing.T, dir string) {
		root := openDir(t, filepath.Join(dir, "source"))
		top := filepath.Join(root.Name(), "top")
		for _, sub := range []string{"a", "b", "c"} { // one of them is visited first
			must(t, os.MkdirAll(filepath.Join(top, sub, strings.Repeat("d/", 2*chainWindow)), 0o755))
			must(t, os.WriteFile(filepath.Join(top, sub, "file"), nil, 0o644))
		}
		files, renamed := 0, false
		w := walker{
			ctx: context.Background(),
			enter: func(path string, _ *directory, _ *unix.Stat_t) error {
				if strings.Count(path, "d") == 2*chainWindow && !renamed {
					renamed = true
					return os.Rename(top, top+"-renamed")
				}
				return nil
			},
			files: func(_ string, _ *directory, names []string) error { files += len(names); return nil },
		}
		must(t, w.walk(root))
		if !renamed || files != 3 {
			t.Errorf("%d of 3 files were visited", files)
		}
	})
}
