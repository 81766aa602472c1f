package snapshotcore

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/snapdriver/snapdriver/pkg/backend"
	"github.com/snapdriver/snapdriver/pkg/backend/memory"
)

const mib = 1 << 20

var filesystem = backend.Profile{Mode: backend.Filesystem}

// open opens a core over a disk; nothing is ever in use unless inUse says so.
func open(t *testing.T, disk *memory.Disk, step backend.StepFunc) *Core {
	t.Helper()
	b, err := memory.Open(disk, step)
	if err != nil {
		t.Fatal(err)
	}
	c, err := Open(t.Context(), b, Options{NodeID: "node", InUse: func(backend.Mount) (bool, error) { return false, nil }})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func newCore(t *testing.T) *Core {
	t.Helper()
	c := open(t, memory.NewDisk(1<<40), nil)
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return c
}

func volumeRequest(name string) VolumeRequest {
	return VolumeRequest{Name: name, Profile: filesystem, AccessModes: []backend.AccessMode{backend.SingleNodeWriter}, Required: mib}
}

func mustCreateVolume(t *testing.T, c *Core, r VolumeRequest) backend.Volume {
	t.Helper()
	volume, err := c.CreateVolume(t.Context(), r)
	if err != nil {
		t.Fatalf("CreateVolume %q: %v", r.Name, err)
	}
	return volume
}

func mustCreateSnapshot(t *testing.T, c *Core, name string, source backend.VolumeID) backend.Snapshot {
	t.Helper()
	snapshot, err := c.CreateSnapshot(t.Context(), SnapshotRequest{Name: name, Source: source})
	if err != nil {
		t.Fatalf("CreateSnapshot %q: %v", name, err)
	}
	return snapshot
}

func expectError(t *testing.T, err, class error) {
	t.Helper()
	if !errors.Is(err, class) {
		t.Errorf("got %v, expected an error of class %q", err, class)
	}
}

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

func TestCreateVolumeAgain(t *testing.T) {
	c := newCore(t)
	source := mustCreateVolume(t, c, volumeRequest("source"))
	first := mustCreateVolume(t, c, volumeRequest("volume"))
	for _, test := range []struct {
		name   string
		change func(*VolumeRequest)
		class  error // nil: the same volume
	}{
		{"same", func(*VolumeRequest) {}, nil},
		{"range that holds its size", func(r *VolumeRequest) { r.Required, r.Limit = 1, 2*mib }, nil},
		{"access modes repeated", func(r *VolumeRequest) { r.AccessModes = append(r.AccessModes, r.AccessModes...) }, nil},
		{"larger", func(r *VolumeRequest) { r.Required = 2 * mib }, backend.ErrExists},
		{"limit below its size", func(r *VolumeRequest) { r.Required, r.Limit = 1, mib-1 }, backend.ErrExists},
		{"other mode", func(r *VolumeRequest) { r.Profile.Mode = backend.Block }, backend.ErrExists},
		{"other access modes", func(r *VolumeRequest) { r.AccessModes = []backend.AccessMode{backend.SingleNodeReaderOnly} }, backend.ErrExists},
		{"other source", func(r *VolumeRequest) { r.Source.Volume = source.ID }, backend.ErrExists},
		{"other topology", func(r *VolumeRequest) { r.Elsewhere = true }, backend.ErrExists},
		{"unknown parameter", func(r *VolumeRequest) { r.Profile.Parameters = map[string]string{"a": "b"} }, backend.ErrInvalid},
		{"negative size", func(r *VolumeRequest) { r.Required = -1 }, backend.ErrInvalid},
	} {
		t.Run(test.name, func(t *testing.T) {
			request := volumeRequest("volume")
			test.change(&request)
			again, err := c.CreateVolume(t.Context(), request)
			if test.class != nil {
				expectError(t, err, test.class)
			} else if err != nil || again.ID != first.ID || !again.CreatedAt.Equal(first.CreatedAt) {
				t.Errorf("got %+v, %v, expected the first volume", again, err)
			}
		})
	}
}

func TestCreateVolumeFromSource(t *testing.T) {
	c := newCore(t)
	source := mustCreateVolume(t, c, volumeRequest("source"))
	snapshot := mustCreateSnapshot(t, c, "snapshot", source.ID)
	for _, test := range []struct {
		name   string
		change func(*VolumeRequest)
		class  error
		size   int64
	}{
		{"same size", func(*VolumeRequest) {}, nil, mib},
		{"no size: the source's", func(r *VolumeRequest) { r.Required = 0 }, nil, mib},
		{"larger", func(r *VolumeRequest) { r.Required = 3 * mib }, nil, 3 * mib},
		{"smaller", func(r *VolumeRequest) { r.Required = mib / 2 }, backend.ErrOutOfRange, 0},
		{"limit below the source", func(r *VolumeRequest) { r.Required, r.Limit = 0, mib/2 }, backend.ErrOutOfRange, 0},
		{"other mode", func(r *VolumeRequest) { r.Profile.Mode = backend.Block }, backend.ErrInvalid, 0},
		{"absent snapshot", func(r *VolumeRequest) { r.Source = backend.Source{Snapshot: backend.NewSnapshotID("node", "none")} }, backend.ErrNotFound, 0},
		{"absent volume", func(r *VolumeRequest) { r.Source = backend.Source{Volume: backend.NewVolumeID("node", "none")} }, backend.ErrNotFound, 0},
		{"snapshot of another node", func(r *VolumeRequest) { r.Source = backend.Source{Snapshot: backend.NewSnapshotID("other", "x")} }, backend.ErrExhausted, 0},
		{"volume of another node", func(r *VolumeRequest) { r.Source = backend.Source{Volume: backend.NewVolumeID("other", "x")} }, backend.ErrExhausted, 0},
		{"elsewhere", func(r *VolumeRequest) { r.Elsewhere = true }, backend.ErrExhausted, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			request := volumeRequest("made with " + test.name)
			request.Source.Snapshot = snapshot.ID
			test.change(&request)
			volume, err := c.CreateVolume(t.Context(), request)
			if test.class != nil {
				expectError(t, err, test.class)
			} else if err != nil || volume.Capacity != test.size {
				t.Errorf("got %d bytes, %v, expected %d", volume.Capacity, err, test.size)
			}
		})
	}
}

