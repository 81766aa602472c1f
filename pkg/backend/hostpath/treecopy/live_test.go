package treecopy

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/internal/testenv"
	"github.com/snapdriver/snapdriver/pkg/backend"
)

// inBackground calls f again and again until the test, or the function that is
// returned, ends it.
func inBackground(t *testing.T, f func(round int)) (stop func()) {
	var wait sync.WaitGroup
	end := make(chan struct{})
	wait.Go(func() {
		for round := 0; ; round++ {
			select {
			case <-end:
				return
			default:
				f(round)
			}
		}
	})
	stop = sync.OnceFunc(func() { close(end); wait.Wait() })
	t.Cleanup(stop)
	return stop
}

// fillWith returns size bytes that all tell the same generation.
func fillWith(generation, size int) []byte {
	word := binary.LittleEndian.AppendUint64(nil, uint64(generation))
	return bytes.Repeat(word, size/8+1)[:size]
}

func TestFilesThatAreWrittenToAreWhole(t *testing.T) {
	ctx := context.Background()
	dir := testenv.Filesystem(t, "xfs", 1<<30)
	source := filepath.Join(dir, "source")
	root := openDir(t, source)
	sizes := make(map[string]int)
	for i := range 16 {
		name, size := fmt.Sprintf("file-%d", i), []int{1000, 60000, 300000, 1<<20 + 777}[i%4]
		sizes[name] = size
		f := createFile(t, filepath.Join(source, name))
		inBackground(t, func(round int) {
			if _, err := f.WriteAt(fillWith(round, size), 0); err != nil {
				t.Error(err)
			}
			time.Sleep(time.Millisecond) // or 16 of them leave no time for copying
		})
	}
	check := func(t *testing.T, tree string) {
		t.Helper()
		for name, size := range sizes {
			data, err := os.ReadFile(filepath.Join(tree, name))
			if err != nil || len(data) != 0 && len(data) != size {
				t.Errorf("%s has %d bytes of %d, error %v", name, len(data), size, err)
			} else if len(data) > 0 && !bytes.Equal(data, fillWith(int(binary.LittleEndian.Uint64(data)), size)) {
				t.Errorf("%s, of %d bytes, is of two instants", name, size)
			}
		}
	}
	for i := range 10 {
		to, out := filepath.Join(dir, fmt.Sprintf("tar-%d", i)), createFile(t, filepath.Join(dir, fmt.Sprintf("%d.tar", i)))
		must(t, WriteTar(ctx, root, out, nil))
		must(t, ReadTar(ctx, out, openDir(t, to), nil))
		check(t, to)
	}
	for i := range 3 {
		to, out := filepath.Join(dir, fmt.Sprintf("zstd-%d", i)), createFile(t, filepath.Join(dir, fmt.Sprintf("%d.zst", i)))
		must(t, WriteTarZstd(ctx, root, out, nil))
		must(t, ReadTar(ctx, out, openDir(t, to), nil))
		check(t, to)
		to = filepath.Join(dir, fmt.Sprintf("copy-%d", i))
		must(t, CopyTree(ctx, root, openDir(t, to), nil))
		check(t, to)
	}
}

// TestATreeInMotionIsNoError makes copies of a tree in which files grow,
// shrink, come, go and become something else.
func TestATreeInMotionIsNoError(t *testing.T) {
	ctx := context.Background()
	onFilesystems(t, func(t *testing.T, dir string) {
		source := filepath.Join(dir, "source")
		root := openDir(t, source)
		data := random(1 << 20)
		write := func(path string, size int) {
			// Without O_NONBLOCK, this one would wait for a reader of the fifo.
			f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o644)
			if err == nil {
				f.Write(data[:size])
				f.Close()
			}
		}
		motions := []func(path string, round int){
			func(path string, round int) { os.Truncate(path, int64(round%7)*150001) },
			func(path string, round int) { write(path, round%9*100000) },
			func(path string, _ int) { os.Remove(path); unix.Mkfifo(path, 0o644) },
			func(path string, _ int) { os.Remove(path); os.Symlink("to-nowhere", path) },
			func(path string, _ int) { os.RemoveAll(path); os.Mkdir(path, 0o755); write(path+"/x", 100) },
			func(path string, _ int) { os.Rename(path, path+"-moved"); os.Rename(path+"-moved", path) },
		}
		var stops []func()
		for i := range 3 {
			stops = append(stops, inBackground(t, func(round int) {
				path := filepath.Join(source, fmt.Sprintf("file-%d", (round+i)%10))
				motions[(round/3+i)%len(motions)](path, round)
			}))
		}
		for i := range 10 {
			at := func(kind string) string { return filepath.Join(dir, fmt.Sprintf("%s-%d", kind, i)) }
			out, compressed := createFile(t, at("tar")), createFile(t, at("zst"))
			must(t, WriteTar(ctx, root, out, nil))
			must(t, ReadTar(ctx, out, openDir(t, at("from-tar")), nil))
			testenv.Run(t, "tar", "-tf", out.Name())
			must(t, WriteTarZstd(ctx, root, compressed, nil))
			must(t, ReadTar(ctx, compressed, openDir(t, at("from-zst")), nil))
			must(t, CopyTree(ctx, root, openDir(t, at("copy")), nil))
		}
		for _, stop := range stops {
			stop()
		}
	})
}

