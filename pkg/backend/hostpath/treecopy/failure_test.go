package treecopy

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/internal/testenv"
	"github.com/snapdriver/snapdriver/pkg/backend"
)

// tries is how often a failure is provoked that must not get lost between
// goroutines.
const tries = 300

func TestErrorOfAReaderIsSeenBeforeItsBatchIsReady(t *testing.T) {
	w := newWorkers(t.Context())
	defer w.cancel(nil)
	s := &treeSource{workers: w, unread: make(chan *batch, 1)}
	b := newBatch("")
	b.from, b.names, b.ready = newDirectory(-1), []string{"name"}, make(chan struct{})
	s.unread <- b
	close(s.unread)
	s.readAll(newReader(-1, nil), s.unread)
	<-b.ready
	if !errors.Is(context.Cause(w), unix.EBADF) {
		t.Errorf("the copy's error: %v", context.Cause(w))
	}
}

func TestErrorOfTheWalkIsNotLost(t *testing.T) {
	dir := t.TempDir()
	noTree, err := os.Create(filepath.Join(dir, "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer noTree.Close()
	for range tries {
		out, err := os.Create(filepath.Join(dir, "out"))
		if err != nil {
			t.Fatal(err)
		}
		if err := WriteTar(t.Context(), noTree, out, nil); !errors.Is(err, unix.ENOTDIR) {
			t.Fatalf("an archive of a file that is no tree: %v", err)
		}
		if err := out.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestErrorOfAWriterIsNotLost(t *testing.T) {
	testenv.RequireRoot(t)
	tree, full := testenv.TempDir(t), testenv.TempDir(t)
	for _, name := range []string{"a", "b", "c"} {
		if err := os.WriteFile(filepath.Join(tree, name), make([]byte, 200<<10), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	testenv.Run(t, "mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", full)
	t.Cleanup(func() { testenv.Run(t, "umount", full) })
	from := openDir(t, tree)
	for range tries {
		to := filepath.Join(full, "copy")
		if err := os.Mkdir(to, 0o755); err != nil {
			t.Fatal(err)
		}
		dir, err := os.Open(to)
		if err != nil {
			t.Fatal(err)
		}
		if err := CopyTree(t.Context(), from, dir, nil); !errors.Is(err, backend.ErrExhausted) {
			t.Fatalf("a copy of 600 KiB to where 256 KiB fit: %v", err)
		}
		if err := errors.Join(dir.Close(), os.RemoveAll(to)); err != nil {
			t.Fatal(err)
		}
	}
}
