package snapshotcore

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/snapdriver/snapdriver/pkg/backend"
	"github.com/snapdriver/snapdriver/pkg/backend/memory"
)

// gate stops the backend at steps with a prefix until it is opened.
type gate struct {
	prefix  string
	arrived chan string
	opened  chan struct{}
}

func newGate(prefix string) *gate {
	return &gate{prefix: prefix, arrived: make(chan string, 100), opened: make(chan struct{})}
}

func (g *gate) step(name string) {
	if strings.HasPrefix(name, g.prefix) {
		g.arrived <- name
		<-g.opened
	}
}

func TestConcurrentRequestsOfOneNameMakeOneObject(t *testing.T) {
	var builds atomic.Int32
	c := open(t, memory.NewDisk(1<<40), func(step string) {
		if strings.HasPrefix(step, "build ") {
			builds.Add(1)
			runtime.Gosched()
		}
	})
	defer c.Close()
	var callers sync.WaitGroup
	for range 50 {
		callers.Go(func() {
			volume, err := c.CreateVolume(t.Context(), volumeRequest("volume"))
			if err != nil {
				t.Errorf("CreateVolume: %v", err)
				return
			}
			if _, err := c.CreateSnapshot(t.Context(), SnapshotRequest{Name: "snapshot", Source: volume.ID}); err != nil {
				t.Errorf("CreateSnapshot: %v", err)
			}
		})
	}
	callers.Wait()
	if n := builds.Load(); n != 2 {
		t.Errorf("built %d objects, expected 2", n)
	}
}

func TestLongSnapshotIsJoinedAndDelaysNobody(t *testing.T) {
	g := newGate("build snap-")
	c := open(t, memory.NewDisk(1<<40), g.step)
	defer c.Close()
	volume, other := mustCreateVolume(t, c, volumeRequest("volume")), mustCreateVolume(t, c, volumeRequest("other"))
	request := SnapshotRequest{Name: "snapshot", Source: volume.ID}

	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := c.CreateSnapshot(short, request)
	expectError(t, err, backend.ErrBusy)
	if !strings.Contains(err.Error(), "done in") {
		t.Errorf("the error does not tell the progress: %v", err)
	}
	<-g.arrived

	// What must wait is told so; nothing else notices.
	expectError(t, c.DeleteVolume(t.Context(), volume.ID), backend.ErrBusy)
	expectError(t, c.DeleteSnapshot(t.Context(), backend.NewSnapshotID("node", "snapshot")), backend.ErrBusy)
	_, err = c.ExpandVolume(t.Context(), volume.ID, 2*mib, 0)
	expectError(t, err, backend.ErrBusy)
	_, err = c.CreateSnapshot(t.Context(), SnapshotRequest{Name: "snapshot", Source: other.ID})
	expectError(t, err, backend.ErrBusy)
	restore := volumeRequest("restored")
	restore.Source.Snapshot = backend.NewSnapshotID("node", "snapshot")
	_, err = c.CreateVolume(t.Context(), restore)
	expectError(t, err, backend.ErrBusy)
	if release, err := c.LockNode(volume.ID); err != nil {
		t.Errorf("the volume cannot be published: %v", err)
	} else {
		release()
	}
	mustCreateVolume(t, c, volumeRequest("meanwhile"))
	if err := c.DeleteVolume(t.Context(), other.ID); err != nil {
		t.Errorf("another volume cannot be deleted: %v", err)
	}
	if listed, _, err := c.Snapshots(SnapshotFilter{}, Page{}); err != nil || len(listed) != 0 {
		t.Errorf("an uncut snapshot is listed: %v, %v", listed, err)
	}
	if n := c.Stats().Copies; n != 1 {
		t.Errorf("%d copies in flight, expected 1", n)
	}

	joined := make(chan error)
	go func() { _, err := c.CreateSnapshot(t.Context(), request); joined <- err }()
	close(g.opened)
	if err := <-joined; err != nil {
		t.Errorf("joined: %v", err)
	}
	if n := len(g.arrived); n != 0 {
		t.Errorf("built %d times more", n)
	}
}

func TestRestoreKeepsItsSource(t *testing.T) {
	g := newGate("build vol-" + backend.NodeHash("node") + "-" + strings.Split(backend.NewVolumeID("node", "restored").String(), "-")[2])
	c := open(t, memory.NewDisk(1<<40), g.step)
	defer c.Close()
	volume := mustCreateVolume(t, c, volumeRequest("volume"))
	snapshot := mustCreateSnapshot(t, c, "snapshot", volume.ID)
	request := volumeRequest("restored")
	request.Source.Snapshot = snapshot.ID
	done := make(chan error)
	go func() { _, err := c.CreateVolume(t.Context(), request); done <- err }()
	<-g.arrived
	expectError(t, c.DeleteSnapshot(t.Context(), snapshot.ID), backend.ErrBusy)
	expectError(t, c.DeleteVolume(t.Context(), backend.NewVolumeID("node", "restored")), backend.ErrBusy)
	close(g.opened)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := c.DeleteSnapshot(t.Context(), snapshot.ID); err != nil {
		t.Error(err)
	}
}

