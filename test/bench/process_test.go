package bench

import (
	"errors"
	"fmt"
	"io"
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

// settle waits until the driver has removed what was deleted, and has the
// filesystem end what it does in the background: to be frozen, XFS has to free what
// was deleted, and XFS and ext4 to write all of the log's changes to their places.
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
	c.freeze(c.dir)
}

// warm reads the sources, of which the kernel may have taken any out of memory.
// It also has some memory at hand that was in use just now: a hypervisor may have
// taken back what was not, and to get it again takes longer than to fill it.
func (c *client) warm() {
	c.b.Helper()
	if len(c.sources) == 0 {
		return
	}
	memory, err := unix.Mmap(-1, 0, 512*mib, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
	c.check(err)
	c.check(unix.Munmap(memory))
	for _, source := range c.sources {
		c.check(filepath.WalkDir(source, func(path string, entry os.DirEntry, err error) error {
			if err != nil || !entry.Type().IsRegular() {
				return err
			}
			return readData(path)
		}))
	}
}

// readData reads a file, but for its holes.
func readData(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	for end := int64(0); ; {
		start, err := file.Seek(end, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil
		}
		if err != nil {
			return err
		}
		if end, err = file.Seek(start, unix.SEEK_HOLE); err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, io.NewSectionReader(file, start, end-start)); err != nil {
			return err
		}
	}
}

// The ioctls of linux/fs.h, which package unix does not have.
const (
	fifreeze = 0xc0045877
	fithaw   = 0xc0045878
)

// freeze flushes, freezes and thaws the filesystem mounted at dir.
func (c *client) freeze(dir string) {
	c.b.Helper()
	mount, err := os.Open(dir)
	c.check(err)
	defer mount.Close()
	c.check(unix.Syncfs(int(mount.Fd())))
	c.check(unix.IoctlSetInt(int(mount.Fd()), fifreeze, 0))
	c.check(unix.IoctlSetInt(int(mount.Fd()), fithaw, 0))
}
