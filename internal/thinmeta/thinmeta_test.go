package thinmeta_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/snapdriver/snapdriver/internal/dm"
	"github.com/snapdriver/snapdriver/internal/testenv"
	"github.com/snapdriver/snapdriver/internal/thinmeta"
)

// TestDevices compares what is read with what thin_ls reads, of an empty pool,
// of one with few devices, and of one with so many that the tree has several
// levels.
func TestDevices(t *testing.T) {
	pool := testenv.ThinPool(t, testenv.PoolOptions{Disk: 1 << 30, Data: 512 << 20, Metadata: 16 << 20})
	metadata := dm.Path(dm.Name(pool.Group, pool.Name+"_tmeta"))
	device := dm.Name(pool.Group, pool.Name)
	message := func(format string, args ...any) {
		t.Helper()
		if err := dm.Message(device, fmt.Sprintf(format, args...)); err != nil {
			t.Fatal(err)
		}
	}
	made := 0
	for _, number := range []int{0, 1, 5, 126, 300} {
		for ; made < number; made++ {
			if made%10 == 0 {
				message("set_transaction_id %d %d", made/10, made/10+1)
			}
			message("create_thin %d", 10_000_000-3*made)
		}
		got, err := thinmeta.Devices(metadata)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(listed(t, device, metadata), got); diff != "" || len(got) != number {
			t.Errorf("%d devices:\n%s", number, diff)
		}
	}
	message("delete 10000000")
	if got, err := thinmeta.Devices(metadata); err != nil || len(got) != made-1 {
		t.Errorf("%d devices after a deletion, %v", len(got), err)
	}
}

// listed is what thin_ls says, which needs a copy of the metadata.
func listed(t *testing.T, pool, metadata string) (devices []thinmeta.Device) {
	t.Helper()
	testenv.Run(t, "dmsetup", "message", pool, "0", "reserve_metadata_snap")
	defer testenv.Run(t, "dmsetup", "message", pool, "0", "release_metadata_snap")
	for line := range strings.Lines(testenv.Run(t, "thin_ls", "--metadata-snap", "--no-headers", "--format", "DEV,TRANSACTION", metadata)) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		var device thinmeta.Device
		var err [2]error
		device.ID, err[0] = strconv.ParseUint(fields[0], 10, 64)
		device.Transaction, err[1] = strconv.ParseUint(fields[1], 10, 64)
		if err := errors.Join(err[:]...); err != nil {
			t.Fatal(err)
		}
		devices = append(devices, device)
	}
	return devices
}

// What is no metadata, or damaged, is an error.
func TestNoMetadata(t *testing.T) {
	zeros := filepath.Join(t.TempDir(), "zeros")
	if err := os.WriteFile(zeros, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	short := filepath.Join(t.TempDir(), "short")
	if err := os.WriteFile(short, []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{zeros, short, "/no/such/device"} {
		if devices, err := thinmeta.Devices(path); err == nil {
			t.Errorf("%s: %v", path, devices)
		}
	}
}
