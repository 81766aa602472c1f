package snapshotcore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

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

// hiding is a backend that serves nothing at its start.
type hiding struct {
	backend.Backend
	unfinished []string
}

func (h hiding) Recover(ctx context.Context) (backend.Inventory, error) {
	_, err := h.Backend.Recover(ctx)
	return backend.Inventory{Unfinished: h.unfinished}, err
}

// What is not served, for it could not be finished, is deleted; what is not
// served for any other reason stays.
func TestDeleteUnfinished(t *testing.T) {
	disk := memory.NewDisk(1 << 40)
	c := open(t, disk, nil)
	unfinished, damaged := mustCreateVolume(t, c, volumeRequest("unfinished")), mustCreateVolume(t, c, volumeRequest("damaged"))
	snapshot := mustCreateSnapshot(t, c, "snapshot", unfinished.ID)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := memory.Open(disk, nil)
	if err != nil {
		t.Fatal(err)
	}
	c, err = Open(t.Context(), hiding{b, []string{unfinished.ID.String(), snapshot.ID.String()}},
		Options{NodeID: "node", InUse: func(backend.Mount) (bool, error) { return false, nil }})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		for _, volume := range []backend.Volume{unfinished, damaged} {
			_, err := c.Volume(volume.ID)
			expectError(t, err, backend.ErrNotFound)
			if err := c.DeleteVolume(t.Context(), volume.ID); err != nil {
				t.Error(err)
			}
		}
		if err := c.DeleteSnapshot(t.Context(), snapshot.ID); err != nil {
			t.Error(err)
		}
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	c = open(t, disk, nil)
	defer c.Close()
	if stats := c.Stats(); stats.Volumes != 1 || stats.Snapshots != 0 {
		t.Errorf("left are %+v", stats)
	}
	if _, err := c.Volume(damaged.ID); err != nil {
		t.Error(err)
	}
}
