package crash

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/snapdriver/snapdriver/internal/testdriver"
	"github.com/snapdriver/snapdriver/internal/testenv"
)

const (
	kills = 60
	seed  = 20
	size  = 32 << 20

	// enough is how many volumes, and snapshots, a worker has at most.
	enough = 6
)

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
	random := rand.New(rand.NewPCG(seed, seed))
	t.Logf("seed %d", seed)

	workers := []*worker{
		newWorker(t, d, "directory-1", capability(false), nil, random.Uint64()),
		newWorker(t, d, "directory-2", capability(false), nil, random.Uint64()),
		newWorker(t, d, "image", capability(false), map[string]string{"layout": "image"}, random.Uint64()),
		newWorker(t, d, "block", capability(true), nil, random.Uint64()),
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
		t.Logf("%s: %v acknowledged, %d cut off and repeated", w.name, w.acknowledged, w.cutOff)
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

// worker has objects of its own, asks for changes, and remembers what it was
// promised.
type worker struct {
	t          *testing.T
	d          *testdriver.Driver
	name       string
	how        *csi.VolumeCapability
	parameters map[string]string
	staging    string
	random     *rand.Rand
	next       int

	volumes   map[string]object // acknowledged, by name
	snapshots map[string]object

	deletedVolumes, deletedSnapshots []string // acknowledged, by ID

	// pending is the request that was cut off: it may have had its effect or not.
	pending func() error

	acknowledged map[string]int
	cutOff       int
}

type object struct {
	id       string
	capacity int64 // what was acknowledged
	content
}

func newWorker(t *testing.T, d *testdriver.Driver, name string, how *csi.VolumeCapability, parameters map[string]string, seed uint64) *worker {
	return &worker{
		t: t, d: d, name: name, how: how, parameters: parameters, staging: testenv.TempDir(t),
		random:  rand.New(rand.NewPCG(seed, seed)),
		volumes: map[string]object{}, snapshots: map[string]object{}, acknowledged: map[string]int{},
	}
}

// work asks for one change after the other until the driver dies.
func (w *worker) work() {
	for {
		kind, request := w.choose()
		if err := request(); err != nil {
			if status.Code(err) != codes.Unavailable {
				w.t.Errorf("%s: %s: %v", w.name, kind, err)
			}
			w.pending = request
			w.cutOff++
			return
		}
		w.acknowledged[kind]++
	}
}

// Whether the driver may die in the middle of a verification.
const (
	mayDie   = true
	mustLive = false
)

// verify repeats what was cut off and checks everything that was promised.
func (w *worker) verify(dying bool) {
	err := w.verifyAll()
	if err != nil && (!dying || status.Code(err) != codes.Unavailable) {
		w.t.Errorf("%s: %v", w.name, err)
	}
}

func (w *worker) verifyAll() error {
	if w.pending != nil {
		if err := w.pending(); err != nil {
			return fmt.Errorf("the repeat: %w", err)
		}
		w.pending = nil
	}
	for name, volume := range w.volumes {
		if err := w.staged(volume.id, func(path string) { volume.check(w.t, name, path) }); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		response, err := w.d.Controller.ControllerGetVolume(context.Background(), &csi.ControllerGetVolumeRequest{VolumeId: volume.id})
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if has := response.GetVolume().GetCapacityBytes(); has < volume.capacity {
			return fmt.Errorf("%s has %d bytes, %d were acknowledged", name, has, volume.capacity)
		}
	}
	for name, snapshot := range w.snapshots {
		response, err := w.d.Controller.GetSnapshot(context.Background(), &csi.GetSnapshotRequest{SnapshotId: snapshot.id})
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if !response.GetSnapshot().GetReadyToUse() {
			return fmt.Errorf("%s is not ready", name)
		}
	}
	return w.verifyDeleted()
}

// verifyDeleted checks that what was acknowledged as deleted has not come back.
func (w *worker) verifyDeleted() error {
	for _, id := range w.deletedVolumes {
		if _, err := w.d.Controller.ControllerGetVolume(context.Background(), &csi.ControllerGetVolumeRequest{VolumeId: id}); status.Code(err) != codes.NotFound {
			return fmt.Errorf("%s was deleted, and is there: %w", id, err)
		}
	}
	for _, id := range w.deletedSnapshots {
		if _, err := w.d.Controller.GetSnapshot(context.Background(), &csi.GetSnapshotRequest{SnapshotId: id}); status.Code(err) != codes.NotFound {
			return fmt.Errorf("%s was deleted, and is there: %w", id, err)
		}
	}
	return nil
}

// choose picks a change that makes sense now: a name for the statistics, and
// the request, which can be repeated. What there is enough of is deleted.
func (w *worker) choose() (string, func() error) {
	volume, anyVolume := w.pick(w.volumes)
	snapshot, anySnapshot := w.pick(w.snapshots)
	room := len(w.volumes) < enough
	switch n := w.random.IntN(10); {
	case !anyVolume, n < 2 && room:
		return "create", w.create(nil, content{w.random.Uint64()}, true)
	case n < 4 && len(w.snapshots) < enough:
		return "snapshot", w.snapshot(w.volumes[volume])
	case n < 5 && room:
		return "clone", w.create(&csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{
			Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: w.volumes[volume].id},
		}}, w.volumes[volume].content, false)
	case n < 7 && anySnapshot && room:
		return "restore", w.create(fromSnapshot(w.snapshots[snapshot]), w.snapshots[snapshot].content, false)
	case n < 8:
		return "expand", w.expand(volume)
	case n < 9 && anySnapshot:
		return "delete snapshot", w.deleteSnapshot(snapshot)
	default:
		return "delete volume", w.deleteVolume(volume)
	}
}

