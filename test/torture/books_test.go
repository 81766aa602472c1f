package torture

import (
	"context"
	"flag"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

var (
	booksFor    = flag.Duration("torture.books", 0, "how long TestBooks runs on each storage; 0 means 10s times the scale, or 100s on lvm")
	bookWorkers = flag.Int("torture.workers", 8, "how many `workers` TestBooks has")
	killEvery   = flag.Duration("torture.kill-every", 0, "how often TestBooks kills the driver; 0 means ten times in all")
)

// TestBooks has workers do everything at random, while the driver is killed again
// and again. In the end the books balance: what was acknowledged is what is
// listed, is what lies in the storage, and is whole; the driver's figures are
// those of the objects; the space used is that of the files. Then the driver
// works for a while without being killed, and does not grow.
func TestBooks(t *testing.T) {
	onEach(t, func(t *testing.T, s storage) {
		b := started(t, s, 64*gib)
		random := newRandom(t)
		workers := b.newWorkers(random, *bookWorkers, 4)
		length := *booksFor
		if length == 0 {
			length = s.long(time.Duration(*scale) * 10 * time.Second)
		}
		every := *killEvery
		if every == 0 {
			every = length / 10
		}
		kills := b.workAndDie(workers, length*3/4, every)
		b.balance(workers)

		var first, last figures
		const rounds = 5
		for round := range rounds {
			b.workAll(workers, length/4/rounds)
			if last = b.figures(); round == 0 {
				first = last
			}
			t.Logf("without a kill, round %d: %v", round, last)
		}
		if last.goroutines > first.goroutines+someMore || last.descriptors > first.descriptors+someMore || last.memory > first.memory+someMoreMemory {
			t.Errorf("it had %v and has %v", first, last)
		}
		b.balance(workers)
		acknowledged, cutOff := 0, 0
		for _, w := range workers {
			for what := range w.acknowledged {
				acknowledged += w.acknowledged[what]
				cutOff += w.cutOff[what]
			}
		}
		t.Logf("%d requests acknowledged, %d cut off and repeated; killed %d times", acknowledged, cutOff, kills)
		forAll(workers, (*worker).deleteAll)
	})
}

// workAll lets all workers work for so long.
func (b *testbed) workAll(workers []*worker, length time.Duration) {
	ctx, cancel := context.WithTimeout(background, length)
	defer cancel()
	forAll(workers, func(w *worker) { w.endure(ctx) })
	if b.Failed() {
		b.Fatalf("the driver's last words:\n%s", b.Logged())
	}
}

// workAndDie does so while the driver is killed, and returns how often that was.
func (b *testbed) workAndDie(workers []*worker, length, every time.Duration) (kills int) {
	end := b.supervise()
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	enough := time.After(length - every/2) // what was begun is finished in peace
	go func() {
		for {
			select {
			case <-ticker.C:
				b.Signal(syscall.SIGKILL)
			case <-enough:
				return
			}
		}
	}()
	b.workAll(workers, length)
	return end()
}

// endure makes requests until ctx ends, and repeats each until the driver lives
// long enough to answer it.
func (w *worker) endure(ctx context.Context) {
	for ctx.Err() == nil {
		what, request := w.choose()
		if w.random.IntN(4) == 0 {
			what, request = "check", w.checkAny()
		}
		err := request()
		if status.Code(err) == codes.Unavailable {
			w.cutOff[what]++
		}
		for ; status.Code(err) == codes.Unavailable; err = request() {
			time.Sleep(10 * time.Millisecond)
		}
		if err != nil {
			w.t.Errorf("%s: %s: %v", w.name, what, err)
			return
		}
		w.acknowledged[what]++
	}
}

// checkAny looks at one volume and one snapshot.
func (w *worker) checkAny() func() error {
	volume, anyVolume := w.pick(w.volumes)
	snapshot, anySnapshot := w.pick(w.snapshots)
	return func() error {
		if anySnapshot {
			if _, err := w.machine.controller().GetSnapshot(background, &csi.GetSnapshotRequest{SnapshotId: w.snapshots[snapshot].id}); err != nil {
				return err
			}
		}
		if !anyVolume {
			return nil
		}
		return w.staged(w.volumes[volume].id, func(path string) error { return w.whole(w.volumes[volume], path) })
	}
}

// balance compares what the workers were promised with what the driver says,
// before and after it is started anew, and with what is in the storage.
func (b *testbed) balance(workers []*worker) {
	b.Helper()
	forAll(workers, func(w *worker) { w.verify(mustLive) })
	b.expectObjects(ids(workers)...)
	before := b.sums()
	b.Stop()
	b.Start()
	if after := b.sums(); before != after {
		b.Errorf("the driver had %v and has %v", before, after)
	}
	b.expectObjects(ids(workers)...)
	if b.dir != "" {
		b.expectRecount()
	}
	if b.Failed() {
		b.FailNow()
	}
}

// sums are the objects and their bytes, as the lists have them and as the
// metrics do.
func (b *testbed) sums() string {
	b.Helper()
	var listed [4]int64
	volumes, err := b.Controller.ListVolumes(background, &csi.ListVolumesRequest{})
	if err != nil {
		b.Fatal(err)
	}
	for _, entry := range volumes.GetEntries() {
		listed[0]++
		listed[1] += entry.GetVolume().GetCapacityBytes()
	}
	snapshots, err := b.Controller.ListSnapshots(background, &csi.ListSnapshotsRequest{})
	if err != nil {
		b.Fatal(err)
	}
	for _, entry := range snapshots.GetEntries() {
		listed[2]++
		listed[3] += entry.GetSnapshot().GetSizeBytes()
	}
	for i, metric := range []string{"snapdriver_volumes", "snapdriver_volume_bytes", "snapdriver_snapshots", "snapdriver_snapshot_bytes"} {
		if has := int64(b.Metric(metric)); has != listed[i] {
			b.Errorf("%s is %d, listed are %d", metric, has, listed[i])
		}
	}
	return fmt.Sprintf("%d volumes of %d bytes, %d snapshots of %d bytes", listed[0], listed[1], listed[2], listed[3])
}

// What a filesystem may use beyond the data of its files: in all, and for the
// inodes and directories of an object.
const (
	recountSlack  = 4 * mib
	slackOfObject = 32 * kib
)

// expectRecount compares the space used with that of all files, where what
// several share counts once.
func (b *testbed) expectRecount() {
	b.Helper()
	slack := int64(recountSlack + len(b.census().objects)*slackOfObject)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		used, counted := b.used()-b.empty, b.recount()
		if max(used-counted, counted-used) < slack {
			b.Logf("%d MiB are used, the files have %d MiB", used/mib, counted/mib)
			return
		}
		if time.Now().After(deadline) {
			b.Errorf("%d MiB are used, the files have %d MiB", used/mib, counted/mib)
			return
		}
	}
}

// recount returns how many bytes of the device the files below the root take.
func (b *testbed) recount() (bytes int64) {
	b.Helper()
	var all []extent
	err := filepath.WalkDir(b.root, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			all = append(all, extentsOf(b, path)...)
		}
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	slices.SortFunc(all, byPlace)
	end := int64(0)
	for _, e := range all {
		bytes += max(0, e.at+e.size-max(e.at, end))
		end = max(end, e.at+e.size)
	}
	return bytes
}
