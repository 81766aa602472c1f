package lvm

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/snapdriver/snapdriver/internal/dm"
	"github.com/snapdriver/snapdriver/pkg/backend"
)

const (
	kib = 1 << 10
	mib = 1 << 20
	gib = 1 << 30
)

func TestPoolStatesThatRefuse(t *testing.T) {
	usage := func(used, total int64) dm.Usage { return dm.Usage{Used: used, Total: total} }
	large := int64(64 * mib / dm.MetadataBlock) // blocks
	for name, test := range map[string]struct {
		pool dm.ThinPool
		want string // in the error; empty: nothing is refused
	}{
		"empty":                  {dm.ThinPool{Mode: dm.ReadWrite, Metadata: usage(10, 1024), Data: usage(0, 1000)}, ""},
		"data below":             {dm.ThinPool{Mode: dm.ReadWrite, Metadata: usage(10, 1024), Data: usage(899, 1000)}, ""},
		"data at the limit":      {dm.ThinPool{Mode: dm.ReadWrite, Metadata: usage(10, 1024), Data: usage(900, 1000)}, "90.0% of its 1.0 GiB are used, the limit is 90%"},
		"full":                   {dm.ThinPool{Mode: dm.OutOfDataSpace, Metadata: usage(10, 1024), Data: usage(1000, 1000)}, "100.0% of its 1.0 GiB"},
		"metadata below":         {dm.ThinPool{Mode: dm.ReadWrite, Metadata: usage(767, 1024), Data: usage(0, 1000)}, ""},
		"metadata at the limit":  {dm.ThinPool{Mode: dm.ReadWrite, Metadata: usage(768, 1024), Data: usage(0, 1000)}, "75.0% of its 4.0 MiB of metadata"},
		"large metadata":         {dm.ThinPool{Mode: dm.ReadWrite, Metadata: usage(large*3/4-1, large), Data: usage(0, 1000)}, ""},
		"metadata full":          {dm.ThinPool{Mode: dm.ReadOnly, Metadata: usage(1024, 1024), Data: usage(0, 1000)}, "lvextend --poolmetadatasize"},
		"metadata need a check":  {dm.ThinPool{Mode: dm.ReadOnly, NeedsCheck: true, Metadata: usage(10, 1024), Data: usage(0, 1000)}, "lvconvert --repair"},
		"metadata are no longer": {dm.ThinPool{Mode: dm.PoolFailed}, "lvconvert --repair"},
	} {
		err := PoolLimits{}.withDefaults().refusal(&pool{group: "vg", name: "pool"}, poolState{ThinPool: test.pool, size: gib})
		switch {
		case test.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case test.want != "" && (!errors.Is(err, backend.ErrExhausted) || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "vg/pool")):
			t.Errorf("%s: %v, expected ErrExhausted with %q", name, err, test.want)
		}
	}
	// However high the limit is, lvm keeps 4 MiB.
	almost := poolState{ThinPool: dm.ThinPool{Mode: dm.ReadWrite, Metadata: usage(large-4*mib/dm.MetadataBlock, large), Data: usage(0, 1000)}, size: gib}
	if err := (PoolLimits{MetadataPercent: 100}).withDefaults().refusal(&pool{}, almost); err == nil {
		t.Error("a volume was admitted that lvm would refuse")
	}
	almost.Metadata.Used--
	if err := (PoolLimits{MetadataPercent: 100}).withDefaults().refusal(&pool{}, almost); err != nil {
		t.Error(err)
	}
}

func TestLimitsThatAreNone(t *testing.T) {
	for _, limits := range []PoolLimits{
		{DataPercent: -1},
		{DataPercent: 101},
		{MetadataPercent: -1},
		{MetadataPercent: 101},
		{Overprovision: -1},
		{Overprovision: 1001},
		{Overprovision: math.NaN()},
		{Overprovision: math.Inf(1)},
		{MetadataReserve: -1},
		{Extension: Extension{AtPercent: 80}},
		{Extension: Extension{AtPercent: -1, ByPercent: 20}},
		{Extension: Extension{AtPercent: 100, ByPercent: 20}},
		{Extension: Extension{AtPercent: 80, ByPercent: -1}},
	} {
		if _, err := newPool(nil, "vg", "pool", limits); !errors.Is(err, backend.ErrInvalid) {
			t.Errorf("%+v: %v, expected ErrInvalid", limits, err)
		}
	}
	if _, err := newPool(nil, "vg", "pool", PoolLimits{}); err != nil {
		t.Error(err)
	}
}

func TestAreaIsNeverOverestimated(t *testing.T) {
	var a area
	a.learn(a, mib, 10*objectText)
	check := func(when string, want int64) {
		t.Helper()
		if got := a.free(); got != want*objectText {
			t.Errorf("%s: %.1f objects fit, expected %d", when, float64(got)/objectText, want)
		}
	}
	check("told", 10)
	a.admit(2)
	check("two begun", 8)
	a.settle(1, true)
	check("one done", 8)
	// lvm is asked, which finds the one that is done: one has not ended, one
	// more begins, and both end before lvm answers.
	before := a
	a.admit(1)
	a.settle(2, true)
	a.learn(before, mib, 9*objectText)
	check("told again", 7)
	if !a.fits(7, 0) || a.fits(8, 0) || a.fits(7, 1) || !a.fits(6, objectText) {
		t.Error("what fits is not what is free")
	}
	a.settle(1, false)
	if a.fits(1, 0) {
		t.Error("after a failure lvm is not asked")
	}
}

// TestPromise: what a volume may come to take is its size, once it is whole.
func TestPromise(t *testing.T) {
	for name, test := range map[string]struct {
		object
		promise int64
	}{
		"volume":                   {object{size: 4, record: record{kind: kindVolume}}, 4},
		"restore in a larger size": {object{size: 4, record: record{kind: kindVolume, grow: 10}}, 10},
		"the same, finished":       {object{size: 12, record: record{kind: kindVolume, grow: 10}}, 12},
		"snapshot":                 {object{size: 4, record: record{kind: kindSnapshot}}, 0},
	} {
		if promise := test.object.promise(); promise != test.promise {
			t.Errorf("%s: %d, expected %d", name, promise, test.promise)
		}
	}
}
