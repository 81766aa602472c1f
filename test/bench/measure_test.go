package bench

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// compare runs what the driver does and the floor in turn, b.N times each, and
// reports. Each is a function that prepares one run and returns the part to be
// measured. The filesystem is synced before each, so that neither pays for the
// other's writes. What the driver does is durable when it ends; the floor is
// reported as it is and with the sync that makes it durable too.
func compare(b *testing.B, dir string, ours, floor func(round int) func()) {
	b.Helper()
	var oursTook, floorTook, syncedTook []time.Duration
	for round := range b.N {
		oursTook = append(oursTook, timed(b, dir, ours(round)))
		took := timed(b, dir, floor(round))
		begun := time.Now()
		syncFilesystem(b, dir)
		floorTook, syncedTook = append(floorTook, took), append(syncedTook, took+time.Since(begun))
	}
	report(b, median(oursTook), "ms")
	report(b, median(floorTook), "floor-ms")
	b.ReportMetric(float64(median(oursTook))/float64(median(floorTook)), "x-floor")
	b.ReportMetric(float64(median(oursTook))/float64(median(syncedTook)), "x-synced-floor")
	b.ReportMetric(0, "ns/op") // of no meaning here: both, and the preparations
}

func timed(b *testing.B, dir string, run func()) time.Duration {
	b.Helper()
	syncFilesystem(b, dir)
	begun := time.Now()
	run()
	return time.Since(begun)
}

func report(b *testing.B, took time.Duration, unit string) {
	b.ReportMetric(float64(took)/float64(time.Millisecond), unit)
}

func median(took []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(took))
	return sorted[len(sorted)/2]
}

func syncFilesystem(b testing.TB, dir string) {
	b.Helper()
	file, err := os.Open(dir)
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	if err := unix.Syncfs(int(file.Fd())); err != nil {
		b.Fatal(err)
	}
}

// usedBytes is how much of the filesystem of dir is in use.
func usedBytes(b testing.TB, dir string) int64 {
	b.Helper()
	syncFilesystem(b, dir)
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil {
		b.Fatal(err)
	}
	return int64(stat.Blocks-stat.Bfree) * stat.Bsize
}

func mustMkdir(b testing.TB, elements ...string) string {
	b.Helper()
	dir := filepath.Join(elements...)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		b.Fatal(err)
	}
	return dir
}
