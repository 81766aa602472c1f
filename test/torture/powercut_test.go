package torture

import (
	"cmp"
	"flag"
	"strings"
	"testing"
	"time"

	"github.com/snapdriver/snapdriver/internal/testvm"
)

const diskSize = 16 << 30

// guestStorage is what a backend keeps its objects in, on the guest's disk:
// lines for its shell.
type guestStorage struct {
	create string // on the empty disk
	open   string // after each boot, before the driver starts; fails when it is not consistent
	flags  []string
	left   string // prints what is left when all is deleted, in the kernel too: which is nothing
	kinds  []kind
	cuts   int

	// inOrder says that the disk writes in the order in which it was told to.
	// LVM relies on it: it does not flush between its metadata and the pointer to
	// them.
	inOrder bool
}

var guestDisk = testvm.DiskPath(0)

var guestStorages = map[string]guestStorage{
	"lvm": {
		create: "lvm vgcreate --quiet vg " + guestDisk + "; lvm lvcreate --quiet --type thin-pool --name pool --size 8g --poolmetadatasize 64m vg; lvm vgchange --activate n vg",
		open:   "lvm vgck vg",
		flags:  []string{"--backend=lvm", "--volume-group=vg", "--thin-pool=pool"},
		left: "lvm lvs --noheadings --options lv_name vg | sed 's/ *pool$//'; " +
			"lvm lvchange --activate y vg/pool; pool=$(dmsetup ls --target thin-pool | cut --fields 1); " +
			"dmsetup message $pool 0 reserve_metadata_snap; thin_ls --metadata-snap --no-headers --format DEV /dev/mapper/vg-pool_tmeta",
		kinds:   lvmKinds,
		cuts:    20,
		inOrder: true,
	},
	"ext4": onFilesystem("ext4"),
	"xfs":  onFilesystem("xfs"),
}

// onFilesystem is the storage of the hostpath backend.
func onFilesystem(fsType string) guestStorage {
	return guestStorage{
		create: "mkfs." + fsType + " -q " + guestDisk,
		open:   "mkdir /data; mount " + guestDisk + " /data",
		flags:  []string{"--root=/data/root"},
		left:   "cd /data/root; find . -mindepth 2",
		kinds:  hostpathKinds,
		cuts:   4, // there are many more in its own package
	}
}

var cuts = flag.Int("torture.cuts", 0, "how `many` power cuts; 0 means as many as each storage deserves")

// TestPowerCut cuts the power of a machine at random moments while the driver
// works or recovers. What the disk was not told to flush may be lost. After
// each boot the storage is consistent, every acknowledged object is whole,
// nothing acknowledged as deleted is there, and every request that was cut off
// is repeated until it succeeds. At the end all is deleted and nothing is left.
func TestPowerCut(t *testing.T) {
	if testing.Short() {
		t.Skip("takes minutes")
	}
	for name, s := range guestStorages {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // a guest has one processor
			testPowerCut(t, s)
		})
	}
}

// workUntilCut has the machine die after some time, and of nothing else: when so
// many blocks are not flushed, or at last when a boot's time has passed. At most
// moments all is flushed, and then a cut loses nothing.
func (g *guest) workUntilCut(after time.Duration, unflushed int, workers []*worker, do func(*worker)) {
	ended, cut := make(chan struct{}), make(chan bool, 1)
	timer := time.AfterFunc(after, func() {
		for deadline := time.Now().Add(g.bootTime); g.disk.Unflushed() < unflushed && time.Now().Before(deadline); {
			select {
			case <-ended:
				cut <- false
				return
			case <-time.After(time.Millisecond):
			}
		}
		g.vm.Kill()
		cut <- true
	})
	forAll(workers, do)
	close(ended)
	if timer.Stop() || !<-cut {
		err := g.vm.Run(testvm.Command{Args: []string{"true"}}) // shows the console of a machine that has died
		g.t.Errorf("the driver, or the machine, has died before the power was cut: %v", err)
	}
}

func testPowerCut(t *testing.T, s guestStorage) {
	random := newRandom(t)
	g := newGuest(t, s)
	var workers []*worker
	var directories []string
	for _, of := range s.kinds {
		w := newWorker(t, g, of, "/run/"+of.name, 2, random.Uint64())
		workers = append(workers, w)
		directories = append(directories, w.staging+"/staging")
	}
	lost := 0
	for round := range cmp.Or(*cuts, s.cuts) {
		g.start(directories...)
		if round%4 == 3 { // to do so each time would take longer than all the rest
			forAll(workers, func(w *worker) {
				if w.verify(mustLive) {
					w.proveSnapshots()
				}
			})
		}
		// The power goes while the driver works, or, now and then, while it
		// recovers. A busy machine gets more time.
		moment, unflushed := time.Duration(random.Int64N(int64(2*g.bootTime))), random.IntN(64)
		if random.IntN(4) == 0 {
			g.workUntilCut(moment, unflushed, workers, func(w *worker) {
				if w.verify(mayDie) {
					w.work()
				}
			})
		} else {
			forAll(workers, func(w *worker) { w.verify(mustLive) })
			g.workUntilCut(moment, unflushed, workers, (*worker).work)
		}
		lost += g.cut(random)
		if t.Failed() {
			t.Fatalf("the driver's last words:\n%s", g.log)
		}
		g.boot()
	}
	if lost == 0 {
		t.Error("nothing was lost by any cut: nothing was tried")
	}
	g.start(directories...)
	forAll(workers, (*worker).deleteAll)
	for _, w := range workers {
		t.Logf("%s: %v acknowledged, %v cut off and repeated", w.name, w.acknowledged, w.cutOff)
	}
	if left := strings.TrimSpace(g.sh(s.left)); left != "" {
		t.Errorf("left:\n%s", left)
	}
}
