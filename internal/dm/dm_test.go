package dm_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/google/go-cmp/cmp"

	"github.com/snapdriver/snapdriver/internal/dm"
	"github.com/snapdriver/snapdriver/internal/testenv"
)

const sector = 512

// device makes a device of that table, which goes when the test ends, and
// returns its name. The target "error" is in every kernel and needs no disk.
func device(t *testing.T, table ...string) string {
	t.Helper()
	testenv.RequireThinPools(t)
	t.Setenv("DM_DISABLE_UDEV", "1") // which may not be there
	name := fmt.Sprintf("snapdriver-test-%d", os.Getpid())
	command := exec.Command("dmsetup", "create", name)
	command.Stdin = strings.NewReader(strings.Join(table, "\n"))
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Cleanup(func() { testenv.Run(t, "dmsetup", "remove", name) })
	return name
}

func TestDevice(t *testing.T) {
	name := device(t, "0 8 error", "8 24 error")
	found, targets, err := dm.Status(name)
	if err != nil {
		t.Fatal(err)
	}
	var stat unix.Stat_t
	if err := unix.Stat(dm.Path(name), &stat); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(dm.Device{Number: stat.Rdev, Active: true}, found); diff != "" {
		t.Error(diff)
	}
	want := []dm.Target{
		{Type: "error", Length: 8 * sector},
		{Type: "error", Start: 8 * sector, Length: 24 * sector},
	}
	if diff := cmp.Diff(want, targets); diff != "" {
		t.Error(diff)
	}
	if size := dm.Size(targets); size != 32*sector {
		t.Errorf("size %d", size)
	}
}

func TestOpenCountAndSuspension(t *testing.T) {
	name := device(t, "0 8 error")
	file, err := os.Open(dm.Path(name))
	if err != nil {
		t.Fatal(err)
	}
	if found, err := dm.Lookup(name); err != nil || found.OpenCount != 1 || found.Suspended {
		t.Errorf("open: %+v, %v", found, err)
	}
	file.Close()
	testenv.Run(t, "dmsetup", "suspend", name)
	if found, err := dm.Lookup(name); err != nil || found.OpenCount != 0 || !found.Suspended {
		t.Errorf("suspended: %+v, %v", found, err)
	}
	testenv.Run(t, "dmsetup", "resume", name)
}

// TestLongTable: an answer that is larger than the first buffer.
func TestLongTable(t *testing.T) {
	const pieces = 1000
	var table []string
	for i := range pieces {
		table = append(table, fmt.Sprintf("%d 8 error", 8*i))
	}
	_, targets, err := dm.Status(device(t, table...))
	if err != nil || len(targets) != pieces || targets[pieces-1] != (dm.Target{Type: "error", Start: 8 * (pieces - 1) * sector, Length: 8 * sector}) {
		t.Errorf("%d targets, %v", len(targets), err)
	}
}

func TestAbsentDevice(t *testing.T) {
	testenv.RequireThinPools(t)
	if _, err := dm.Lookup("no-such-device"); !errors.Is(err, dm.ErrNotFound) {
		t.Errorf("Lookup: %v", err)
	}
	if _, _, err := dm.Status("no-such-device"); !errors.Is(err, dm.ErrNotFound) {
		t.Errorf("Status: %v", err)
	}
	if _, err := dm.Lookup(strings.Repeat("x", 128)); err == nil || errors.Is(err, dm.ErrNotFound) {
		t.Errorf("a name that is too long: %v", err)
	}
}

func TestSupportedTargets(t *testing.T) {
	testenv.RequireThinPools(t)
	if err := dm.Supported(dm.ThinPoolTarget); err != nil {
		t.Error(err)
	}
	if err := dm.Supported("no-such-target"); !errors.Is(err, dm.ErrUnsupported) {
		t.Error(err)
	}
}

func TestKernelWithoutDeviceMapper(t *testing.T) {
	testenv.RequireRoot(t)
	if control, err := os.OpenFile("/dev/mapper/control", os.O_RDWR, 0); err == nil {
		control.Close()
		t.Skip("this kernel has it; all other tests are for those that do")
	}
	if _, err := dm.Lookup("any"); !errors.Is(err, dm.ErrUnsupported) {
		t.Errorf("%v, expected ErrUnsupported", err)
	}
}
