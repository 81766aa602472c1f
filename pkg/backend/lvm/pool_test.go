package lvm

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/internal/dm"
	"github.com/snapdriver/snapdriver/internal/testenv"
	"github.com/snapdriver/snapdriver/pkg/backend"
)

// guarded returns the guard of a pool that is in no use otherwise.
func guarded(t *testing.T, made testenv.Pool, limits PoolLimits) *pool {
	t.Helper()
	t.Setenv("DM_DISABLE_UDEV", "1")
	p, err := newPool(&runner{}, made.Group, made.Name, limits)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(find(t, p), p.load(t.Context(), map[string]int64{})); err != nil {
		t.Fatal(err)
	}
	return p
}

// find does with the pool what Recover does.
func find(t *testing.T, p *pool) error {
	t.Helper()
	rows, err := (&Backend{group: p.group, thinPool: p.name, runner: p.runner, pool: p}).scan(t.Context())
	if err == nil && len(rows) == 0 {
		t.Error("no rows")
	}
	return err
}

// makeVolume makes a thin volume, as the backend does, and activates it.
func (p *pool) makeVolume(t *testing.T, name string, bytes int64, arguments ...string) error {
	t.Helper()
	end, err := p.admit(t.Context(), name, bytes, 1)
	if err != nil {
		return err
	}
	err = p.runner.change(t.Context(), "lvcreate", append([]string{
		"--virtualsize", fmt.Sprint(bytes, "b"), "--thinpool", p.name, "--name", name, p.group,
	}, arguments...)...)
	end(err == nil)
	return err
}

