package torture

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/snapdriver/snapdriver/test/torture/content"
)

// local is a driver on this machine.
type local struct{ *testbed }

func (l local) controller() csi.ControllerClient       { return l.Controller }
func (l local) node() csi.NodeClient                   { return l.Node }
func (local) write(tag content.Tag, path string) error { return withoutForks(tag.Write, path) }
func (local) check(tag content.Tag, path string) error { return withoutForks(tag.Check, path) }

func (local) checkSize(path string, size, structures int64) error {
	return withoutForks(func(path string) error { return content.CheckSize(path, size, structures) }, path)
}

// withoutForks keeps the driver from being started meanwhile: the new process
// would have what is open here, for a moment, and be a pod that does not let go.
func withoutForks(use func(path string) error, path string) error {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	return use(path)
}

// newWorkers makes workers with so many objects of either sort, of each kind in
// turn.
func (b *testbed) newWorkers(random *rand.Rand, count, enough int) []*worker {
	var workers []*worker
	for i := range count {
		of := b.kinds[i%len(b.kinds)]
		of.name = fmt.Sprint(of.name, i)
		b.mkdir(of.name + "/staging")
		workers = append(workers, newWorker(b.T, local{b}, of, b.pods+"/"+of.name, enough, random.Uint64()))
	}
	return workers
}

// ids returns what the workers were promised.
func ids(workers []*worker) (all []string) {
	for _, w := range workers {
		for _, objects := range []map[string]object{w.volumes, w.snapshots} {
			for _, o := range objects {
				all = append(all, o.id)
			}
		}
	}
	return all
}

func forAll(workers []*worker, do func(*worker)) {
	var all sync.WaitGroup
	for _, w := range workers {
		all.Go(func() { do(w) })
	}
	all.Wait()
}

// TestKill kills the driver at random moments and at each of its steps while 8
// workers work, and as often while it starts, or while volumes are staged and
// read. After each restart, every acknowledged object is whole, nothing
// acknowledged as deleted is there, every request that was cut off is repeated
// until it succeeds, and then there is nothing else in the storage.
func TestKill(t *testing.T) {
	onEach(t, func(t *testing.T, s storage) {
		b := newTestbed(t, s, 16*gib)
		random := newRandom(t)
		workers := b.newWorkers(random, 8, 4)
		killed := map[string]int{}
		for round := range s.kills * *scale {
			if round%2 == 0 {
				b.killStarting(random)
			} else {
				b.killVerifying(random, workers)
			}
			b.Start()
			forAll(workers, func(w *worker) { w.verify(mustLive) })
			b.expectObjects(ids(workers)...)
			b.Kill()
			killed[cmp.Or(b.killWorking(random, round, workers), "random")]++
			if t.Failed() {
				t.Fatalf("round %d; the driver's last words:\n%s", round, b.Logged())
			}
		}
		b.Start()
		forAll(workers, func(w *worker) { w.verify(mustLive) })
		b.expectObjects(ids(workers)...)
		forAll(workers, (*worker).deleteAll)
		for _, w := range workers {
			t.Logf("%s: %v acknowledged, %v cut off and repeated", w.name, w.acknowledged, w.cutOff)
		}
		t.Logf("killed at %v", killed)
	})
}

func (b *testbed) killStarting(random *rand.Rand) {
	b.Launch()
	time.Sleep(upTo(random, b.long(40*time.Millisecond)))
	b.Kill()
}

func (b *testbed) killVerifying(random *rand.Rand, workers []*worker) {
	b.Start()
	timer := b.killLater(upTo(random, b.long(100*time.Millisecond)))
	forAll(workers, func(w *worker) { w.verify(mayDie) })
	timer.Stop()
	b.Kill()
}

// killWorking lets the workers work until the driver is dead, at a random moment
// or step, and returns which.
func (b *testbed) killWorking(random *rand.Rand, round int, workers []*worker) string {
	within := b.long(300 * time.Millisecond)
	if round%2 == 1 {
		// One that does not come up is followed by a random moment.
		b.Env = []string{fmt.Sprintf("SNAPDRIVER_DIE_AT=%d %s", 1+random.IntN(8), b.steps[round/2%len(b.steps)])}
		within = b.long(2 * time.Second)
	}
	b.Start()
	b.Env = nil
	timer := b.killLater(upTo(random, within))
	forAll(workers, (*worker).work)
	timer.Stop()
	b.Kill()
	return b.diedAt()
}

var stepLogged = regexp.MustCompile(`"Step" name="(lvm )?([^ "]*)`)

// diedAt returns the step at which the driver was told to die; empty: it did not
// come to it.
func (b *testbed) diedAt() string {
	log := b.Logged()
	steps := stepLogged.FindAllStringSubmatch(log, -1)
	if !strings.Contains(log, `"Dying"`) || len(steps) == 0 {
		return ""
	}
	return steps[len(steps)-1][2]
}

func upTo(random *rand.Rand, most time.Duration) time.Duration {
	return time.Duration(random.Int64N(int64(most)))
}

// killLater kills the driver after some time. Those who call it find out by
// their calls.
func (b *testbed) killLater(after time.Duration) *time.Timer {
	return time.AfterFunc(after, func() { b.Signal(syscall.SIGKILL) })
}
