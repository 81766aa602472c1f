package bench

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

// BenchmarkScale compares RPCs with many objects present to the same with few:
// the floor is the same RPC with 100 objects.
func BenchmarkScale(b *testing.B) {
	few, many := newClient(b, "xfs"), newClient(b, "xfs")
	few.populate(100)
	many.populate(10_000)
	for _, test := range []struct {
		name string
		run  func(c *client, round int)
	}{
		{"CreateVolume", func(c *client, round int) {
			c.createVolume(&csi.CreateVolumeRequest{Name: fmt.Sprint("empty", round)})
		}},
		{"CreateSnapshot", func(c *client, round int) { c.createSnapshot(fmt.Sprint("empty", round), c.source(0)) }},
		{"ListSnapshots by ID", func(c *client, _ int) {
			c.list(&csi.ListSnapshotsRequest{SnapshotId: c.createSnapshot("snapshot 1", c.source(1))}, 1)
		}},
		{"ListSnapshots by source", func(c *client, _ int) { c.list(&csi.ListSnapshotsRequest{SourceVolumeId: c.source(2)}, 1) }},
		{"ListSnapshots, a page of 100", func(c *client, _ int) { c.list(&csi.ListSnapshotsRequest{MaxEntries: 100}, 100) }},
	} {
		b.Run(test.name, func(b *testing.B) {
			const repeats = 20 // one RPC is too short to time
			runner := func(c *client) func(int) func() {
				return func(round int) func() {
					return func() {
						for i := range repeats {
							test.run(c, round*repeats+i+b.N*1_000_000)
						}
					}
				}
			}
			compare(b, many.dir, runner(many), runner(few))
		})
	}
	b.Run("restart to ready", func(b *testing.B) {
		var took []time.Duration
		for range b.N {
			many.Stop()
			begun := time.Now()
			many.Start()
			took = append(took, time.Since(begun))
		}
		report(b, median(took), "ms")
		b.ReportMetric(0, "ns/op")
		// The memory of a driver that has just read all of them, and listed them.
		many.list(&csi.ListSnapshotsRequest{}, 10_000)
		b.ReportMetric(peakMiB(b, many.PID()), "peak-MiB")
	})
}

// populate creates n volumes and a snapshot of each, eight at a time.
func (c *client) populate(n int) {
	c.b.Helper()
	var workers sync.WaitGroup
	for worker := range 8 {
		workers.Go(func() {
			for i := worker; i < n; i += 8 {
				c.createSnapshot(fmt.Sprint("snapshot ", i), c.source(i))
			}
		})
	}
	workers.Wait()
}

// source returns the i-th volume, created if need be.
func (c *client) source(i int) string {
	c.b.Helper()
	return c.createVolume(&csi.CreateVolumeRequest{Name: fmt.Sprint("volume ", i)})
}

// list expects at least so many snapshots.
func (c *client) list(request *csi.ListSnapshotsRequest, atLeast int) {
	c.b.Helper()
	response, err := c.Controller.ListSnapshots(context.Background(), request)
	if err != nil || len(response.GetEntries()) < atLeast {
		c.b.Fatalf("%d snapshots, expected at least %d: %v", len(response.GetEntries()), atLeast, err)
	}
}

// peakMiB is the largest resident set that a process has had.
func peakMiB(b testing.TB, pid int) float64 {
	b.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	match := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status)
	if match == nil {
		b.Fatal("the kernel does not tell VmHWM")
	}
	peak, err := strconv.Atoi(string(match[1]))
	if err != nil {
		b.Fatal(err)
	}
	return float64(peak) / 1024
}