// write writes to a volume until it ends, or an error does it.
func (p *pool) write(t *testing.T, name string, bytes int64) error {
	t.Helper()
	device, err := os.OpenFile(dm.Path(dm.Name(p.group, name)), os.O_WRONLY|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	block := []byte(strings.Repeat("x", mib)) // so large that it is aligned
	for written := int64(0); written < bytes; written += mib {
		if _, err := device.Write(block); err != nil {
			return err
		}
	}
	return device.Sync()
}

func (p *pool) mustAvailable(t *testing.T) int64 {
	t.Helper()
	available, err := p.available(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return available
}

func expectExhausted(t *testing.T, err error, parts ...string) {
	t.Helper()
	if !errors.Is(err, backend.ErrExhausted) {
		t.Errorf("%v, expected ErrExhausted", err)
		return
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error lacks %q: %v", part, err)
		}
	}
}

func TestOverprovisionLimit(t *testing.T) {
	made := testenv.ThinPool(t, testenv.PoolOptions{Disk: gib, Data: 512 * mib, Metadata: 4 * mib})
	p := guarded(t, made, PoolLimits{Overprovision: 2.5})
	before := p.runner.reports.Load()
	const extent = 4 * mib
	if got := p.mustAvailable(t); p.extentSize != extent || got != 1280*mib {
		t.Fatalf("%d bytes are available in extents of %d", got, p.extentSize)
	}
	expectExhausted(t, p.makeVolume(t, "large", 1280*mib+extent), "1.3 GiB", "2.5 times its size", "lvextend")
	if err := p.makeVolume(t, "first", gib); err != nil {
		t.Error(err)
	}
	if got := p.mustAvailable(t); got != 256*mib {
		t.Errorf("%d bytes are available", got)
	}
	if err := p.makeVolume(t, "second", 256*mib); err != nil {
		t.Error(err)
	}
	if got := p.mustAvailable(t); got != 0 {
		t.Errorf("%d bytes are available", got)
	}
	expectExhausted(t, p.makeVolume(t, "third", extent))
	// A snapshot promises nothing.
	end, err := p.admit(t.Context(), "snapshot", 0, 1)
	if err != nil {
		t.Error(err)
	} else {
		end(true)
	}
	made.LVM(t, "lvremove", made.Group+"/second")
	p.removed("second")
	if err := p.makeVolume(t, "third", 256*mib); err != nil {
		t.Error(err)
	}
	// What failed takes nothing.
	if err := p.makeVolume(t, "third", 0); err == nil {
		t.Error("lvcreate accepts a name twice")
	}
	made.LVM(t, "lvextend", "--size", "+128m", p.String())
	if got := p.mustAvailable(t); got != 320*mib {
		t.Errorf("%d bytes are available in the larger pool", got)
	}
	if got := gaugeOf(t, p, "pool_overprovision_ratio"); got != 2 {
		t.Errorf("the ratio is %g", got)
	}
	// One because an operation has failed.
	if n := p.runner.reports.Load() - before; n > 1 {
		t.Errorf("lvm was asked %d times", n)
	}
	// Volumes that are not ours count.
	if err := p.load(t.Context(), map[string]int64{"foreign": 2 * gib}); err != nil {
		t.Error(err)
	}
	expectExhausted(t, p.makeVolume(t, "fourth", extent), "its volumes have 2.0 GiB")
}

func TestMetadataAreaLimit(t *testing.T) {
	made := testenv.ThinPool(t, testenv.PoolOptions{Disk: gib, Data: 512 * mib, Metadata: 8 * mib})
	free := guarded(t, made, PoolLimits{}).area.free()
	p := guarded(t, made, PoolLimits{MetadataReserve: free - 8*kib})
	before, count := p.runner.reports.Load(), 0
	tags := []string{"--addtag", "sd.v=1", "--addtag", "sd.name=" + strings.Repeat("A", 171), "--addtag", "sd.created=2026-01-01T00:00:00.000000000Z"}
	for p.mustAvailable(t) > 0 {
		if err := p.makeVolume(t, fmt.Sprintf("vol-0a1b2c3d-00112233445566778899aabbccdd%04d", count), 64*mib, tags...); err != nil {
			t.Fatalf("after %d volumes: %v", count, err)
		}
		count++
	}
	expectExhausted(t, p.makeVolume(t, "refused", 64*mib), "volume group "+made.Group, "of its metadata area of 1020 KiB", "kept for repairs", "--metadatasize")
	// The estimate counts each with objectText, and what lvm says on each refusal
	// leaves about half as many.
	if n := p.runner.reports.Load() - before; count < 8 || n > 6 {
		t.Errorf("%d volumes were made, and lvm was asked %d times", count, n)
	}
	if left := p.area.free() - p.limits.MetadataReserve; left < 0 || left >= objectText {
		t.Errorf("%d bytes are left", left)
	}
	expectReasons(t, p, "VolumeGroupMetadataLow")
}

func TestPoolDataLimit(t *testing.T) {
	made := testenv.ThinPool(t, testenv.PoolOptions{Disk: gib, Data: 64 * mib, Metadata: 4 * mib})
	made.LVM(t, "lvchange", "--errorwhenfull", "y", made.Group+"/"+made.Name)
	p := guarded(t, made, PoolLimits{})
	if err := p.makeVolume(t, "volume", 128*mib); err != nil {
		t.Fatal(err)
	}
	if err := p.write(t, "volume", 57*mib); err != nil {
		t.Fatal(err)
	}
	expectReasons(t, p)
	if got := p.mustAvailable(t); got != 512*mib {
		t.Errorf("%d bytes are available", got)
	}
	if err := p.write(t, "volume", 58*mib); err != nil {
		t.Fatal(err)
	}
	expectReasons(t, p, "PoolDataLow")
	if got := p.mustAvailable(t); got != 0 {
		t.Errorf("%d bytes are available", got)
	}
	expectExhausted(t, p.makeVolume(t, "refused", 4*mib), "90.6% of its 64 MiB", "90%", "lvextend")

	if err := p.write(t, "volume", 128*mib); err == nil {
		t.Error("128 MiB were written to a pool of 64 MiB")
	}
	expectReasons(t, p, "PoolFull", "PoolDataLow")
	expectExhausted(t, p.makeVolume(t, "refused", 4*mib), "100.0% of its 64 MiB")
	if got := gaugeOf(t, p, "pool_writable"); got != 0 {
		t.Errorf("pool_writable is %v", got)
	}

	made.LVM(t, "lvextend", "--size", "+64m", p.String())
	expectReasons(t, p)
	if err := p.makeVolume(t, "admitted", 4*mib); err != nil {
		t.Error(err)
	}
	if err := p.write(t, "volume", 100*mib); err != nil {
		t.Errorf("there is space now: %v", err)
	}
	if got := gaugeOf(t, p, "pool_writable"); got != 1 {
		t.Errorf("pool_writable is %v", got)
	}
}

func TestPoolThatIsNone(t *testing.T) {
	made := testenv.ThinPool(t, testenv.PoolOptions{Disk: gib, Data: 256 * mib, Metadata: 4 * mib})
	made.LVM(t, "lvcreate", "--size", "64m", "--name", "thick", made.Group)
	for name, expect := range map[string]string{"thick": "no thin pool", "absent": "snapdriver lvm init"} {
		p, err := newPool(&runner{}, made.Group, name, PoolLimits{})
		if err != nil {
			t.Fatal(err)
		}
		if err := find(t, p); err == nil || !strings.Contains(err.Error(), expect) {
			t.Errorf("%s: %v, expected a word on %q", name, err, expect)
		}
	}
	p := guarded(t, made, PoolLimits{})
	made.LVM(t, "lvchange", "--activate", "n", p.String())
	expectReasons(t, p, "PoolInactive")
	if _, err := p.available(t.Context()); err == nil || errors.Is(err, backend.ErrExhausted) {
		t.Errorf("available: %v", err)
	}
	if err := p.load(t.Context(), map[string]int64{}); err != nil {
		t.Error(err)
	}
	expectReasons(t, p)
	made.LVM(t, "lvchange", "--zero", "n", p.String())
	if err := find(t, p); err == nil || !strings.Contains(err.Error(), "lvchange --zero y") {
		t.Errorf("a pool that does not zero: %v", err)
	}
}

func expectReasons(t *testing.T, p *pool, want ...string) {
	t.Helper()
	conditions, err := p.conditions()
	if err != nil {
		t.Error(err)
	}
	var got []string
	for _, condition := range conditions {
		got = append(got, condition.Reason)
		if len(condition.Message) > 128 {
			t.Errorf("%d bytes, of which CSI keeps 128: %s", len(condition.Message), condition.Message)
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("conditions %+v, expected %q", conditions, want)
	}
}

func gaugeOf(t *testing.T, p *pool, name string) float64 {
	t.Helper()
	gauges, err := p.gauges()
	if err != nil {
		t.Fatal(err)
	}
	for _, gauge := range gauges {
		if gauge.Name == name {
			return gauge.Value
		}
	}
	t.Fatalf("there is no gauge %s", name)
	return 0
}
