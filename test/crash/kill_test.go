package crash

import (
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/snapdriver/snapdriver/internal/testdriver"
	"github.com/snapdriver/snapdriver/internal/testenv"
	"github.com/snapdriver/snapdriver/test/crash/content"
)

// kills is how often the driver is killed at work.
const kills = 60

// Of the random moments: the same ones come with the same seed only as far as
// the machine is as fast, but the requests do.
var seed = flag.Uint64("seed", 20, "of the moments and of the requests")

func newRandom(t *testing.T) *rand.Rand {
	t.Logf("-seed %d", *seed)
	return rand.New(rand.NewPCG(*seed, *seed))
}

// local is a driver on this machine.
type local struct{ *testdriver.Driver }

func (l local) controller() csi.ControllerClient       { return l.Controller }
func (l local) node() csi.NodeClient                   { return l.Node }
func (local) write(tag content.Tag, path string) error { return tag.Write(path) }
func (local) check(tag content.Tag, path string) error { return tag.Check(path) }

// TestKill kills the driver at 60 random moments of work, and as often while it
// starts or while volumes are staged and read. After each restart, every
// acknowledged object is whole, nothing acknowledged as deleted is there, and
// every request that was cut off is repeated until it succeeds. At the end all
// is deleted and nothing is left.
func TestKill(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	testenv.RequireRoot(t)
	for _, filesystem := range []string{"xfs", "ext4"} {
		t.Run(filesystem, func(t *testing.T) {
			testKill(t, filepath.Join(testenv.Filesystem(t, filesystem, 16<<30), "root"))
		})
	}
}

func testKill(t *testing.T, root string) {
	d := testdriver.New(t, root)
	random := newRandom(t)

	workers := []*worker{}
	for _, of := range []kind{
		{"directory-1", filesystem(""), nil, 32 << 20},
		{"directory-2", filesystem(""), nil, 32 << 20},
		{"image", filesystem(""), map[string]string{"layout": "image"}, 32 << 20},
		{"block", block(), nil, 32 << 20},
	} {
		staging := testenv.TempDir(t)
		if err := os.Mkdir(filepath.Join(staging, "staging"), 0o755); err != nil {
			t.Fatal(err)
		}
		workers = append(workers, newWorker(t, local{d}, of, staging, 6, random.Uint64()))
	}
	for round := range kills {
		if round%2 == 0 {
			d.Launch()
			time.Sleep(time.Duration(random.IntN(40)) * time.Millisecond)
		} else {
			d.Start()
			timer := killLater(d, random, 100*time.Millisecond)
			forAll(workers, func(w *worker) { w.verify(mayDie) })
			timer.Stop()
		}
		d.Kill()

		d.Start()
		forAll(workers, func(w *worker) { w.verify(mustLive) })
		timer := killLater(d, random, 300*time.Millisecond)
		forAll(workers, (*worker).work)
		timer.Stop()
		d.Kill()
		if t.Failed() {
			t.Fatalf("the driver's last words:\n%s", d.Log())
		}
	}
	d.Start()
	forAll(workers, (*worker).deleteAll)
	awaitEmptyTrash(t, root)
	d.Stop()
	for _, w := range workers {
		t.Logf("%s: %v acknowledged, %v cut off and repeated", w.name, w.acknowledged, w.cutOff)
	}
	checkEmpty(t, root)
}

// killLater kills the driver at some moment within a time. Those who call it
// find out by their calls.
func killLater(d *testdriver.Driver, random *rand.Rand, within time.Duration) *time.Timer {
	return time.AfterFunc(time.Duration(random.Int64N(int64(within))), func() { d.Signal(syscall.SIGKILL) })
}

func forAll(workers []*worker, do func(*worker)) {
	var all sync.WaitGroup
	for _, w := range workers {
		all.Go(func() { do(w) })
	}
	all.Wait()
}

// awaitEmptyTrash waits for the running driver to have removed what was deleted.
func awaitEmptyTrash(t *testing.T, root string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if entries, err := os.ReadDir(filepath.Join(root, "trash")); err != nil || len(entries) == 0 {
			return
		}
	}
	t.Error("the trash does not become empty")
}

// checkEmpty fails t when anything but directories that are always there, and
// the lock, lies below the root, or a mount or loop device is left.
func checkEmpty(t *testing.T, root string) {
	t.Helper()
	for _, dir := range []string{"volumes", "snapshots", "staging", "trash", "damaged"} {
		entries, err := os.ReadDir(filepath.Join(root, dir))
		if err != nil && !os.IsNotExist(err) {
			t.Error(err)
		}
		for _, entry := range entries {
			t.Errorf("left: %s/%s", dir, entry.Name())
		}
	}
	leaks, err := testenv.Leaks(root)
	if err != nil || len(leaks) > 0 {
		t.Errorf("left: %q, %v", leaks, err)
	}
}
