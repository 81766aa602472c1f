package lvm

import (
	"fmt"
	"strconv"
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

// TestExtensionOfMetadata: what is due is extended, and the other is not. Metadata
// that cannot be extended do not keep data from it.
func TestExtensionOfMetadata(t *testing.T) {
	made := testenv.ThinPool(t, testenv.PoolOptions{Disk: 128 * mib, Data: 64 * mib, Metadata: 4 * mib})
	p := guarded(t, made, PoolLimits{Extension: Extension{AtPercent: 5, ByPercent: 100}})
	if err := p.makeVolume(t, "volume", 64*mib); err != nil {
		t.Fatal(err)
	}
	before, err := p.state()
	if err != nil || !reached(before.Metadata, 5) || reached(before.Data, 5) {
		t.Fatalf("the pool is not as this test needs it: %+v, %v", before, err)
	}
	if err := p.extendIfDue(t.Context()); err != nil {
		t.Fatal(err)
	}
	after, err := p.state()
	if err != nil || after.Metadata.Total != 2*before.Metadata.Total || after.size != before.size {
		t.Errorf("it was %+v and is %+v, %v", before, after, err)
	}

	free, err := strconv.Atoi(strings.TrimSpace(made.LVM(t, "vgs", "--noheadings", "--options", "vg_free_count", made.Group)))
	if err != nil {
		t.Fatal(err)
	}
	made.LVM(t, "lvcreate", "--extents", fmt.Sprint(free-1), "--name", "other", made.Group) // one is too little for metadata and their spare
	if err := p.write(t, "volume", 32*mib); err != nil {
		t.Fatal(err)
	}
	p.limits.Extension.AtPercent = 1
	expectExhausted(t, p.extendIfDue(t.Context()), "vgextend")
	if last, err := p.state(); err != nil || last.size <= after.size {
		t.Errorf("the data have %s, as before: %v", size(last.size), err)
	}
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