func TestObjectsOfAnotherNode(t *testing.T) {
	c := newCore(t)
	volume, snapshot := backend.NewVolumeID("other", "v"), backend.NewSnapshotID("other", "s")
	_, volumeErr := c.Volume(volume)
	_, snapshotErr := c.Snapshot(snapshot)
	_, createErr := c.CreateSnapshot(t.Context(), SnapshotRequest{Name: "s", Source: volume})
	_, expandErr := c.ExpandVolume(t.Context(), volume, mib, 0)
	for name, err := range map[string]error{
		"Volume": volumeErr, "Snapshot": snapshotErr, "CreateSnapshot": createErr, "ExpandVolume": expandErr,
		"DeleteVolume": c.DeleteVolume(t.Context(), volume), "DeleteSnapshot": c.DeleteSnapshot(t.Context(), snapshot),
	} {
		if !errors.Is(err, backend.ErrPrecondition) {
			t.Errorf("%s: %v, expected ErrPrecondition", name, err)
		}
	}
}

// An object that is found is ours, even if the node has been renamed since.
func TestRenamedNodeKeepsItsObjects(t *testing.T) {
	disk := memory.NewDisk(1 << 40)
	c := open(t, disk, nil)
	volume := mustCreateVolume(t, c, volumeRequest("volume"))
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := memory.Open(disk, nil)
	if err != nil {
		t.Fatal(err)
	}
	renamed, err := Open(t.Context(), b, Options{NodeID: "renamed", InUse: func(backend.Mount) (bool, error) { return false, nil }})
	if err != nil {
		t.Fatal(err)
	}
	defer renamed.Close()
	mustCreateSnapshot(t, renamed, "snapshot", volume.ID)
	if err := renamed.DeleteVolume(t.Context(), volume.ID); err != nil {
		t.Error(err)
	}
	if len(renamed.volumes.byID) != 0 {
		t.Error("the volume is still there")
	}
}