func TestCloseCancelsCopies(t *testing.T) {
	g := newGate("build snap-")
	disk := memory.NewDisk(1 << 40)
	c := open(t, disk, g.step)
	volume := mustCreateVolume(t, c, volumeRequest("volume"))
	request := SnapshotRequest{Name: "snapshot", Source: volume.ID}
	answered := make(chan error)
	go func() { _, err := c.CreateSnapshot(t.Context(), request); answered <- err }()
	<-g.arrived
	closed := make(chan error)
	go func() { closed <- c.Close() }()
	<-c.ctx.Done()
	_, err := c.CreateVolume(t.Context(), volumeRequest("too late"))
	expectError(t, err, backend.ErrBusy)
	close(g.opened)
	if err := <-answered; err == nil {
		t.Error("the copy was not cancelled")
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
	reopened := open(t, disk, nil)
	defer reopened.Close()
	mustCreateSnapshot(t, reopened, "snapshot", volume.ID)
}

func TestPanicInAnOperationIsAnError(t *testing.T) {
	once := sync.OnceFunc(func() { panic("a bug") })
	c := open(t, memory.NewDisk(1<<40), func(step string) {
		if strings.HasPrefix(step, "stage ") {
			once()
		}
	})
	defer c.Close()
	if _, err := c.CreateVolume(t.Context(), volumeRequest("volume")); err == nil || !strings.Contains(err.Error(), "a bug") {
		t.Errorf("got %v", err)
	}
}

// rival is what may be asked for while the same object is deleted, and the
// answers beside OK and ErrBusy that are right then.
type rival struct {
	what string
	ask  func(t *testing.T, c *Core, volume backend.VolumeID, snapshot backend.SnapshotID) error
	may  error
}

var rivals = []rival{
	{"create", func(t *testing.T, c *Core, _ backend.VolumeID, _ backend.SnapshotID) error {
		_, err := c.CreateVolume(t.Context(), volumeRequest("volume"))
		return err
	}, nil},
	{"clone", func(t *testing.T, c *Core, volume backend.VolumeID, _ backend.SnapshotID) error {
		request := volumeRequest("clone")
		request.Source.Volume = volume
		_, err := c.CreateVolume(t.Context(), request)
		return err
	}, backend.ErrNotFound},
	{"restore", func(t *testing.T, c *Core, _ backend.VolumeID, snapshot backend.SnapshotID) error {
		request := volumeRequest("restored")
		request.Source.Snapshot = snapshot
		_, err := c.CreateVolume(t.Context(), request)
		return err
	}, backend.ErrNotFound},
	{"snapshot", func(t *testing.T, c *Core, volume backend.VolumeID, _ backend.SnapshotID) error {
		_, err := c.CreateSnapshot(t.Context(), SnapshotRequest{Name: "snapshot", Source: volume})
		return err
	}, backend.ErrNotFound},
	{"expand", func(t *testing.T, c *Core, volume backend.VolumeID, _ backend.SnapshotID) error {
		_, err := c.ExpandVolume(t.Context(), volume, 2*mib, 0)
		return err
	}, backend.ErrNotFound},
	{"publish", func(t *testing.T, c *Core, volume backend.VolumeID, _ backend.SnapshotID) error {
		release, err := c.LockNode(volume)
		if err != nil {
			return err
		}
		defer release()
		_, err = c.Attach(t.Context(), volume)
		return err
	}, backend.ErrNotFound},
}

// TestDeletionAndItsRivals: whoever wins, every answer is a true one, an object
// whose deletion was acknowledged is gone unless it was made anew, and the index
// has what the disk has.
func TestDeletionAndItsRivals(t *testing.T) {
	for _, other := range rivals {
		t.Run(other.what, func(t *testing.T) {
			for range 100 {
				contend(t, other)
			}
		})
	}
}

func contend(t *testing.T, other rival) {
	t.Helper()
	disk := memory.NewDisk(1 << 40)
	c := open(t, disk, func(string) { runtime.Gosched() })
	volume := mustCreateVolume(t, c, volumeRequest("volume")).ID
	snapshot := mustCreateSnapshot(t, c, "snapshot", volume).ID
	var callers sync.WaitGroup
	var volumeDeleted, snapshotDeleted atomic.Bool
	for range 3 {
		callers.Go(func() {
			if err := other.ask(t, c, volume, snapshot); err != nil && !errors.Is(err, backend.ErrBusy) && !errors.Is(err, other.may) {
				t.Errorf("%s: %v", other.what, err)
			}
		})
		callers.Go(func() { noteDeletion(t, &volumeDeleted, c.DeleteVolume(t.Context(), volume)) })
		callers.Go(func() { noteDeletion(t, &snapshotDeleted, c.DeleteSnapshot(t.Context(), snapshot)) })
	}
	callers.Wait()
	_, volumeErr := c.Volume(volume)
	_, snapshotErr := c.Snapshot(snapshot)
	if gone := errors.Is(volumeErr, backend.ErrNotFound); gone != volumeDeleted.Load() && other.what != "create" {
		t.Errorf("deletion of the volume acknowledged: %v, and it: %v", volumeDeleted.Load(), volumeErr)
	}
	if gone := errors.Is(snapshotErr, backend.ErrNotFound); gone != snapshotDeleted.Load() && other.what != "snapshot" {
		t.Errorf("deletion of the snapshot acknowledged: %v, and it: %v", snapshotDeleted.Load(), snapshotErr)
	}
	before := c.Stats()
	if len(c.locks) != 0 {
		t.Errorf("locks left: %v", c.locks)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	again := open(t, disk, nil)
	defer again.Close()
	if after := again.Stats(); after != before || disk.Uncommitted() != 0 {
		t.Errorf("the index had %+v, the disk has %+v, and %d half built", before, after, disk.Uncommitted())
	}
}

// noteDeletion notes a deletion that was acknowledged.
func noteDeletion(t *testing.T, acknowledged *atomic.Bool, err error) {
	if err == nil {
		acknowledged.Store(true)
	} else if !errors.Is(err, backend.ErrBusy) {
		t.Errorf("delete: %v", err)
	}
}

// A failure that nobody has waited for is the answer to the next repeat, and to
// that alone. Another request under the same name is none, nor is one after a
// deletion.
func TestFailureWaitsForWhoAsks(t *testing.T) {
	c := open(t, memory.NewDisk(1<<40), nil)
	defer c.Close()
	failure, fail := errors.New("the copy has failed"), make(chan struct{})
	request := volumeRequest("volume")
	request.Around = func(context.Context, func() error) error {
		<-fail
		return failure
	}
	gone, leave := context.WithCancel(t.Context())
	leave()
	unheard := func() {
		t.Helper()
		_, err := c.CreateVolume(gone, request)
		expectError(t, err, backend.ErrBusy)
		fail <- struct{}{}
		for c.Stats().Copies > 0 {
			runtime.Gosched()
		}
	}
	repeat := volumeRequest("volume")
	unheard()
	if _, err := c.CreateVolume(t.Context(), repeat); !errors.Is(err, failure) {
		t.Errorf("the repeat got %v", err)
	}
	id := backend.NewVolumeID("node", "volume")
	unheard()
	if err := c.DeleteVolume(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	mustCreateVolume(t, c, repeat)
	if err := c.DeleteVolume(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	unheard()
	other := volumeRequest("volume")
	other.Required += mib
	mustCreateVolume(t, c, other)
	if err := c.DeleteVolume(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	mustCreateVolume(t, c, repeat)
}

// TestCreateWhileBeingDeleted: what is about to go is not acknowledged, although
// it is still there; a deletion that is refused leaves it to be acknowledged.
func TestCreateWhileBeingDeleted(t *testing.T) {
	g := newGate("delete ")
	c := open(t, memory.NewDisk(1<<40), g.step)
	defer c.Close()
	volume, source := mustCreateVolume(t, c, volumeRequest("volume")), mustCreateVolume(t, c, volumeRequest("source"))
	snapshot := mustCreateSnapshot(t, c, "snapshot", source.ID)
	deleted := make(chan error, 2)
	go func() { deleted <- c.DeleteVolume(t.Context(), volume.ID) }()
	go func() { deleted <- c.DeleteSnapshot(t.Context(), snapshot.ID) }()
	<-g.arrived
	<-g.arrived
	_, err := c.CreateVolume(t.Context(), volumeRequest("volume"))
	expectError(t, err, backend.ErrBusy)
	_, err = c.CreateSnapshot(t.Context(), SnapshotRequest{Name: "snapshot", Source: source.ID})
	expectError(t, err, backend.ErrBusy)
	close(g.opened)
	if err := errors.Join(<-deleted, <-deleted); err != nil {
		t.Fatal(err)
	}
	mustCreateVolume(t, c, volumeRequest("volume"))
	mustCreateSnapshot(t, c, "snapshot", source.ID)
	c.options.InUse = func(backend.Mount) (bool, error) { return true, nil }
	expectError(t, c.DeleteVolume(t.Context(), volume.ID), backend.ErrPrecondition)
	mustCreateVolume(t, c, volumeRequest("volume"))
	if len(c.deleting) > 0 {
		t.Errorf("deletions left: %v", c.deleting)
	}
}
