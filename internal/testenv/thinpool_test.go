package testenv_test

import (
	"os"
	"strings"
	"testing"

	"github.com/snapdriver/snapdriver/internal/testenv"
)

// TestThinPool: it is there as was asked for, and gone afterwards, also what
// was made in it.
func TestThinPool(t *testing.T) {
	var pool testenv.Pool
	made := t.Run("made", func(t *testing.T) {
		pool = testenv.ThinPool(t, testenv.PoolOptions{Disk: 1 << 30, Data: 512 << 20, Metadata: 8 << 20})
		out := pool.LVM(t, "lvs", "--noheadings", "--units", "m", "--nosuffix", "--options", "lv_size,lv_metadata_size", pool.Group+"/"+pool.Name)
		if got := strings.Join(strings.Fields(out), " "); got != "512.00 8.00" {
			t.Errorf("size and size of the metadata: %q MiB", got)
		}
		pool.LVM(t, "lvcreate", "--virtualsize", "1g", "--thinpool", pool.Name, "--name", "volume", pool.Group)
	})
	if pool.Group == "" {
		if !made || testenv.HasThinPools() {
			t.Error("no pool where there can be one")
		}
		return
	}
	if _, err := os.Stat("/dev/mapper/" + pool.Group + "-volume"); !os.IsNotExist(err) {
		t.Errorf("the volume is still there: %v", err)
	}
	if held, _ := os.ReadFile("/sys/block/" + strings.TrimPrefix(pool.Device, "/dev/") + "/loop/backing_file"); len(held) > 0 {
		t.Errorf("%s still holds %s", pool.Device, held)
	}
}
