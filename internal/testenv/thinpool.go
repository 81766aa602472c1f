package testenv

import (
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// PoolOptions say what ThinPool makes; a zero field takes its default. Sizes
// are in bytes.
type PoolOptions struct {
	Disk     int64  // the physical volume, a sparse file: 8 GiB
	Data     int64  // the pool: three quarters of the disk
	Metadata int64  // the pool's metadata: LVM's choice
	Format   string // further arguments of vgcreate, such as "--metadatasize 16m"
}

// Pool is a thin pool that ThinPool has made.
type Pool struct {
	Group  string // the volume group
	Name   string // the pool in it
	Device string // the physical volume, a loop device
}

// HasThinPools says whether this kernel can serve thin pools, after having
// loaded the module that this needs.
func HasThinPools() bool {
	_ = exec.Command("modprobe", "--quiet", "dm-thin-pool").Run() // or it is there already, or never
	_, module := os.Stat("/sys/module/dm_thin_pool")
	control, err := os.OpenFile("/dev/mapper/control", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	_ = control.Close()
	return module == nil
}

// RequireThinPools skips t unless it runs as root on a kernel that has thin
// pools, also with SNAPDRIVER_REQUIRE_ALL=1, since test/vm then runs the same
// test in a virtual machine, and fails where it cannot. SNAPDRIVER_REQUIRE_LVM=1,
// which it sets there, allows no skip.
func RequireThinPools(t testing.TB) {
	t.Helper()
	if os.Getenv("SNAPDRIVER_REQUIRE_LVM") != "1" && (os.Geteuid() != 0 || !HasThinPools()) {
		t.Skip("no dm-thin in this kernel; test/vm runs this in a virtual machine")
	}
	RequireRoot(t)
	RequirePrograms(t, "lvm", "dmsetup", "losetup", "thin_check")
}

// ThinPool makes a volume group with a thin pool on a loop device. All goes
// when the test ends, with whatever is in it. It skips t as RequireThinPools does.
func ThinPool(t testing.TB, options PoolOptions) Pool {
	t.Helper()
	RequireThinPools(t)
	if options.Disk == 0 {
		options.Disk = 8 << 30
	}
	if options.Data == 0 {
		options.Data = options.Disk / 4 * 3
	}

	image := filepath.Join(TempDir(t), "pv.img")
	Run(t, "truncate", "--size", fmt.Sprint(options.Disk), image)
	device := strings.TrimSpace(Run(t, "losetup", "--find", "--show", image))
	t.Cleanup(func() { Run(t, "losetup", "--detach", device) })

	pool := Pool{Group: "sdtest" + strings.ToLower(rand.Text()[:8]), Name: "pool", Device: device}
	pool.LVM(t, append([]string{"vgcreate", pool.Group, device}, strings.Fields(options.Format)...)...)
	t.Cleanup(func() { pool.LVM(t, "vgremove", "--force", "--force", pool.Group) })
	create := []string{"lvcreate", "--type", "thin-pool", "--name", pool.Name, "--size", fmt.Sprint(options.Data, "b"), pool.Group}
	if options.Metadata != 0 {
		create = append(create, "--poolmetadatasize", fmt.Sprint(options.Metadata, "b"))
	}
	pool.LVM(t, create...)
	return pool
}

// LVM runs an lvm command that sees the pool's device only, waits for no udev
// and asks nothing, and fails t when it fails. It returns what it printed.
func (p Pool) LVM(t testing.TB, arguments ...string) string {
	t.Helper()
	config := fmt.Sprintf(`devices { use_devicesfile=0 filter=["a|^%s$|","r|.*|"] } activation { udev_sync=0 udev_rules=0 monitoring=0 } backup { backup=0 archive=0 }`, p.Device)
	command := exec.Command("lvm", append(arguments, "--yes", "--config", config)...)
	command.Env = append(os.Environ(), "LC_ALL=C", "DM_DISABLE_UDEV=1")
	out, err := command.Output()
	if err != nil {
		message := ""
		if exit, is := err.(*exec.ExitError); is { //nolint:errorlint // Output returns it as it is
			message = string(exit.Stderr)
		}
		t.Fatalf("lvm %s: %v\n%s", strings.Join(arguments, " "), err, message)
	}
	return string(out)
}
