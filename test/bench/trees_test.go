package bench

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/internal/testenv"
)

const (
	kib = 1 << 10
	mib = 1 << 20
	gib = 1 << 30
)

// tree is what a volume is filled with.
type tree struct {
	name string
	fill func(b testing.TB, dir string)
	room int64 // in bytes, for it and all copies of it
}

var (
	bigFiles     = tree{"4-big-files", fillBig, 40 * gib}
	compressible = tree{"4-compressible-files", fillCompressible, 40 * gib}
	sparseFile   = tree{"sparse-file", fillSparse, 40 * gib}
	smallFiles   = tree{"20000-small-files", fillSmall, 4 * gib}
	toolchain    = tree{"go-toolchain", fillToolchain, 6 * gib}
	fragmented   = tree{"fragmented-file", fillFragmented, 40 * gib}
)

// fillBig makes 1 GiB of noise in 4 files.
func fillBig(b testing.TB, dir string) {
	for i := range 4 {
		write(b, filepath.Join(dir, fmt.Sprint("file", i)), noise(int64(i)), gib/4)
	}
}

// fillCompressible makes 1 GiB of text like a log's in 4 files.
func fillCompressible(b testing.TB, dir string) {
	random := rand.New(rand.NewPCG(1, 1))
	var text bytes.Buffer
	for text.Len() < 16*mib {
		fmt.Fprintf(&text, "%d GET /volumes/%d/snapshots?page=%d 200 %d\n",
			1_700_000_000+text.Len(), random.IntN(1000), random.IntN(1000), random.IntN(1_000_000))
	}
	for i := range 4 {
		var readers []io.Reader
		for range gib / 4 / (16 * mib) {
			readers = append(readers, bytes.NewReader(text.Bytes()))
		}
		write(b, filepath.Join(dir, fmt.Sprint("file", i)), io.MultiReader(readers...), gib/4)
	}
}

// fillSparse spreads 64 pieces of 1 MiB over a file of 10 GiB.
func fillSparse(b testing.TB, dir string) {
	path := filepath.Join(dir, "file")
	write(b, path, noise(0), 0)
	if err := os.Truncate(path, 10*gib); err != nil {
		b.Fatal(err)
	}
	overwrite(b, path, 0, 160*mib, mib)
}

// fillSmall makes 20,000 files of 4 KiB in 100 directories.
func fillSmall(b testing.TB, dir string) {
	for i := range 100 {
		parent := mustMkdir(b, dir, fmt.Sprint("dir", i))
		for j := range 200 {
			write(b, filepath.Join(parent, fmt.Sprint("file", j)), noise(int64(200*i+j)), 4*kib)
		}
	}
}

// fillToolchain copies a real source tree: that of the Go that runs this.
func fillToolchain(b testing.TB, dir string) {
	goroot := strings.TrimSpace(testenv.Run(b, "go", "env", "GOROOT"))
	testenv.Run(b, "cp", "-a", goroot, dir)
}

// fillFragmented makes a file of 4 GiB that lies in some 100,000 pieces on the
// disk: a file that shared its blocks with another, and of which half was then
// overwritten, piece by piece.
func fillFragmented(b testing.TB, dir string) {
	path, whole := filepath.Join(dir, "file"), filepath.Join(dir, "whole")
	write(b, whole, noise(0), 4*gib)
	testenv.Run(b, "cp", "--reflink=always", whole, path)
	overwrite(b, path, 0, 80*kib, 40*kib)
	syncFilesystem(b, dir)
	if err := os.Remove(whole); err != nil {
		b.Fatal(err)
	}
}

// change changes a hundredth of a tree, another one each round: every
// hundredth file or, in few large ones, every hundredth MiB. It returns how many
// bytes it wrote.
func change(b testing.TB, dir string, round int) (written int64) {
	var files []string
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	for i, file := range files {
		if len(files) < 100 {
			written += overwrite(b, file, int64(round%100)*mib, 100*mib, mib)
		} else if i%100 == round%100 {
			written += overwrite(b, file, 0, 4*kib, 4*kib)
		}
	}
	return written
}

// write makes a file of the first bytes of a reader.
func write(b testing.TB, path string, from io.Reader, size int64) {
	file, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	if _, err := io.CopyN(file, from, size); err != nil {
		b.Fatal(err)
	}
}

// overwrite writes noise over a piece of a file from every stride on, the
// first at offset. The file keeps its size. It returns how many bytes it wrote.
func overwrite(b testing.TB, path string, offset, stride, piece int64) (written int64) {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		b.Fatal(err)
	}
	from, data := noise(rand.Int64()), make([]byte, piece)
	for ; offset < info.Size(); offset += stride {
		data = data[:min(piece, info.Size()-offset)]
		_, _ = from.Read(data) // never fails
		if _, err := file.WriteAt(data, offset); err != nil {
			b.Fatal(err)
		}
		written += int64(len(data))
	}
	return written
}

// occupy has all blocks of a filesystem's file allocated, once, as those of a disk
// are: with some that are not yet, one would pay for it and the other not.
func occupy(b testing.TB, dir string) {
	path := filepath.Join(dir, "everything")
	file, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	defer os.Remove(path)
	defer file.Close()
	if _, err := io.Copy(file, noise(0)); !errors.Is(err, unix.ENOSPC) {
		b.Fatal(err)
	}
	syncFilesystem(b, dir)
}

// noise returns bytes without end that cannot be compressed.
func noise(seed int64) io.Reader {
	return rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), byte(seed >> 24)})
}
