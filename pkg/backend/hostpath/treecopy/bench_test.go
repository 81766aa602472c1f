package treecopy

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/snapdriver/snapdriver/internal/testenv"
)

// shapes are the kinds of trees that are measured.
var shapes = []struct {
	name string
	make func(b *testing.B, dir string)
}{
	{"small", makeSmall}, {"large", makeLarge}, {"sparse", makeOneSparse},
}

// makeSmall makes 20,000 files of 4 KiB.
func makeSmall(b *testing.B, dir string) {
	data := random(4096 + 20000)
	for i := range 200 {
		sub := filepath.Join(dir, fmt.Sprintf("dir-%d", i))
		must(b, os.Mkdir(sub, 0o755))
		for j := range 100 {
			must(b, os.WriteFile(filepath.Join(sub, fmt.Sprintf("file-%d", j)), data[i*100+j:][:4096], 0o644))
		}
	}
}

// makeLarge makes 1 GiB in 4 files.
func makeLarge(b *testing.B, dir string) {
	data := random(16 << 20)
	for i := range 4 {
		f := createFile(b, filepath.Join(dir, fmt.Sprintf("file-%d", i)))
		for range 16 {
			_, err := f.Write(data)
			must(b, err)
		}
	}
}

// makeOneSparse makes a file of 10 GiB that has 64 MiB of data.
func makeOneSparse(b *testing.B, dir string) {
	f := createFile(b, filepath.Join(dir, "file"))
	must(b, f.Truncate(10<<30))
	data := random(1 << 20)
	for i := range int64(64) {
		_, err := f.WriteAt(data, i*160<<20)
		must(b, err)
	}
}

// onShapes runs bench for each shape on each filesystem, in a directory that
// has the tree in "source".
func onShapes(b *testing.B, bench func(b *testing.B, dir, source string)) {
	for _, kind := range []string{"ext4", "xfs"} {
		for _, shape := range shapes {
			b.Run(shape.name+"/"+kind, func(b *testing.B) {
				dir := testenv.Filesystem(b, kind, 8<<30)
				source := filepath.Join(dir, "source")
				must(b, os.Mkdir(source, 0o755))
				shape.make(b, source)
				testenv.Run(b, "sync", "-f", dir)
				bench(b, dir, source)
			})
		}
	}
}

// way is one of several ways to the same end: it makes what the path says.
type way struct {
	name string
	run  func(b *testing.B, path string)
}

// compare measures ways by turns, since a machine is seldom equally fast for
// long, and reports each one's median.
func compare(b *testing.B, dir string, ways ...way) {
	made := filepath.Join(dir, "made")
	times := make([][]time.Duration, len(ways))
	for b.Loop() {
		for i, way := range ways {
			start := time.Now()
			way.run(b, made)
			times[i] = append(times[i], time.Since(start))
			must(b, os.RemoveAll(made))
			testenv.Run(b, "sync", "-f", dir)
		}
	}
	for i, way := range ways {
		slices.Sort(times[i])
		b.ReportMetric(float64(times[i][len(times[i])/2].Microseconds())/1000, way.name+"-ms")
	}
	b.ReportMetric(0, "ns/op") // of all of them and the clearing away: says nothing
}

// copyWithCp clones if the filesystem can.
func copyWithCp(source string) way {
	return way{"cp", func(b *testing.B, path string) { testenv.Run(b, "cp", "-a", "--reflink=auto", source, path) }}
}

// BenchmarkWriteTar compares with tar and cp.
func BenchmarkWriteTar(b *testing.B) {
	onShapes(b, func(b *testing.B, dir, source string) {
		compare(b, dir,
			way{"WriteTar", func(b *testing.B, path string) {
				out, err := os.Create(path)
				must(b, err)
				must(b, WriteTar(context.Background(), openDir(b, source), out, nil))
				must(b, out.Close())
			}},
			way{"tar", func(b *testing.B, path string) { testenv.Run(b, "tar", "-C", source, "-Scf", path, ".") }},
			copyWithCp(source))
	})
}

// BenchmarkReadTar compares with tar and cp, the former of its own archive.
func BenchmarkReadTar(b *testing.B) {
	onShapes(b, func(b *testing.B, dir, source string) {
		in, theirs := archive(b, source), filepath.Join(dir, "theirs.tar")
		testenv.Run(b, "tar", "-C", source, "-Scf", theirs, ".")
		testenv.Run(b, "sync", "-f", dir)
		compare(b, dir,
			way{"ReadTar", func(b *testing.B, path string) {
				must(b, ReadTar(context.Background(), in, openDir(b, path), nil))
			}},
			way{"tar", func(b *testing.B, path string) {
				must(b, os.Mkdir(path, 0o755))
				testenv.Run(b, "tar", "-C", path, "-xpf", theirs)
			}},
			copyWithCp(source))
	})
}

// BenchmarkCopyTree compares with cp.
func BenchmarkCopyTree(b *testing.B) {
	onShapes(b, func(b *testing.B, dir, source string) {
		compare(b, dir,
			way{"CopyTree", func(b *testing.B, path string) {
				must(b, CopyTree(context.Background(), openDir(b, source), openDir(b, path), nil))
			}},
			copyWithCp(source))
	})
}
