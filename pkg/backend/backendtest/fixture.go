package backendtest

import (
	"context"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

// fixture is fresh storage, a backend on it, and what the storage should hold.
type fixture struct {
	*testing.T
	Config
	storage Storage
	backend backend.Backend
	ctx     context.Context

	mu        sync.Mutex
	volumes   map[backend.VolumeID]expectedVolume
	snapshots map[backend.SnapshotID]backend.Snapshot
}

type expectedVolume struct {
	backend.Volume
	content string
}

func newFixture(t *testing.T, config Config) *fixture {
	f := &fixture{
		T:         t,
		Config:    config,
		storage:   config.New(t),
		ctx:       t.Context(),
		volumes:   map[backend.VolumeID]expectedVolume{},
		snapshots: map[backend.SnapshotID]backend.Snapshot{},
	}
	f.open(nil)
	t.Cleanup(f.finish)
	return f
}

// open opens the storage and checks that it holds what it should.
func (f *fixture) open(step backend.StepFunc) {
	f.Helper()
	f.backend = f.storage.Open(f, step)
	f.checkInventory(f.recover())
}

func (f *fixture) recover() backend.Inventory {
	f.Helper()
	inventory, err := f.backend.Recover(context.Background())
	if err != nil {
		f.Fatalf("Recover: %v", err)
	}
	return inventory
}

func (f *fixture) reopen() {
	f.Helper()
	if err := f.backend.Close(); err != nil {
		f.Fatalf("Close: %v", err)
	}
	f.open(nil)
}

// checkInventory compares what Recover found with what should exist.
func (f *fixture) checkInventory(inventory backend.Inventory) {
	f.Helper()
	if len(inventory.Damaged) > 0 {
		f.Errorf("Recover set aside %q", inventory.Damaged)
	}
	volumes, snapshots := map[backend.VolumeID]backend.Volume{}, map[backend.SnapshotID]backend.Snapshot{}
	for _, v := range inventory.Volumes {
		volumes[v.ID] = v
	}
	for _, s := range inventory.Snapshots {
		snapshots[s.ID] = s
	}
	expected := map[backend.VolumeID]backend.Volume{}
	for id, v := range f.volumes {
		expected[id] = v.Volume
	}
	if diff := cmp.Diff(expected, volumes, compareIDs); diff != "" {
		f.Errorf("volumes after Recover (-expected +found):\n%s", diff)
	}
	if diff := cmp.Diff(f.snapshots, snapshots, compareIDs); diff != "" {
		f.Errorf("snapshots after Recover (-expected +found):\n%s", diff)
	}
}

var compareIDs = cmp.Options{
	cmp.Comparer(func(a, b backend.VolumeID) bool { return a == b }),
	cmp.Comparer(func(a, b backend.SnapshotID) bool { return a == b }),
}

// finish is the end of every test; see the package comment.
func (f *fixture) finish() {
	f.ctx = context.Background() // the test's own is cancelled by now
	if f.Failed() {
		_ = f.backend.Close() // its state is not known; report the first failure only
		return
	}
	f.reopen()
	f.checkContents()
	for id := range f.volumes {
		f.deleteVolume(id)
	}
	for id := range f.snapshots {
		f.deleteSnapshot(id)
	}
	f.reopen()
	if err := f.backend.Close(); err != nil {
		f.Errorf("Close: %v", err)
	}
	f.storage.Check(f)
}

// checkContents reads every volume.
func (f *fixture) checkContents() {
	f.Helper()
	for id, volume := range f.volumes {
		if got := f.storage.Read(f, f.backend, id); got != volume.content {
			f.Errorf("volume %q holds %q, expected %q", volume.Name, got, volume.content)
		}
	}
}

func (f *fixture) volumeSpec(name string, source backend.Source) backend.VolumeSpec {
	return backend.VolumeSpec{
		ID:          backend.NewVolumeID("node", name),
		Name:        name,
		Profile:     f.Profile,
		AccessModes: []backend.AccessMode{backend.SingleNodeWriter},
		Capacity:    f.Size,
		Source:      source,
	}
}

func (f *fixture) snapshotSpec(name string, source backend.VolumeID, parameters map[string]string) backend.SnapshotSpec {
	return backend.SnapshotSpec{ID: backend.NewSnapshotID("node", name), Name: name, Source: source, Parameters: parameters}
}

// createVolume creates an empty volume and writes content into it.
func (f *fixture) createVolume(name, content string) backend.VolumeID {
	f.Helper()
	id := f.createFrom(f.volumeSpec(name, backend.Source{}), "")
	f.write(id, content)
	return id
}

// createFrom creates a volume that should hold content from the start.
func (f *fixture) createFrom(spec backend.VolumeSpec, content string) backend.VolumeID {
	f.Helper()
	volume, err := f.backend.CreateVolume(f.ctx, spec, new(backend.Progress))
	if err != nil {
		f.Fatalf("CreateVolume %q: %v", spec.Name, err)
	}
	if diff := cmp.Diff(spec, volume.VolumeSpec, compareIDs); diff != "" {
		f.Errorf("CreateVolume made something else (-asked +made):\n%s", diff)
	}
	if volume.CreatedAt.IsZero() {
		f.Errorf("CreateVolume %q: no creation time", spec.Name)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.volumes[spec.ID] = expectedVolume{volume, content}
	return spec.ID
}

func (f *fixture) write(id backend.VolumeID, content string) {
	f.Helper()
	f.storage.Write(f, f.backend, id, content)
	f.mu.Lock()
	defer f.mu.Unlock()
	volume := f.volumes[id]
	volume.content = content
	f.volumes[id] = volume
}

func (f *fixture) createSnapshot(name string, source backend.VolumeID, parameters map[string]string) backend.SnapshotID {
	f.Helper()
	return f.createSnapshotOf(f.snapshotSpec(name, source, parameters))
}

func (f *fixture) createSnapshotOf(spec backend.SnapshotSpec) backend.SnapshotID {
	f.Helper()
	snapshot, err := f.backend.CreateSnapshot(f.ctx, spec, new(backend.Progress))
	if err != nil {
		f.Fatalf("CreateSnapshot %q: %v", spec.Name, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	volume := f.volumes[spec.Source].Volume
	want := backend.Snapshot{SnapshotSpec: spec, Mode: volume.Mode, Size: volume.Capacity, CreatedAt: snapshot.CreatedAt}
	if diff := cmp.Diff(want, snapshot, compareIDs); diff != "" || snapshot.CreatedAt.IsZero() {
		f.Errorf("CreateSnapshot made something else, cut at %v (-expected +made):\n%s", snapshot.CreatedAt, diff)
	}
	f.snapshots[spec.ID] = snapshot
	return spec.ID
}

func (f *fixture) deleteVolume(id backend.VolumeID) {
	f.Helper()
	if err := f.backend.DeleteVolume(f.ctx, id); err != nil {
		f.Fatalf("DeleteVolume: %v", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.volumes, id)
}

func (f *fixture) deleteSnapshot(id backend.SnapshotID) {
	f.Helper()
	if err := f.backend.DeleteSnapshot(f.ctx, id); err != nil {
		f.Fatalf("DeleteSnapshot: %v", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.snapshots, id)
}
