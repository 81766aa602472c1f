package bench

import (
	"bytes"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// BenchmarkLoops lets many workers do what clusters do all day: create a
// volume, publish it, write to it, snapshot it, restore the snapshot, publish
// that, read it, delete all. With -benchtime 5x it runs for 30 seconds.
func BenchmarkLoops(b *testing.B) {
	const workers, duration = 32, 6 * time.Second
	for _, filesystem := range []string{"xfs", "ext4"} {
		b.Run("fs="+filesystem, func(b *testing.B) {
			c := newClient(b, filesystem, "directory")
			var loops atomic.Int64
			var running sync.WaitGroup
			cpu, begun := c.cpu(), time.Now()
			for range workers {
				running.Go(func() {
					for time.Since(begun) < time.Duration(b.N)*duration {
						c.loop()
						loops.Add(1)
					}
				})
			}
			running.Wait()
			took := time.Since(begun)
			b.ReportMetric(float64(loops.Load())/took.Seconds(), "loops/s")
			b.ReportMetric(milliseconds(c.cpu()-cpu)/float64(loops.Load()), "cpu-ms")
			b.ReportMetric(c.peakMiB(), "peak-MiB")
			b.ReportMetric(0, "ns/op")
		})
	}
}

func (c *client) loop() {
	content := bytes.Repeat([]byte("0123456789abcdef"), 4*kib)
	volume := c.createVolume(nil)
	c.check(os.WriteFile(filepath.Join(c.publish(volume), "file"), content, 0o600))
	snapshot := c.createSnapshot(volume, "")
	restored := c.createVolume(ofSnapshot(snapshot))
	found, err := os.ReadFile(filepath.Join(c.publish(restored), "file"))
	c.check(err)
	if !bytes.Equal(found, content) {
		c.b.Error("a restored file is another")
	}
	for _, id := range []string{volume, restored} {
		c.unpublish(id)
		c.deleteVolume(id)
	}
	c.deleteSnapshot(snapshot)
}
