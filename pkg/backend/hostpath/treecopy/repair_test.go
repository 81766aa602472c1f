package treecopy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/internal/testenv"
)

// An archive that loses its end while it is read is no success.
func TestArchiveThatEndsEarlyIsAnError(t *testing.T) {
	dir := t.TempDir()
	src, dst := createFile(t, filepath.Join(dir, "src")), createFile(t, filepath.Join(dir, "dst"))
	if _, err := src.Write(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	m, err := newMover(t.Context(), dst, nil)
	if err != nil {
		t.Fatal(err)
	}
	c := contents{size: 200, file: int(src.Fd()), segments: []segment{{length: 200}}}
	if err := m.store(int(dst.Fd()), &c); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("200 bytes of a file of 100: %v", err)
	}
	c.live = true // a file that has shrunk
	if err := m.store(int(dst.Fd()), &c); err != nil {
		t.Errorf("200 bytes of a live file of 100: %v", err)
	}
}

// A write lease (of Samba, say) does not keep a file out of a snapshot.
func TestLeasedFile(t *testing.T) {
	tree := t.TempDir()
	leased := createFile(t, filepath.Join(tree, "leased"))
	if _, err := leased.WriteString("content"); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.FcntlInt(leased.Fd(), unix.F_SETLEASE, unix.F_WRLCK); err != nil {
		testenv.Skip(t, "this filesystem has no leases: %v", err)
	}
	// Its holder gives it up when asked to.
	var holder sync.WaitGroup
	defer holder.Wait()
	holder.Go(func() {
		time.Sleep(50 * time.Millisecond)
		_, _ = unix.FcntlInt(leased.Fd(), unix.F_SETLEASE, unix.F_UNLCK)
	})
	out := createFile(t, filepath.Join(t.TempDir(), "tar"))
	if err := WriteTar(t.Context(), openDir(t, tree), out, nil); err != nil {
		t.Fatal(err)
	}
	archive, err := os.ReadFile(out.Name())
	if err != nil || !bytes.Contains(archive, []byte("content")) {
		t.Errorf("the file is not in the archive: %v", err)
	}
}

// Where there are no files without a name, changing files are copied as on any
// filesystem without clones.
func TestFreezeWithoutUnnamedFiles(t *testing.T) {
	file := createFile(t, filepath.Join(t.TempDir(), "file"))
	m := &mover{ctx: t.Context(), block: 4096}
	frozen, err := (&freezer{"/dev/pts", m}).freeze(&entry{contents: contents{file: int(file.Fd())}})
	if frozen || err != nil {
		t.Errorf("frozen: %v, %v", frozen, err)
	}
}

// A directory in which a slow copy still goes on, while the copy has gone
// through a branch so deep that the directory was closed, keeps its times.
func TestTimesOfADirectoryWithADeepBranchAndASlowFile(t *testing.T) {
	testenv.RequireRoot(t)
	base := testenv.TempDir(t)
	tree, copied := filepath.Join(base, "tree"), filepath.Join(base, "copied")
	long := time.Date(2001, 2, 3, 4, 5, 6, 789, time.UTC)
	for _, depth := range []int{62, 63, 64} {
		top := filepath.Join(tree, "a")
		branch := filepath.Join(top, "x"+strings.Repeat("/d", depth))
		if err := errors.Join(os.MkdirAll(branch, 0o755), os.Mkdir(copied, 0o755), os.MkdirAll(filepath.Join(top, "y"), 0o755)); err != nil {
			t.Fatal(err)
		}
		// In the order of their inodes: the small ones are made when the slow
		// one is done, in a directory that must not be finished by then.
		if err := os.WriteFile(filepath.Join(top, "slow"), make([]byte, 256<<20), 0o644); err != nil {
			t.Fatal(err)
		}
		for i := range 20 {
			if err := os.WriteFile(filepath.Join(top, fmt.Sprint("small", i)), []byte("x"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chtimes(top, long, long); err != nil {
			t.Fatal(err)
		}
		if err := CopyTree(t.Context(), openDir(t, tree), openDir(t, copied), nil); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(filepath.Join(copied, "a")); err != nil || !info.ModTime().Equal(long) {
			t.Errorf("depth %d: %v, %v; expected %v", depth, info.ModTime(), err, long)
		}
		if err := errors.Join(os.RemoveAll(tree), os.RemoveAll(copied)); err != nil {
			t.Fatal(err)
		}
	}
}
