package bench

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// contender is one way to an effect. prepare readies one run of it: it returns
// what is measured, and what takes the effect away again, if anything does.
type contender struct {
	name    string
	prepare func() (run, undo func())

	// durable says that the effect survives a power cut when run returns. The
	// time of the others is reported without and with a sync.
	durable bool
}

// compare runs what the driver does and the floors in turn, b.N times each, and
// reports. Before each run the filesystem is synced, so that nobody pays for
// what others have written, and what the client says will be read is in memory,
// so that nobody reads it for the others.
func compare(b *testing.B, c *client, ours func() (run, undo func()), floors ...contender) {
	b.Helper()
	compareTimes(b, b.N, c, ours, floors...)
}

// compareTimes is compare with another number of runs than b.N.
func compareTimes(b *testing.B, times int, c *client, ours func() (run, undo func()), floors ...contender) {
	b.Helper()
	defer c.within(b)()
	var own runs
	took, synced := make([][]float64, len(floors)), make([][]float64, len(floors))
	for range times {
		own.add(c, ours)
		for i, floor := range floors {
			run, undo := floor.prepare()
			c.settle()
			c.warm()
			begun := time.Now()
			run()
			took[i] = append(took[i], since(begun))
			syncFilesystem(b, c.dir)
			synced[i] = append(synced[i], since(begun))
			do(undo)
		}
	}
	own.report(b)
	for i, floor := range floors {
		b.ReportMetric(median(took[i]), floor.name+"-ms")
		b.ReportMetric(median(own.took)/median(took[i]), "x-"+floor.name)
		if !floor.durable {
			b.ReportMetric(median(own.took)/median(synced[i]), "x-"+floor.name+"+sync")
		}
	}
}

// runs are the figures of the runs of one thing that the driver does.
type runs struct{ took, cpu, peak, written []float64 }

// add makes one run.
func (r *runs) add(c *client, prepare func() (run, undo func())) {
	run, undo := prepare()
	c.settle()
	used := usedBytes(c.b, c.dir)
	c.warm()
	c.resetPeak()
	cpu, begun := c.cpu(), time.Now()
	run()
	r.took = append(r.took, since(begun))
	r.cpu = append(r.cpu, milliseconds(c.cpu()-cpu))
	r.peak = append(r.peak, c.peakMiB())
	r.written = append(r.written, float64(usedBytes(c.b, c.dir)-used)/mib)
	do(undo)
}

func (r *runs) report(b *testing.B) {
	b.ReportMetric(median(r.took), "ms")
	b.ReportMetric(median(r.cpu), "cpu-ms")
	b.ReportMetric(median(r.peak), "peak-MiB")
	b.ReportMetric(median(r.written), "new-MiB")
	b.ReportMetric(0, "ns/op") // of no meaning here: all of it, and the preparations
}

func do(f func()) {
	if f != nil {
		f()
	}
}

func since(begun time.Time) float64 { return milliseconds(time.Since(begun)) }

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
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
