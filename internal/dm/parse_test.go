package dm_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/snapdriver/snapdriver/internal/dm"
)

func TestNames(t *testing.T) {
	for _, test := range []struct{ got, want string }{
		{dm.Name("vg", "lv"), "vg-lv"},
		{dm.Name("a-b", "vol-0a1b2c3d-0011"), "a--b-vol--0a1b2c3d--0011"},
		{dm.Name("a", "b--c"), "a-b----c"},
		{dm.PoolName("vg-1", "pool"), "vg--1-pool-tpool"},
		{dm.Path("vg-lv"), "/dev/mapper/vg-lv"},
	} {
		if test.got != test.want {
			t.Errorf("%q, expected %q", test.got, test.want)
		}
	}
}

func TestParseThin(t *testing.T) {
	for status, want := range map[string]dm.Thin{
		"0 -":         {},
		"128 2097151": {Mapped: 128 * 512},
		"128 -":       {Mapped: 128 * 512},
		"Fail":        {Failed: true},
		"Error":       {Failed: true},
		"-":           {Failed: true},
	} {
		if got, err := dm.ParseThin(status); err != nil || got != want {
			t.Errorf("%q: %+v, %v, expected %+v", status, got, err, want)
		}
	}
	for _, status := range []string{"", "a b", "1.5 2"} {
		if got, err := dm.ParseThin(status); err == nil {
			t.Errorf("%q was taken for %+v", status, got)
		}
	}
}

func TestParseThinPool(t *testing.T) {
	for status, want := range map[string]dm.ThinPool{
		"7 34/1024 80/1600 - rw discard_passdown queue_if_no_space - 1024": {
			Mode: dm.ReadWrite, TransactionID: 7, Metadata: dm.Usage{Used: 34, Total: 1024}, Data: dm.Usage{Used: 80, Total: 1600},
		},
		"7 34/1024 1600/1600 - out_of_data_space no_discard_passdown error_if_no_space - ": { // before Linux 4.20
			Mode: dm.OutOfDataSpace, TransactionID: 7, Metadata: dm.Usage{Used: 34, Total: 1024}, Data: dm.Usage{Used: 1600, Total: 1600}, ErrorIfNoSpace: true,
		},
		"7 1000/1024 80/1600 12 ro ignore_discard queue_if_no_space needs_check 1024": {
			Mode: dm.ReadOnly, TransactionID: 7, Metadata: dm.Usage{Used: 1000, Total: 1024}, Data: dm.Usage{Used: 80, Total: 1600}, NeedsCheck: true,
		},
		"Fail":  {Mode: dm.PoolFailed},
		"Error": {Mode: dm.PoolFailed},
	} {
		got, err := dm.ParseThinPool(status)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%q: %v\n%s", status, err, diff)
		}
	}
	for _, status := range []string{
		"", "7", "7 34/1024 80/1600 - rw discard_passdown queue_if_no_space",
		"x 34/1024 80/1600 - rw discard_passdown queue_if_no_space -",
		"7 34 80/1600 - rw discard_passdown queue_if_no_space -",
		"7 34/1024 80/ - rw discard_passdown queue_if_no_space -",
		"7 34/1024 80/1600 - wo discard_passdown queue_if_no_space -",
	} {
		if got, err := dm.ParseThinPool(status); err == nil {
			t.Errorf("%q was taken for %+v", status, got)
		}
	}
}

func TestRatio(t *testing.T) {
	if got := (dm.Usage{Used: 1, Total: 4}).Ratio(); got != 0.25 {
		t.Errorf("a quarter is %v", got)
	}
	if got := (dm.Usage{}).Ratio(); got != 0 {
		t.Errorf("nothing of nothing is %v", got)
	}
}
