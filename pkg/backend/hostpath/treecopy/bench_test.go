package treecopy

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// What these measure lies in the page cache of the filesystem of $TMPDIR, and
// nothing is synced: they tell what the code costs. What whole RPCs cost, against
// tar and cp, test/bench measures.

const benchFiles = 2000

// makeSmall makes benchFiles files of 4 KiB in 20 directories, and tells
// b how much one round of it is.
func makeSmall(b *testing.B) (root *os.File) {
	dir := filepath.Join(b.TempDir(), "source")
	data := random(4096 + benchFiles)
	for i := range benchFiles {
		sub := filepath.Join(dir, fmt.Sprintf("dir-%d", i/100))
		if i%100 == 0 {
			must(b, os.MkdirAll(sub, 0o755))
		}
		must(b, os.WriteFile(filepath.Join(sub, fmt.Sprintf("file-%d", i)), data[i:][:4096], 0o644))
	}
	b.SetBytes(4096 * benchFiles)
	return openDir(b, dir)
}

func BenchmarkWalk(b *testing.B) {
	root := makeSmall(b)
	b.ReportAllocs()
	for b.Loop() {
		files := 0
		w := walker{
			ctx:   context.Background(),
			enter: func(string, *directory, *unix.Stat_t) error { return nil },
			files: func(_ string, _ *directory, names []string) error { files += len(names); return nil },
		}
		must(b, w.walk(root))
		if files != benchFiles {
			b.Fatalf("%d files", files)
		}
	}
}

func BenchmarkWriteTar(b *testing.B) {
	root := makeSmall(b)
	out := createFile(b, filepath.Join(b.TempDir(), "out.tar"))
	b.ReportAllocs()
	for b.Loop() {
		must(b, out.Truncate(0))
		must(b, WriteTar(context.Background(), root, out, nil))
	}
}

func BenchmarkReadTar(b *testing.B) {
	in := archive(b, makeSmall(b).Name())
	benchTrees(b, func(dst *os.File) error { return ReadTar(context.Background(), in, dst, nil) })
}

func BenchmarkCopyTree(b *testing.B) {
	root := makeSmall(b)
	benchTrees(b, func(dst *os.File) error { return CopyTree(context.Background(), root, dst, nil) })
}

// benchTrees measures what makes a tree, of which each is taken away before the
// next.
func benchTrees(b *testing.B, run func(dst *os.File) error) {
	parent := b.TempDir()
	b.ReportAllocs()
	for b.Loop() {
		dst, err := os.Open(mustMkdir(b, parent))
		must(b, err)
		must(b, run(dst))
		b.StopTimer()
		must(b, dst.Close())
		must(b, os.RemoveAll(dst.Name()))
		b.StartTimer()
	}
}

func mustMkdir(b *testing.B, parent string) string {
	dir := filepath.Join(parent, "made")
	must(b, os.Mkdir(dir, 0o755))
	return dir
}

// BenchmarkEncode makes the header of one file, with what most have: times of
// nanoseconds; and one of a large file, which is padded.
func BenchmarkEncode(b *testing.B) {
	small := entry{
		path: "dir-0/file-0", mode: unix.S_IFREG | 0o644, mtime: unix.Timespec{Sec: 1 << 30, Nsec: 123456789},
		contents: contents{size: 4096, segments: []segment{{length: 4096}}},
	}
	small.atime = small.mtime
	large := small
	large.contents = contents{size: 1 << 30, segments: []segment{{length: 1 << 30}}}
	for name, test := range map[string]struct {
		entry entry
		align int64
	}{"small": {small, 0}, "large": {large, 4096}} {
		b.Run(name, func(b *testing.B) {
			var enc encoder
			var buf []byte
			b.ReportAllocs()
			for b.Loop() {
				var err error
				buf, err = enc.header(buf[:0], &test.entry, 512, test.align)
				must(b, err)
			}
		})
	}
}

// BenchmarkDecode reads the headers of an archive, and skips the data.
func BenchmarkDecode(b *testing.B) {
	file := archive(b, makeSmall(b).Name())
	b.ReportAllocs()
	for b.Loop() {
		in, err := openInput(file, nil)
		must(b, err)
		d, entries := decoder{in: in}, 0
		var e entry
		for err == nil {
			if err = d.next(&e); err == nil {
				entries++
			}
		}
		in.close()
		if entries < benchFiles {
			b.Fatalf("%d entries: %v", entries, err)
		}
	}
}