func TestCreateSnapshotAgain(t *testing.T) {
	c := newCore(t)
	volume, other := mustCreateVolume(t, c, volumeRequest("volume")), mustCreateVolume(t, c, volumeRequest("other"))
	first := mustCreateSnapshot(t, c, "snapshot", volume.ID)
	if first.Size != volume.Capacity {
		t.Errorf("size %d, expected the volume's %d", first.Size, volume.Capacity)
	}
	if _, err := c.ExpandVolume(t.Context(), volume.ID, 2*mib, 0); err != nil {
		t.Fatal(err)
	}
	again := mustCreateSnapshot(t, c, "snapshot", volume.ID)
	if again.ID != first.ID || !again.CreatedAt.Equal(first.CreatedAt) || again.Size != first.Size {
		t.Errorf("again: %+v, first: %+v", again, first)
	}
	_, err := c.CreateSnapshot(t.Context(), SnapshotRequest{Name: "snapshot", Source: other.ID})
	expectError(t, err, backend.ErrExists)
	_, err = c.CreateSnapshot(t.Context(), SnapshotRequest{Name: "snapshot", Source: volume.ID, Elsewhere: true})
	expectError(t, err, backend.ErrExists)
	_, err = c.CreateSnapshot(t.Context(), SnapshotRequest{Name: "elsewhere", Source: volume.ID, Elsewhere: true})
	expectError(t, err, backend.ErrExhausted)
	_, err = c.CreateSnapshot(t.Context(), SnapshotRequest{Name: "of none", Source: backend.NewVolumeID("node", "none")})
	expectError(t, err, backend.ErrNotFound)
	// After OK, never an error: also when the source is gone.
	if err := c.DeleteVolume(t.Context(), volume.ID); err != nil {
		t.Fatal(err)
	}
	mustCreateSnapshot(t, c, "snapshot", volume.ID)
}

func TestExpandVolume(t *testing.T) {
	c := newCore(t)
	mustCreateVolume(t, c, volumeRequest("takes some room"))
	volume := mustCreateVolume(t, c, volumeRequest("volume"))
	for _, test := range []struct {
		name            string
		required, limit int64
		size            int64
		class           error
	}{
		{"nothing asked", 0, 0, 0, backend.ErrInvalid},
		{"negative", -1, 0, 0, backend.ErrInvalid},
		{"limit only", 0, 5 * mib, mib, nil},
		{"smaller", mib / 2, 0, mib, nil},
		{"limit below present", 0, mib / 2, 0, backend.ErrOutOfRange},
		{"larger", 2 * mib, 0, 2 * mib, nil},
		{"again", 2 * mib, 0, 2 * mib, nil},
		{"rounded up", 2*mib + 1, 0, 2*mib + 1024, nil},
		{"rounded above the limit", 3*mib + 1, 3*mib + 2, 0, backend.ErrOutOfRange},
		{"too large", 1 << 50, 0, 0, backend.ErrOutOfRange},
		{"more than there is", 1 << 40, 0, 0, backend.ErrExhausted},
	} {
		grown, err := c.ExpandVolume(t.Context(), volume.ID, test.required, test.limit)
		if !errors.Is(err, test.class) || grown.Capacity != test.size {
			t.Errorf("%s: %d bytes, %v; expected %d, %v", test.name, grown.Capacity, err, test.size, test.class)
		}
	}
	_, err := c.ExpandVolume(t.Context(), backend.NewVolumeID("node", "none"), mib, 0)
	expectError(t, err, backend.ErrNotFound)
}

