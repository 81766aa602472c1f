package treecopy

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestCompressedFileThatChangesIsReadAgain changes a file, of which no copy at
// one instant can be made, after it was scanned.
func TestCompressedFileThatChangesIsReadAgain(t *testing.T) {
	dir := t.TempDir()
	in, out := createFile(t, filepath.Join(dir, "in")), createFile(t, filepath.Join(dir, "out"))
	_, err := in.Write(random(5 << 20)) // goes through all buffers
	must(t, err)
	w := newWorkers(t.Context())
	m, err := newMover(w, out, nil)
	must(t, err)
	m.noClone.Store(true)
	stream, err := newCompressor(out)
	must(t, err)
	s := &tarSink{workers: w, mover: m, freezer: &freezer{dir, m}, file: int(out.Fd()), stream: stream}

	must(t, s.putEntry(&entry{mode: unix.S_IFDIR | 0o755}))
	e := &entry{path: "in", contents: contents{file: int(in.Fd()), live: true}}
	must(t, e.rescan())
	want := random(6 << 20)
	_, err = in.WriteAt(want, 0)
	must(t, err)
	time.Sleep(2 * clockTick)
	must(t, s.putEntry(e))
	must(t, s.putEntry(&entry{path: "last", mode: unix.S_IFREG | 0o644}))
	must(t, s.finish())

	to := filepath.Join(dir, "to")
	must(t, ReadTar(t.Context(), out, openDir(t, to), nil))
	if got, err := os.ReadFile(filepath.Join(to, "in")); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes of %d, error %v, or other ones", len(got), len(want), err)
	}
	if _, err := os.Stat(filepath.Join(to, "last")); err != nil {
		t.Error(err)
	}
	if info, err := out.Stat(); err != nil || info.Size() > 7<<20 {
		t.Errorf("the archive has %v, error %v: what was taken back is in it", info, err)
	}
}
