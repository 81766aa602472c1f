package backendtest

import "github.com/snapdriver/snapdriver/pkg/backend"

// Counting is a Storage whose backend runs programs.
type Counting interface {
	// Commands returns how many commands an open backend has run that change
	// something, and how many that ask for something.
	Commands(b backend.Backend) (changing, asking int)
}

// Commands are how many commands each operation may run that change something.
// None may run one that only asks.
type Commands struct {
	Create, Restore, Clone, LargerRestore, Snapshot int
	Expand, Delete                                  int
	FirstAttach, Attach, Detach                     int
}

// testCommands counts the commands of each operation. All that is not an
// operation, and all that is done already, runs none.
func testCommands(f *fixture) {
	storage := f.storage.(Counting)
	expect := func(what string, changing int, act func()) {
		f.Helper()
		changedBefore, askedBefore := storage.Commands(f.backend)
		act()
		changed, asked := storage.Commands(f.backend)
		if changed-changedBefore != changing || asked != askedBefore {
			f.Errorf("%s: %d commands that change something and %d that ask; expected %d and none", what, changed-changedBefore, asked-askedBefore, changing)
		}
	}
	want := f.Commands
	var volume, grown backend.VolumeID
	var snapshot backend.SnapshotID
	expect("create", want.Create, func() { volume = f.createFrom(f.volumeSpec("volume", backend.Source{}), "") })
	expect("first attach", want.FirstAttach, func() { f.attach(volume) })
	expect("attach again", 0, func() { f.attach(volume) })
	expect("snapshot", want.Snapshot, func() { snapshot = f.createSnapshot("snapshot", volume, f.SnapshotParameters[0]) })
	expect("detach", want.Detach, func() { f.detach(volume) })
	expect("detach again", 0, func() { f.detach(volume) })
	expect("attach", want.Attach, func() { f.attach(volume) })
	expect("expand", want.Expand, func() { f.expand(volume, 2*f.Size) })
	expect("expand again", 0, func() { f.expand(volume, 2*f.Size) })
	expect("attach after it", 0, func() { f.attach(volume) })
	expect("restore", want.Restore, func() { f.createFrom(f.volumeSpec("restored", backend.Source{Snapshot: snapshot}), "") })
	expect("larger restore", want.LargerRestore, func() {
		spec := f.volumeSpec("grown", backend.Source{Snapshot: snapshot})
		spec.Capacity *= 2
		grown = f.createFrom(spec, "")
	})
	expect("clone", want.Clone, func() {
		spec := f.volumeSpec("clone", backend.Source{Volume: volume})
		spec.Capacity = 2 * f.Size // what it has grown to
		f.createFrom(spec, "")
	})
	expect("questions", 0, func() {
		if _, _, err := f.backend.Attached(f.ctx, volume); err != nil {
			f.Error(err)
		}
		if _, err := f.backend.Available(f.ctx, f.Profile); err != nil {
			f.Error(err)
		}
		if _, err := f.backend.Limits(f.Profile); err != nil {
			f.Error(err)
		}
		f.checkHealthy("between commands", volume)
		f.gaugeNames()
	})
	expect("delete an attached volume", want.Delete, func() { f.deleteVolume(volume) })
	expect("delete a volume", want.Delete, func() { f.deleteVolume(grown) })
	expect("delete a snapshot", want.Delete, func() { f.deleteSnapshot(snapshot) })
}
