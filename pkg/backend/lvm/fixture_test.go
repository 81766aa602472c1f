package lvm_test

import (
	"strings"
	"sync"
	"testing"

	"github.com/snapdriver/snapdriver/internal/dm"
	"github.com/snapdriver/snapdriver/pkg/backend"
	"github.com/snapdriver/snapdriver/pkg/backend/lvm"
)

// fixture is an open backend that remembers the steps that it has taken.
type fixture struct {
	testing.TB
	*lvm.Backend
	at        storage
	inventory backend.Inventory

	mu    sync.Mutex
	steps []string
}

// newFixture makes a thin pool and opens it until the test ends.
func newFixture(t testing.TB) *fixture {
	f := &fixture{TB: t, at: newStorage(t)}
	f.open()
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func (f *fixture) open() {
	f.Helper()
	f.Backend = f.at.Open(f, f.step).(*lvm.Backend)
	inventory, err := f.Recover(f.Context())
	if err != nil {
		f.Fatal(err)
	}
	f.inventory = inventory
}

func (f *fixture) reopen() {
	f.Helper()
	if err := f.Close(); err != nil {
		f.Fatal(err)
	}
	f.open()
}

func (f *fixture) step(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.steps = append(f.steps, name)
}

// took says whether a step since the last call contains the text.
func (f *fixture) took(text string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	found := strings.Contains(strings.Join(f.steps, "\n"), text)
	f.steps = nil
	return found
}

// create makes a volume of a profile, with what the source holds.
func (f *fixture) create(name, profile string, source backend.Source) backend.VolumeID {
	f.Helper()
	spec := backend.VolumeSpec{
		ID: backend.NewVolumeID("node", name), Name: name, Profile: profiles[profile].Profile,
		AccessModes: []backend.AccessMode{backend.SingleNodeWriter}, Capacity: profiles[profile].size, Source: source,
	}
	if _, err := f.CreateVolume(f.Context(), spec, nil); err != nil {
		f.Fatal(err)
	}
	return spec.ID
}

func (f *fixture) snapshot(name string, of backend.VolumeID) backend.SnapshotID {
	f.Helper()
	spec := backend.SnapshotSpec{ID: backend.NewSnapshotID("node", name), Name: name, Source: of}
	if _, err := f.CreateSnapshot(f.Context(), spec, nil); err != nil {
		f.Fatal(err)
	}
	return spec.ID
}

func (f *fixture) attach(id backend.VolumeID) backend.Mount {
	f.Helper()
	mount, err := f.Attach(f.Context(), id)
	if err != nil {
		f.Fatal(err)
	}
	return mount
}

func (f *fixture) detach(id backend.VolumeID) {
	f.Helper()
	if err := f.Detach(f.Context(), id); err != nil {
		f.Fatal(err)
	}
}

// write and read use a volume as a pod would, and leave it detached.
func (f *fixture) write(id backend.VolumeID, text string) {
	f.Helper()
	f.at.Write(f, f.Backend, id, text)
}

func (f *fixture) expect(id backend.VolumeID, text string) {
	f.Helper()
	if got := f.at.Read(f, f.Backend, id); got != text {
		f.Errorf("%s holds %q, expected %q", id, got, text)
	}
}

// device is the name of an object's device.
func (f *fixture) device(id interface{ String() string }) string {
	return dm.Name(f.at.Group, id.String())
}