func fromSnapshot(snapshot object) *csi.VolumeContentSource {
	return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
		Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: snapshot.id},
	}}
}

// pick returns the name of any one of the objects.
func (w *worker) pick(objects map[string]object) (string, bool) {
	if len(objects) == 0 {
		return "", false
	}
	names := slices.Sorted(maps.Keys(objects))
	return names[w.random.IntN(len(names))], true
}

func (w *worker) newName(kind string) string {
	w.next++
	return fmt.Sprintf("%s %s %d", w.name, kind, w.next)
}

// create asks for a volume; an empty one is filled before it counts.
func (w *worker) create(source *csi.VolumeContentSource, filling content, fill bool) func() error {
	name, capacity := w.newName("volume"), int64(size)
	if source != nil {
		capacity = 0 // the source's
	}
	return func() error {
		response, err := w.d.Controller.CreateVolume(context.Background(), &csi.CreateVolumeRequest{
			Name: name, Parameters: w.parameters, VolumeContentSource: source,
			CapacityRange:      &csi.CapacityRange{RequiredBytes: capacity},
			VolumeCapabilities: []*csi.VolumeCapability{w.how},
		})
		if err != nil {
			return err
		}
		id := response.GetVolume().GetVolumeId()
		if fill {
			err = w.staged(id, func(path string) { filling.write(w.t, path) })
		}
		if err == nil {
			w.volumes[name] = object{id, response.GetVolume().GetCapacityBytes(), filling}
		}
		return err
	}
}

func capability(block bool) *csi.VolumeCapability {
	c := &csi.VolumeCapability{
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
	}
	if block {
		c.AccessType = &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}
	}
	return c
}

// staged runs use while the volume is published, as a directory or as a device.
// What a call that was cut off has left is undone first.
func (w *worker) staged(id string, use func(path string)) error {
	staging, target := filepath.Join(w.staging, "staging"), filepath.Join(w.staging, "target")
	if err := os.MkdirAll(staging, 0o755); err != nil {
		return err
	}
	undo := func() error {
		_, err := w.d.Node.NodeUnpublishVolume(context.Background(), &csi.NodeUnpublishVolumeRequest{VolumeId: id, TargetPath: target})
		if err == nil {
			_, err = w.d.Node.NodeUnstageVolume(context.Background(), &csi.NodeUnstageVolumeRequest{VolumeId: id, StagingTargetPath: staging})
		}
		return err
	}
	if err := undo(); err != nil {
		return err
	}
	if _, err := w.d.Node.NodeStageVolume(context.Background(), &csi.NodeStageVolumeRequest{
		VolumeId: id, StagingTargetPath: staging, VolumeCapability: w.how,
	}); err != nil {
		return err
	}
	if _, err := w.d.Node.NodePublishVolume(context.Background(), &csi.NodePublishVolumeRequest{
		VolumeId: id, StagingTargetPath: staging, TargetPath: target, VolumeCapability: w.how,
	}); err != nil {
		return err
	}
	use(target)
	return undo()
}

func (w *worker) snapshot(source object) func() error {
	name := w.newName("snapshot")
	return func() error {
		response, err := w.d.Controller.CreateSnapshot(context.Background(), &csi.CreateSnapshotRequest{Name: name, SourceVolumeId: source.id})
		if err == nil {
			w.snapshots[name] = object{response.GetSnapshot().GetSnapshotId(), response.GetSnapshot().GetSizeBytes(), source.content}
		}
		return err
	}
}

func (w *worker) expand(name string) func() error {
	grown := w.volumes[name]
	grown.capacity += size
	return func() error {
		_, err := w.d.Controller.ControllerExpandVolume(context.Background(), &csi.ControllerExpandVolumeRequest{
			VolumeId: grown.id, CapacityRange: &csi.CapacityRange{RequiredBytes: grown.capacity},
		})
		if err == nil {
			w.volumes[name] = grown
		}
		return err
	}
}

func (w *worker) deleteVolume(name string) func() error {
	id := w.volumes[name].id
	return func() error {
		_, err := w.d.Controller.DeleteVolume(context.Background(), &csi.DeleteVolumeRequest{VolumeId: id})
		if err == nil {
			w.deletedVolumes = append(w.deletedVolumes, id)
		}
		delete(w.volumes, name) // it may be gone, acknowledged or not
		return err
	}
}

func (w *worker) deleteSnapshot(name string) func() error {
	id := w.snapshots[name].id
	return func() error {
		_, err := w.d.Controller.DeleteSnapshot(context.Background(), &csi.DeleteSnapshotRequest{SnapshotId: id})
		if err == nil {
			w.deletedSnapshots = append(w.deletedSnapshots, id)
		}
		delete(w.snapshots, name)
		return err
	}
}

func (w *worker) deleteAll() {
	w.verify(mustLive)
	for name := range w.snapshots {
		// Restored once more, to see that it is whole.
		snapshot := w.snapshots[name]
		if err := w.create(fromSnapshot(snapshot), snapshot.content, false)(); err != nil {
			w.t.Errorf("%s: restore: %v", name, err)
		}
		if err := w.deleteSnapshot(name)(); err != nil {
			w.t.Errorf("%s: delete: %v", name, err)
		}
	}
	w.verify(mustLive)
	for name := range w.volumes {
		if err := w.deleteVolume(name)(); err != nil {
			w.t.Errorf("%s: delete: %v", name, err)
		}
	}
}
