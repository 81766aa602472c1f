package treecopy

import (
	"math"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/internal/testenv"
)

// TestEarliestTimes: what a filesystem takes as a time, a restore can give back,
// within a second.
func TestEarliestTimes(t *testing.T) {
	dir := testenv.Filesystem(t, "btrfs", 512<<20)
	source := filepath.Join(dir, "source")
	root := openDir(t, source)
	earliest, half := unix.Timespec{Sec: math.MinInt64}, unix.Timespec{Sec: math.MinInt64, Nsec: 5e8}
	for name, times := range map[string][]unix.Timespec{
		"both":          {earliest, earliest},
		"access":        {earliest, {Sec: 1}},
		"modification":  {{Sec: 1}, earliest},
		"half a second": {half, half},
		"of both":       {earliest, half},
	} {
		path := filepath.Join(source, name)
		must(t, os.WriteFile(path, nil, 0o644))
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, path, times, 0))
	}
	want := describe(t, source)
	out, to := createFile(t, filepath.Join(dir, "tar")), filepath.Join(dir, "restored")
	must(t, WriteTar(t.Context(), root, out, nil))
	must(t, ReadTar(t.Context(), out, openDir(t, to), nil))
	for i := range want {
		for _, time := range []*unix.Timespec{&want[i].Atime, &want[i].Mtime} {
			time.Sec = max(time.Sec, -math.MaxInt64)
		}
	}
	equal(t, want, describe(t, to))
}
