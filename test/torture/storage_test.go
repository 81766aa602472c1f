package torture

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/internal/testenv"
)

const (
	kib = 1 << 10
	mib = 1 << 20
	gib = 1 << 30
)

// kind is a kind of volume.
type kind struct {
	name               string
	how                *csi.VolumeCapability
	size               int64 // of the first, and by how much they grow, in bytes
	parameters         map[string]string
	snapshotParameters map[string]string
}

// filesystem and block are how a volume is used.
func filesystem(fsType string) *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: fsType}},
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
	}
}

func block() *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessType: &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}},
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
	}
}

var (
	hostpathKinds = []kind{
		{name: "directory", how: filesystem(""), size: 32 * mib},
		{name: "compressed", how: filesystem(""), size: 32 * mib, snapshotParameters: map[string]string{"format": "tar.zst"}},
		{name: "image", how: filesystem("ext4"), size: 32 * mib, parameters: map[string]string{"layout": "image"}},
		{name: "block", how: block(), size: 32 * mib},
	}
	lvmKinds = []kind{
		{name: "ext4", how: filesystem("ext4"), size: 64 * mib},
		{name: "block", how: block(), size: 64 * mib},
	}
)

var (
	hostpathSteps = []string{"stage", "fill", "record", "settle", "commit", "sync", "grow", "refresh", "detach", "trash", "cut"}
	lvmSteps      = []string{"lvm lvcreate", "lvm lvchange", "lvm lvremove", "lvm lvextend", "mkfs"}
)

// kindOf returns the kind of a name.
func kindOf(kinds []kind, name string) kind {
	return kinds[slices.IndexFunc(kinds, func(k kind) bool { return k.name == name })]
}

// storage is where the driver keeps its objects.
type storage struct {
	name  string
	kinds []kind
	steps []string // how they begin, of those that a request can come to
	many  int      // how many volumes it is asked for at once, times scale
	kills int      // how often TestKill kills it, times scale
	pace  int      // how many times longer than on a filesystem a request takes
	make  func(t *testing.T, size int64) place
}

// place is a storage that was made for one test.
type place struct {
	dir   string // of hostpath: where its filesystem is mounted
	root  string // for --root
	flags []string

	// census says what the driver keeps there while no volume is in use.
	census func() census

	// used returns how much of the storage is taken, in bytes.
	used func() int64

	// boot makes the storage what it is after a reboot.
	boot func()

	// lose makes the storage one that cannot be opened; find makes it what it was,
	// when no pod has volumes.
	lose, find func()
}

// census is what is found in a storage from outside.
type census struct {
	objects []string // IDs, in order
	strange []string // what does not belong there, among it mounts and devices
}

// storages are those that can be had on this machine. Where
// SNAPDRIVER_REQUIRE_LVM=1 says that the tests of thin pools run, only these do:
// the others run where it is not set.
func storages() []storage {
	thin := storage{name: "lvm", kinds: lvmKinds, steps: lvmSteps, many: 20, kills: 4, pace: 10, make: makePool}
	if os.Getenv("SNAPDRIVER_REQUIRE_LVM") == "1" {
		return []storage{thin}
	}
	all := []storage{
		onHostpath("ext4", makeHostpath("ext4")),
		onHostpath("xfs", makeHostpath("xfs")),
	}
	if os.Geteuid() == 0 && testenv.HasThinPools() {
		all = append(all, thin)
	}
	return all
}

// onHostpath is the storage of the hostpath backend on a filesystem of that name.
func onHostpath(filesystem string, make func(*testing.T, int64) place) storage {
	return storage{name: filesystem, kinds: hostpathKinds, steps: hostpathSteps, many: 340, kills: 22, pace: 1, make: make}
}

// long is a time that is long enough for some requests; length is that on a
// filesystem.
func (s storage) long(length time.Duration) time.Duration { return length * time.Duration(s.pace) }