// TestSwappedDirectoryIsNotFollowed exchanges a directory and a symbolic link
// to one outside, while the tree is copied.
func TestSwappedDirectoryIsNotFollowed(t *testing.T) {
	ctx := context.Background()
	dir := testenv.TempDir(t)
	source, outside := filepath.Join(dir, "source"), filepath.Join(dir, "outside")
	root := openDir(t, source)
	for i := range 20 {
		for _, sub := range []string{filepath.Join(source, "a/b/c"), outside + "/b/c"} {
			must(t, os.MkdirAll(sub, 0o755))
			must(t, os.WriteFile(filepath.Join(sub, fmt.Sprintf("file-%d", i)), []byte("inside"), 0o644))
		}
	}
	for i := range 20 {
		must(t, os.WriteFile(filepath.Join(outside, fmt.Sprintf("b/c/file-%d", i)), []byte("SECRET"), 0o644))
	}
	must(t, os.Symlink(outside, filepath.Join(source, "link")))
	inBackground(t, func(int) {
		must(t, unix.Renameat2(unix.AT_FDCWD, source+"/a", unix.AT_FDCWD, source+"/link", unix.RENAME_EXCHANGE))
	})
	for range 200 {
		out := createFile(t, filepath.Join(dir, "tar"))
		must(t, WriteTar(ctx, root, out, nil))
		data, err := os.ReadFile(out.Name())
		must(t, err)
		if bytes.Contains(data, []byte("SECRET")) {
			t.Fatal("a file outside was read")
		}
		out.Close()
	}
}

func TestMountsAreNotEntered(t *testing.T) {
	ctx := context.Background()
	dir := testenv.Filesystem(t, "ext4", 64<<20)
	source := testenv.TempDir(t)
	must(t, os.WriteFile(filepath.Join(dir, "file"), []byte("of another filesystem"), 0o644))
	must(t, os.Mkdir(filepath.Join(source, "mount"), 0o755))
	must(t, os.Mkdir(filepath.Join(source, "other"), 0o755))
	testenv.Run(t, "mount", "--bind", dir, filepath.Join(source, "mount"))
	defer testenv.Run(t, "umount", filepath.Join(source, "mount"))
	to := testenv.TempDir(t)
	must(t, CopyTree(ctx, openDir(t, source), openDir(t, to), nil))
	names, err := os.ReadDir(to)
	must(t, err)
	if len(names) != 1 || names[0].Name() != "other" {
		t.Errorf("want other only, got %v", names)
	}
}

func TestManyLargeFilesNeedFewDescriptors(t *testing.T) {
	ctx := context.Background()
	dir := testenv.TempDir(t)
	source := filepath.Join(dir, "source")
	root := openDir(t, source)
	for i := range 1000 {
		f := createFile(t, fmt.Sprintf("%s/%d", source, i))
		must(t, f.Truncate(2*smallFile))
		must(t, f.Close())
	}
	out := createFile(t, filepath.Join(dir, "tar"))
	to := openDir(t, filepath.Join(dir, "copy"))
	var limit unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(openDescriptors(t) + 120), Max: limit.Max}))
	defer func() { must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)) }()
	must(t, WriteTar(ctx, root, out, nil))
	must(t, CopyTree(ctx, root, to, nil))
	if names, err := os.ReadDir(to.Name()); err != nil || len(names) != 1000 {
		t.Errorf("%d of 1000 files, error %v", len(names), err)
	}
}

