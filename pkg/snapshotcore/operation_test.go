package snapshotcore

import (
	"context"
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