// onEach runs a test on each storage.
func onEach(t *testing.T, run func(t *testing.T, s storage)) {
	requireDriver(t)
	for _, s := range storages() {
		t.Run(s.name, func(t *testing.T) { run(t, s) })
	}
}

// onOne runs a test on one storage, for what has little to do with storage.
func onOne(t *testing.T, run func(t *testing.T, s storage)) {
	requireDriver(t)
	all := storages()
	run(t, all[len(all)-1])
}

func makeHostpath(filesystem string) func(*testing.T, int64) place {
	return func(t *testing.T, size int64) place { return placeAt(t, testenv.Filesystem(t, filesystem, size)) }
}

// placeAt is a place for the hostpath backend on a filesystem of its own.
func placeAt(t *testing.T, dir string) place {
	root := filepath.Join(dir, "root")
	return place{
		dir:    dir,
		root:   root,
		census: func() census { return censusBelow(t, root) },
		boot:   func() { remount(t, dir) },
		lose:   func() { testenv.ShutDown(t, dir) },
		find:   func() { remount(t, dir) },
		used: func() int64 {
			unix.Sync()
			var stat unix.Statfs_t
			if err := unix.Statfs(dir, &stat); err != nil {
				t.Fatal(err)
			}
			return int64(stat.Blocks-stat.Bfree) * stat.Bsize
		},
	}
}

// censusBelow looks at the root directory of the hostpath backend. What is in
// the trash does not count: it goes.
func censusBelow(t *testing.T, root string) (c census) {
	t.Helper()
	for _, dir := range []string{"volumes", "snapshots", "staging", "damaged"} {
		entries, err := os.ReadDir(filepath.Join(root, dir))
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		for _, entry := range entries {
			if dir == "volumes" || dir == "snapshots" {
				c.objects = append(c.objects, entry.Name())
			} else {
				c.strange = append(c.strange, filepath.Join(dir, entry.Name()))
			}
		}
	}
	leaks, err := testenv.Leaks(root)
	if err != nil {
		t.Fatal(err)
	}
	c.strange = append(c.strange, leaks...)
	slices.Sort(c.objects)
	return c
}

func makePool(t *testing.T, size int64) place {
	pool := testenv.ThinPool(t, testenv.PoolOptions{Disk: size})
	// As "snapdriver lvm init" makes it.
	pool.LVM(t, "lvchange", "--errorwhenfull", "y", pool.Group+"/"+pool.Name)
	return place{
		root:   t.TempDir(),
		flags:  []string{"--backend=lvm", "--volume-group=" + pool.Group, "--thin-pool=" + pool.Name, "--lock-dir=" + t.TempDir()},
		census: func() census { return censusOf(t, pool) },
		boot:   func() { pool.LVM(t, "vgchange", "--activate", "n", pool.Group) },
		lose:   func() { pool.LVM(t, "vgrename", pool.Group, pool.Group+"lost") },
		find:   func() { pool.LVM(t, "vgrename", pool.Group+"lost", pool.Group) },
		used: func() int64 {
			percent := strings.TrimSpace(pool.LVM(t, "lvs", "--noheadings", "--options", "data_percent", pool.Group+"/"+pool.Name))
			used, err := strconv.ParseFloat(percent, 64)
			if err != nil {
				t.Fatal(err)
			}
			return int64(used / 100 * float64(size) * 3 / 4) // see PoolOptions
		},
	}
}

// censusOf looks at a volume group of the lvm backend.
func censusOf(t *testing.T, pool testenv.Pool) (c census) {
	t.Helper()
	for line := range strings.Lines(pool.LVM(t, "lvs", "--noheadings", "--options", "lv_name,lv_device_open", pool.Group)) {
		name, open, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch {
		case name == pool.Name:
			continue
		case strings.HasPrefix(name, "vol-"), strings.HasPrefix(name, "snap-"):
			c.objects = append(c.objects, name)
		default:
			c.strange = append(c.strange, name)
		}
		if strings.TrimSpace(open) == "open" {
			c.strange = append(c.strange, name+" is open")
		}
	}
	slices.Sort(c.objects)
	return c
}
