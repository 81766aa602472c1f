package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/internal/testenv"
)

// BenchmarkStart starts the driver on an empty root until it says that it is
// ready, against the start of a program that does nothing.
func BenchmarkStart(b *testing.B) {
	c := newClient(b, "xfs", "directory")
	var ready, resident, nothing []float64
	for range b.N {
		c.Stop()
		begun := time.Now()
		c.Start()
		ready = append(ready, since(begun))
		time.Sleep(time.Second) // idle
		resident = append(resident, c.statusMiB("VmRSS"))
		begun = time.Now()
		testenv.Run(b, "true")
		nothing = append(nothing, since(begun))
	}
	binary, err := os.Stat(c.Program())
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(median(ready), "ms")
	b.ReportMetric(median(nothing), "true-ms")
	b.ReportMetric(median(resident), "idle-MiB")
	b.ReportMetric(float64(binary.Size())/mib, "binary-MiB")
	b.ReportMetric(0, "ns/op")
}

// cpu is the processor time that the driver has taken since it started.
func (c *client) cpu() time.Duration {
	c.b.Helper()
	// The clock of another process, as clock_getcpuclockid(3) numbers it.
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^c.PID()<<3|2), &t); err != nil {
		c.b.Fatal(err)
	}
	return time.Duration(t.Nano())
}

// resetPeak makes peakMiB begin anew (Documentation/filesystems/proc.rst).
func (c *client) resetPeak() {
	c.b.Helper()
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", c.PID()), []byte("5"), 0); err != nil {
		c.b.Fatal(err)
	}
}

// peakMiB is the largest resident set that the driver has had.
func (c *client) peakMiB() float64 { return c.statusMiB("VmHWM") }

func (c *client) statusMiB(field string) float64 {
	c.b.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.PID()))
	if err != nil {
		c.b.Fatal(err)
	}
	match := regexp.MustCompile(field + `:\s+(\d+) kB`).FindSubmatch(status)
	if match == nil {
		c.b.Fatalf("the kernel does not tell %s", field)
	}
	n, err := strconv.Atoi(string(match[1]))
	if err != nil {
		c.b.Fatal(err)
	}
	return float64(n) / 1024
}

// settle waits until the driver has removed what was deleted, and the
// filesystem has freed what that took, which it does in the background; and
// syncs.
func (c *client) settle() {
	c.b.Helper()
	for {
		trash, err := os.ReadDir(filepath.Join(c.Root, "trash"))
		if err != nil {
			c.b.Fatal(err)
		}
		if len(trash) == 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	for before := int64(-1); ; time.Sleep(20 * time.Millisecond) {
		used := usedBytes(c.b, c.dir)
		if used == before {
			return
		}
		before = used
	}
}