func TestProgressReachesTheTotal(t *testing.T) {
	ctx := context.Background()
	dir := testenv.TempDir(t)
	source := filepath.Join(dir, "source")
	root := openDir(t, source)
	makeGolden(t, source)
	var progress backend.Progress
	out, compressed := createFile(t, filepath.Join(dir, "tar")), createFile(t, filepath.Join(dir, "zst"))
	must(t, WriteTar(ctx, root, out, &progress))
	must(t, WriteTarZstd(ctx, root, compressed, nil))
	data, _ := progress.Bytes()
	total, err := countTree(ctx, root)
	must(t, err)
	if data <= 0 || data > total || total > data*11/10 {
		t.Errorf("%d bytes done, %d counted", data, total)
	}
	for _, in := range []*os.File{out, compressed} {
		var progress backend.Progress
		must(t, ReadTar(ctx, in, openDir(t, in.Name()+"-to"), &progress))
		info, err := in.Stat()
		must(t, err)
		if done, total := progress.Bytes(); done != total || total != info.Size() {
			t.Errorf("%s of %d bytes: %d of %d done", in.Name(), info.Size(), done, total)
		}
	}
}

func TestCancelEndsACopy(t *testing.T) {
	dir := testenv.TempDir(t)
	source := filepath.Join(dir, "source")
	root := openDir(t, source)
	makeGolden(t, source)
	in := archive(t, source)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for name, err := range map[string]error{
		"WriteTar":     WriteTar(ctx, root, createFile(t, filepath.Join(dir, "tar")), nil),
		"WriteTarZstd": WriteTarZstd(ctx, root, createFile(t, filepath.Join(dir, "zst")), nil),
		"ReadTar":      ReadTar(ctx, in, openDir(t, filepath.Join(dir, "from-tar")), nil),
		"CopyTree":     CopyTree(ctx, root, openDir(t, filepath.Join(dir, "from-tree")), nil),
		"CopyFile":     CopyFile(ctx, createFile(t, filepath.Join(dir, "file")), in, nil),
	} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: want it cancelled, got %v", name, err)
		}
	}
}

// TestChangeInTheTickOfTheScan changes a file in the tick of the clock in which
// it was scanned, so that its times do not tell, and copies it much later.
func TestChangeInTheTickOfTheScan(t *testing.T) {
	onFilesystems(t, func(t *testing.T, dir string) {
		for name, put := range map[string]func(w *workers, m *mover, out *os.File, e *entry) error{
			"archive": func(w *workers, m *mover, out *os.File, e *entry) error {
				f, err := newFreezer(out, m)
				must(t, err)
				return (&tarSink{workers: w, mover: m, freezer: f, file: int(out.Fd())}).putEntry(e)
			},
			"tree": func(w *workers, m *mover, out *os.File, e *entry) error {
				return (&treeSink{workers: w, mover: m}).fill(int(out.Fd()), e)
			},
		} {
			in, out := createFile(t, filepath.Join(dir, name)), createFile(t, filepath.Join(dir, name+"-copy"))
			must(t, in.Truncate(1<<20))
			w := newWorkers(t.Context())
			m, err := newMover(w, out, nil)
			must(t, err)
			e := &entry{path: name, contents: contents{file: int(in.Fd()), live: true}}
			must(t, e.rescan())
			_, err = in.WriteAt(bytes.Repeat([]byte("changed!"), 16<<10), 512<<10)
			must(t, err)
			// What a coarse clock would have said before the change.
			must(t, unix.Fstat(int(in.Fd()), &e.contents.seen))
			time.Sleep(2 * clockTick)
			must(t, put(w, m, out, e))
			e.contents.close()
			copied, err := os.ReadFile(out.Name())
			must(t, err)
			if n := bytes.Count(copied, []byte("changed!")); n != 16<<10 {
				t.Errorf("%s: %d of %d words that were written after the scan", name, n, 16<<10)
			}
		}
	})
}

// A file that was emptied before its turn is written as what it is then: to
// write zeros for what it was first could fill the disk.
func TestFileThatWasEmptiedTakesNoRoom(t *testing.T) {
	source := createFile(t, filepath.Join(testenv.Filesystem(t, "ext4", 64<<20), "file"))
	must(t, writeAt(int(source.Fd()), random(32<<20), 0))
	e := entry{path: "file", mode: unix.S_IFREG | 0o600, contents: contents{file: int(source.Fd()), live: true}}
	must(t, e.contents.scan())
	must(t, source.Truncate(0))

	out := createFile(t, filepath.Join(testenv.Filesystem(t, "ext4", 16<<20), "tar"))
	w := newWorkers(t.Context())
	defer w.cancel(nil)
	m, err := newMover(w, out, nil)
	must(t, err)
	f, err := newFreezer(out, m)
	must(t, err)
	sink := &tarSink{workers: w, mover: m, freezer: f, file: int(out.Fd())}
	must(t, sink.putEntry(&e))
	if e.contents.size != 0 || sink.end() > writeBuffer {
		t.Errorf("%d bytes in an archive of %d", e.contents.size, sink.end())
	}
}
