package lvm

import (
	"strings"
	"testing"

	"github.com/snapdriver/snapdriver/internal/testenv"
)

// TestExtension: a writer that would fill the pool never meets its end.
func TestExtension(t *testing.T) {
	made := testenv.ThinPool(t, testenv.PoolOptions{Disk: gib, Data: 64 * mib, Metadata: 4 * mib})
	p := guarded(t, made, PoolLimits{Extension: Extension{AtPercent: 50, ByPercent: 100}})
	if err := p.makeVolume(t, "volume", 256*mib); err != nil {
		t.Fatal(err)
	}
	p.start()
	err := p.write(t, "volume", 200*mib)
	p.close()
	if err != nil {
		t.Errorf("write: %v", err)
	}
	if err := p.extendIfDue(t.Context()); err != nil { // what close has cut off
		t.Error(err)
	}
	state, err := p.state()
	if err != nil || state.size != 512*mib {
		t.Errorf("the pool has %s, %v", size(state.size), err)
	}
	expectReasons(t, p)
}

func TestExtensionTakesWhatIsLeft(t *testing.T) {
	made := testenv.ThinPool(t, testenv.PoolOptions{Disk: 128 * mib, Data: 64 * mib, Metadata: 4 * mib})
	made.LVM(t, "lvchange", "--errorwhenfull", "y", made.Group+"/"+made.Name)
	p := guarded(t, made, PoolLimits{Extension: Extension{AtPercent: 80, ByPercent: 1000}})
	if err := p.makeVolume(t, "volume", 512*mib); err != nil {
		t.Fatal(err)
	}
	if err := p.write(t, "volume", 48*mib); err != nil {
		t.Fatal(err)
	}
	before := p.runner.reports.Load()
	if err := p.extendIfDue(t.Context()); err != nil || p.runner.reports.Load() != before {
		t.Errorf("not due yet: %v, lvm asked %d times", err, p.runner.reports.Load()-before)
	}
	if err := p.write(t, "volume", 512*mib); err == nil {
		t.Error("64 MiB took 512 MiB")
	}
	if err := p.extendIfDue(t.Context()); err != nil {
		t.Error(err)
	}
	state, err := p.state()
	if err != nil || state.size <= 64*mib {
		t.Errorf("the pool has %s, %v", size(state.size), err)
	}
	if free := strings.TrimSpace(made.LVM(t, "vgs", "--noheadings", "--options", "vg_free_count", made.Group)); free != "0" {
		t.Errorf("%s extents are left", free)
	}
	expectReasons(t, p)
	if err := p.write(t, "volume", 512*mib); err == nil {
		t.Error("128 MiB took 512 MiB")
	}
	expectExhausted(t, p.extendIfDue(t.Context()), "vgextend")
}
