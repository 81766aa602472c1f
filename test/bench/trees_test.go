package bench

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

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
}

var (
	bigFiles   = tree{"1 GiB in 4 files", fillBig}
	sparseFile = tree{"10 GiB file with 64 MiB of data", fillSparse}
	smallFiles = tree{"20,000 files of 4 KiB", fillSmall}
)

func fillBig(b testing.TB, dir string) {
	for i := range 4 {
		writeRandom(b, filepath.Join(dir, fmt.Sprint("file", i)), gib/4)
	}
}

// fillSparse spreads 64 pieces of 1 MiB over 10 GiB.
func fillSparse(b testing.TB, dir string) {
	file, err := os.Create(filepath.Join(dir, "sparse"))
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	piece := randomBytes(mib)
	for i := range int64(64) {
		if _, err := file.WriteAt(piece, i*160*mib); err != nil {
			b.Fatal(err)
		}
	}
	if err := file.Truncate(10 * gib); err != nil {
		b.Fatal(err)
	}
}

func fillSmall(b testing.TB, dir string) {
	content := randomBytes(4 * kib)
	for i := range 20_000 {
		parent := filepath.Join(dir, fmt.Sprint("dir", i/200))
		if i%200 == 0 {
			mustMkdir(b, parent)
		}
		if err := os.WriteFile(filepath.Join(parent, fmt.Sprint("file", i)), content, 0o644); err != nil {
			b.Fatal(err)
		}
	}
}

func writeRandom(b testing.TB, path string, size int) {
	testenv.Run(b, "dd", "if=/dev/urandom", "of="+path, "bs=1M", fmt.Sprint("count=", size/mib), "status=none")
}

func randomBytes(n int) []byte {
	content := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(content) // never fails
	return content
}
