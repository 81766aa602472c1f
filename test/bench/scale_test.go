package bench

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

// few is the number of objects that larger numbers are compared with.
const few = 100

// page is how many objects sidecars ask for at once.
const page = 500

// BenchmarkScale measures RPCs with many objects present, half of them volumes
// and half snapshots, against the same with few.
func BenchmarkScale(b *testing.B) {
	base := newPopulated(b, few)
	for _, objects := range []int{1_000, 10_000, 100_000} {
		b.Run(fmt.Sprint("objects=", objects), func(b *testing.B) {
			many := newPopulated(b, objects)
			benchRPCs(b, many, base)
			benchListing(b, many)
			benchRestart(b, many, base)
		})
	}
}

// populated is a client with objects.
type populated struct {
	*client
	volumes, snapshots []string
}

// newPopulated makes the objects, several at a time.
func newPopulated(b *testing.B, objects int) *populated {
	p := &populated{newClient(b, "xfs", "directory"), make([]string, objects/2), make([]string, objects/2)}
	const together = 16
	var workers sync.WaitGroup
	for worker := range together {
		workers.Go(func() {
			for i := worker; i < objects/2; i += together {
				p.volumes[i] = p.createVolume(nil)
				p.snapshots[i] = p.createSnapshot(p.volumes[i], "")
			}
		})
	}
	workers.Wait()
	return p
}

func benchRPCs(b *testing.B, many, base *populated) {
	for _, test := range []struct {
		name    string
		prepare func(p *populated) (run, undo func())
	}{
		{"CreateVolume", func(p *populated) (run, undo func()) { return p.creating(nil)() }},
		{"CreateSnapshot", func(p *populated) (run, undo func()) { return p.snapshotting(p.volumes[0], "")() }},
		{"Restore", func(p *populated) (run, undo func()) { return p.creating(ofSnapshot(p.snapshots[0]))() }},
		{"Expand", func(p *populated) (run, undo func()) { return p.expanding()() }},
		{"Publish", func(p *populated) (run, undo func()) { return p.publishing()() }},
		{"DeleteVolume", func(p *populated) (run, undo func()) { return p.deletingVolume(p.volumes[0])() }},
		{"DeleteSnapshot", func(p *populated) (run, undo func()) { return p.deletingSnapshot(p.volumes[0])() }},
		{"ListSnapshots-by-ID", func(p *populated) (run, undo func()) {
			return p.listing(&csi.ListSnapshotsRequest{SnapshotId: p.snapshots[1]}, 1), nil
		}},
		{"ListSnapshots-by-source", func(p *populated) (run, undo func()) {
			return p.listing(&csi.ListSnapshotsRequest{SourceVolumeId: p.volumes[1]}, 1), nil
		}},
		{"ListSnapshots-of-50", func(p *populated) (run, undo func()) {
			return p.listing(&csi.ListSnapshotsRequest{MaxEntries: few / 2}, few/2), nil
		}},
	} {
		b.Run("op="+test.name, func(b *testing.B) {
			defer base.within(b)()
			compare(b, many.client, repeated(func() (run, undo func()) { return test.prepare(many) }),
				contender{name: "few", durable: true, prepare: func() (run, undo func()) {
					run, undo = repeated(func() (run, undo func()) { return test.prepare(base) })()
					base.settle()
					return run, undo
				}})
		})
	}
}

// repeated makes one run of twenty, since one RPC is too short to time.
func repeated(prepare func() (run, undo func())) func() (run, undo func()) {
	return func() (run, undo func()) {
		var all, after []func()
		for range 20 {
			run, undo := prepare()
			all, after = append(all, run), append(after, undo)
		}
		return func() {
				for _, run := range all {
					run()
				}
			}, func() {
				for _, undo := range after {
					do(undo)
				}
			}
	}
}

// listing lists snapshots once, and expects so many.
func (c *client) listing(request *csi.ListSnapshotsRequest, expected int) (run func()) {
	return func() {
		response, err := c.Controller.ListSnapshots(c.b.Context(), request)
		c.check(err)
		if n := len(response.GetEntries()); n != expected {
			c.b.Fatalf("%d snapshots, expected %d", n, expected)
		}
	}
}

// benchListing lists all snapshots in pages.
func benchListing(b *testing.B, p *populated) {
	b.Run("op=ListSnapshots-of-all", func(b *testing.B) {
		compare(b, p.client, func() (run, undo func()) {
			return func() {
				if n := p.list(page); n != len(p.snapshots) {
					b.Fatalf("%d snapshots of %d", n, len(p.snapshots))
				}
			}, nil
		})
	})
}

// benchRestart starts the driver anew, and looks at its memory after it has
// listed all objects.
func benchRestart(b *testing.B, many, base *populated) {
	b.Run("op=Restart", func(b *testing.B) {
		defer many.within(b)()
		defer base.within(b)()
		var ready, resident, peak []float64
		for range b.N {
			took, residentMany, peakMany := many.restart()
			_, residentFew, peakFew := base.restart()
			more := float64(len(many.volumes)+len(many.snapshots)-few) / kib
			ready = append(ready, took)
			resident = append(resident, (residentMany-residentFew)/more)
			peak = append(peak, (peakMany-peakFew)/more)
		}
		b.ReportMetric(median(ready), "ms")
		b.ReportMetric(median(resident), "KiB-per-object")
		b.ReportMetric(median(peak), "peak-KiB-per-object")
		b.ReportMetric(0, "ns/op")
	})
}

// restart returns how long it took, and the memory after all was listed.
func (p *populated) restart() (took, residentMiB, peakMiB float64) {
	p.Stop()
	begun := time.Now()
	p.Start()
	took = since(begun)
	p.list(page)
	return took, p.statusMiB("VmRSS"), p.peakMiB()
}