func TestDeleteVolumeInUse(t *testing.T) {
	c := newCore(t)
	volume := mustCreateVolume(t, c, volumeRequest("volume"))
	var answer error
	used := true
	c.options.InUse = func(backend.Mount) (bool, error) { return used, answer }
	expectError(t, c.DeleteVolume(t.Context(), volume.ID), backend.ErrPrecondition)
	answer = errors.New("no mount table")
	expectError(t, c.DeleteVolume(t.Context(), volume.ID), answer)
	if _, err := c.Volume(volume.ID); err != nil {
		t.Errorf("refused, and yet: %v", err)
	}
	used, answer = false, nil
	for range 2 {
		if err := c.DeleteVolume(t.Context(), volume.ID); err != nil {
			t.Error(err)
		}
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

func TestReopenedCoreKnowsWhatIsThere(t *testing.T) {
	disk := memory.NewDisk(1 << 40)
	c := open(t, disk, nil)
	volume := mustCreateVolume(t, c, volumeRequest("volume"))
	snapshot := mustCreateSnapshot(t, c, "snapshot", volume.ID)
	before := c.Stats()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	c = open(t, disk, nil)
	defer c.Close()
	if after := c.Stats(); after != before {
		t.Errorf("figures %+v, before %+v", after, before)
	}
	if again := mustCreateVolume(t, c, volumeRequest("volume")); again.ID != volume.ID {
		t.Errorf("another volume: %v", again)
	}
	if again := mustCreateSnapshot(t, c, "snapshot", volume.ID); !again.CreatedAt.Equal(snapshot.CreatedAt) {
		t.Errorf("another cut: %v", again)
	}
	listed, _, err := c.Snapshots(SnapshotFilter{Source: volume.ID}, Page{})
	if err != nil || len(listed) != 1 {
		t.Errorf("by source: %v, %v", listed, err)
	}
}

func TestNodeLock(t *testing.T) {
	c := newCore(t)
	volume := mustCreateVolume(t, c, volumeRequest("volume"))
	release, err := c.LockNode(volume.ID)
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.LockNode(volume.ID)
	expectError(t, err, backend.ErrBusy)
	expectError(t, c.DeleteVolume(t.Context(), volume.ID), backend.ErrBusy)
	release()
	if err := c.DeleteVolume(t.Context(), volume.ID); err != nil {
		t.Error(err)
	}
	if len(c.locks) != 0 {
		t.Errorf("locks left: %v", c.locks)
	}
}

func TestCapacityAgreesWithCreate(t *testing.T) {
	c := open(t, memory.NewDisk(10*mib), nil)
	defer c.Close()
	capacity, err := c.Capacity(t.Context(), filesystem)
	if err != nil || capacity.Available != 10*mib {
		t.Fatalf("%+v, %v", capacity, err)
	}
	request := volumeRequest("too large")
	request.Required = capacity.Available + 1
	_, err = c.CreateVolume(t.Context(), request)
	expectError(t, err, backend.ErrExhausted)
	request = volumeRequest("all of it")
	request.Required = capacity.Available
	mustCreateVolume(t, c, request)
	if capacity, err = c.Capacity(t.Context(), filesystem); err != nil || capacity.Available != 0 {
		t.Errorf("%+v, %v", capacity, err)
	}
}

func TestManyAtOnce(t *testing.T) {
	c := newCore(t)
	var workers sync.WaitGroup
	for worker := range 8 {
		workers.Go(func() {
			for round := range 50 {
				name := fmt.Sprint(worker, " ", round)
				volume, err := c.CreateVolume(t.Context(), volumeRequest(name))
				if err != nil {
					t.Error(err)
					return
				}
				snapshot, err := c.CreateSnapshot(t.Context(), SnapshotRequest{Name: name, Source: volume.ID})
				if err != nil {
					t.Error(err)
					return
				}
				if err := errors.Join(c.DeleteVolume(t.Context(), volume.ID), c.DeleteSnapshot(t.Context(), snapshot.ID)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	workers.Wait()
	if stats := c.Stats(); stats != (Stats{}) {
		t.Errorf("left: %+v", stats)
	}
}
