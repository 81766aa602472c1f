package torture

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/snapdriver/snapdriver/internal/testenv"
	"github.com/snapdriver/snapdriver/test/torture/content"
)

// maxSteps ends a loop whose request never ends.
const maxSteps = 100

// TestDieAtEachStep has each request that changes something cut off before its
// first step, its second, ..., the steps of the start included, until it has run
// to its end. Each time what was acknowledged is whole, the repeat succeeds, and
// nothing else is left.
func TestDieAtEachStep(t *testing.T) {
	onEach(t, func(t *testing.T, s storage) {
		for _, of := range s.kinds {
			t.Run(of.name, func(t *testing.T) {
				s.kinds = []kind{of}
				b := started(t, s, 8*gib)
				w := b.newWorkers(newRandom(t), 1, 1)[0]
				for _, change := range changes {
					t.Logf("%s: died at %v", change, b.dieAtEachStep(w, change))
				}
			})
		}
	})
}

// dieAtEachStep returns the steps at which the driver died. It runs before and
// after.
func (b *testbed) dieAtEachStep(w *worker, change string) (steps []string) {
	b.Helper()
	for n := 1; n <= maxSteps; n++ {
		if err := w.haveOne(); err != nil {
			b.Fatal(err)
		}
		volume, _ := w.pick(w.volumes)
		snapshot, _ := w.pick(w.snapshots)
		ask := w.request(change, volume, snapshot)
		b.Kill()

		b.Env = []string{fmt.Sprint("SNAPDRIVER_DIE_AT=", n)}
		b.Launch()
		b.Env = nil
		err := b.AwaitReady()
		if err == nil {
			err = ask()
		}
		died := b.diedAt()
		if died == "" && err != nil {
			b.Fatalf("not cut off: %v\n%s", err, b.Logged())
		}
		if err != nil {
			w.pending = ask
		}
		b.Kill()

		b.Start()
		w.verify(mustLive)
		w.proveSnapshots()
		b.expectObjects(ids([]*worker{w})...)
		if b.Failed() {
			b.Fatalf("died at step %d (%s); the driver's last words:\n%s", n, died, b.Logged())
		}
		if died == "" && n == 1 {
			b.Fatal("it never dies: was the driver built with the tag steps?")
		}
		if died == "" {
			return slices.Compact(steps)
		}
		steps = append(steps, died)
	}
	b.Fatalf("there are more than %d steps", maxSteps)
	return nil
}

// haveOne makes the worker have one volume and one snapshot.
func (w *worker) haveOne() (err error) {
	for err == nil && len(w.volumes) != 1 {
		if volume, any := w.pick(w.volumes); any {
			err = w.deleteVolume(volume)()
		} else {
			err = w.create(nil, content.Tag(w.random.Uint64()), true)()
		}
	}
	for err == nil && len(w.snapshots) != 1 {
		if snapshot, any := w.pick(w.snapshots); any {
			err = w.deleteSnapshot(snapshot)()
		} else {
			volume, _ := w.pick(w.volumes)
			err = w.snapshot(w.volumes[volume])()
		}
	}
	return err
}

// TestDieFrozen: a driver that dies while it has a pod's filesystem frozen for a
// snapshot stops the pod only until the driver is started again.
func TestDieFrozen(t *testing.T) {
	requireDriver(t)
	for _, s := range storages() {
		if s.name == "lvm" {
			continue // lvm freezes, in a process of its own, which does not die with the driver
		}
		t.Run(s.name, func(t *testing.T) {
			b := newTestbed(t, s, gib)
			b.Env = []string{"SNAPDRIVER_DIE_AT=1 cut"}
			b.Start()
			b.Env = nil
			v := b.mustCreate(kindOf(s.kinds, "image"), "frozen")
			if err := v.publish(); err != nil {
				t.Fatal(err)
			}
			tag := content.Tag(1)
			_, err := v.snapshot("cut off")
			expectCode(t, err, codes.Unavailable)
			if at := b.diedAt(); at != "cut" {
				t.Fatalf("died at %q", at)
			}
			written := make(chan error, 1)
			go func() { written <- tag.Write(v.target()) }()
			b.Kill()
			b.Start()
			select {
			case err = <-written:
			case <-time.After(time.Minute):
				err = fmt.Errorf("the pod still waits; %s", testenv.Run(t, "fsfreeze", "--unfreeze", v.target()))
			}
			if err != nil {
				t.Fatal(err)
			}
			v.mustSnapshot("cut off")
			if err := errors.Join(tag.Check(v.target()), v.unpublish()); err != nil {
				t.Error(err)
			}
		})
	}
}
