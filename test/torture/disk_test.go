package torture

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/internal/testenv"
)

// disk is a filesystem on a device that can be made to fail.
type disk struct {
	t   *testing.T
	dir string // where it is mounted

	// The name of the device in device-mapper, if it is there, and the device
	// below.
	mapped, below string

	// failing is set before it fails.
	failing atomic.Bool
}

// loopDisk makes a filesystem on a loop device.
func loopDisk(t *testing.T, filesystem string, size int64) *disk {
	return &disk{t: t, dir: testenv.Filesystem(t, filesystem, size)}
}

// mappedDisk makes a filesystem on a device of device-mapper over a loop device.
func mappedDisk(t *testing.T, filesystem string, size int64) *disk {
	testenv.RequireThinPools(t) // which are of device-mapper too
	base := testenv.TempDir(t)
	image, dir := filepath.Join(base, "image"), filepath.Join(base, "mounted")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	testenv.Run(t, "truncate", "--size", fmt.Sprint(size), image)
	below := strings.TrimSpace(testenv.Run(t, "losetup", "--find", "--show", image))
	t.Cleanup(func() { testenv.Run(t, "losetup", "--detach", below) })
	d := &disk{t: t, dir: dir, below: below, mapped: fmt.Sprint("sdtest", rand.Uint32())}
	testenv.Run(t, "dmsetup", "create", d.mapped, "--noudevsync", "--table", d.whole())
	t.Cleanup(func() { testenv.Run(t, "dmsetup", "remove", "--noudevsync", d.mapped) })
	testenv.Run(t, "mkfs."+filesystem, "-q", d.path())
	testenv.Run(t, "mount", d.path(), dir)
	t.Cleanup(func() { testenv.UnmountDevice(t, dir) })
	return d
}

func (d *disk) path() string { return "/dev/mapper/" + d.mapped }

func (d *disk) sectors() string {
	return strings.TrimSpace(testenv.Run(d.t, "blockdev", "--getsz", d.below))
}

// whole is a table of device-mapper for a device that works.
func (d *disk) whole() string { return fmt.Sprintf("0 %s linear %s 0", d.sectors(), d.below) }

// change gives the device another table, while those who use it wait. Resuming
// suspends it first: between two commands, a worker that waits for the device
// would keep this process from starting the second, see withoutForks.
func (d *disk) change(table string) {
	testenv.Run(d.t, "dmsetup", "load", d.mapped, "--table", table)
	testenv.Run(d.t, "dmsetup", "resume", "--nolockfs", "--noflush", "--noudevsync", d.mapped)
}

// fail lets nothing be read or written any more.
func (d *disk) fail() { d.change(fmt.Sprintf("0 %s error", d.sectors())) }

// failWrites lets nothing be written any more.
func (d *disk) failWrites() {
	d.change(fmt.Sprintf("0 %s flakey %s 0 0 3600 1 error_writes", d.sectors(), d.below))
}

func (d *disk) shutDown() { testenv.ShutDown(d.t, d.dir) }

// makeReadOnly has the kernel find an error in an ext4, after which it writes
// nothing any more.
func (d *disk) makeReadOnly() {
	testenv.Run(d.t, "mount", "-o", "remount,errors=remount-ro", d.dir)
	testenv.FailExt4(d.t, d.dir)
}

// repair makes the device work and mounts the filesystem anew. Nothing uses it.
// It is unmounted first: an ext4 on a device that works again would take what it
// could not write for written, and empty its log.
func (d *disk) repair() {
	d.failing.Store(false)
	if d.mapped == "" {
		remount(d.t, d.dir)
		return
	}
	testenv.UnmountDevice(d.t, d.dir)
	d.change(d.whole())
	testenv.Run(d.t, "mount", d.path(), d.dir)
}

// failFile lets nothing be read any more of what a file has on the device, and
// makes the kernel forget what it has read of it.
func (d *disk) failFile(path string) {
	d.t.Helper()
	const sector = 512
	var lines []string
	end := int64(0)
	linear := func(to int64) {
		if to > end {
			lines = append(lines, fmt.Sprintf("%d %d linear %s %d", end, to-end, d.below, end))
		}
	}
	unix.Sync()
	extents := extentsOf(d.t, path)
	if len(extents) == 0 {
		d.t.Fatalf("%s is nowhere", path)
	}
	for _, e := range extents {
		linear(e.at / sector)
		lines = append(lines, fmt.Sprintf("%d %d error", e.at/sector, e.size/sector))
		end = (e.at + e.size) / sector
	}
	sectors, err := strconv.ParseInt(d.sectors(), 10, 64)
	if err != nil {
		d.t.Fatal(err)
	}
	linear(sectors)
	d.change(strings.Join(lines, "\n"))
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		d.t.Fatal(err)
	}
}

// extent is a part of a device, in bytes.
type extent struct{ at, size int64 }

func byPlace(a, b extent) int { return cmp.Compare(a.at, b.at) }

// extentLine is a line of "filefrag -e -b1": number, logical and physical range,
// and length.
var extentLine = regexp.MustCompile(`(?m)^ *\d+: *\d+\.\. *\d+: *(\d+)\.\. *(\d+): `)

// extentsOf returns where on the device a file is, in order.
func extentsOf(t testing.TB, path string) (all []extent) {
	t.Helper()
	for _, match := range extentLine.FindAllStringSubmatch(testenv.Run(t, "filefrag", "-e", "-b1", path), -1) {
		from, err := strconv.ParseInt(match[1], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		to, err := strconv.ParseInt(match[2], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, extent{from, to + 1 - from})
	}
	slices.SortFunc(all, byPlace)
	return all
}
