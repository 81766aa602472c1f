package backendtest

import (
	"context"
	"fmt"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

// maxSteps ends a crash loop whose operation never ends.
const maxSteps = 100

// testCrash runs every operation that changes the storage with a crash before
// its first step, its second, ..., until it has run to its end.
func testCrash(f *fixture) {
	volume := f.createVolume("volume", "content")
	snapshot := f.createSnapshot("snapshot", volume, f.SnapshotParameters[0])

	create := func(source backend.Source, content string) operation {
		spec := f.volumeSpec("created", source)
		return operation{
			prepare: func() { spec.Capacity = f.volumes[volume].Capacity }, // a source may have grown
			run: func(b backend.Backend) error {
				_, err := b.CreateVolume(context.Background(), spec, nil)
				return err
			},
			done: func(inventory backend.Inventory) bool { return hasVolume(inventory, spec.ID) },
			whole: func() {
				if got := f.storage.Read(f, f.backend, spec.ID); got != content {
					f.Errorf("the volume holds %q, expected %q", got, content)
				}
			},
			undo: func() { f.deleteVolume(spec.ID) },
		}
	}
	operations := map[string]operation{
		"create":  create(backend.Source{}, ""),
		"restore": create(backend.Source{Snapshot: snapshot}, "content"),
		"clone":   create(backend.Source{Volume: volume}, "content"),
		"expand":  f.crashExpand(volume),
	}
	for i, parameters := range f.SnapshotParameters {
		operations[fmt.Sprintf("snapshot %v", parameters)] = f.crashSnapshot(fmt.Sprint("crash", i), volume, parameters)
	}
	operations["delete volume"] = f.crashDeleteVolume()
	operations["delete snapshot"] = f.crashDeleteSnapshot(volume)

	for name, op := range operations {
		steps := f.crashLoop(name, op)
		f.Logf("%s: crashed at each of %d steps", name, steps)
		if steps == 0 {
			f.Errorf("%s has no steps: nothing was tested", name)
		}
	}
}

// operation is one that the crash loop can stop at any step.
type operation struct {
	prepare func()                       // before each run; may be nil
	run     func(backend.Backend) error  // the operation
	done    func(backend.Inventory) bool // whether its effect is there
	whole   func()                       // checks the effect, once it is there
	undo    func()                       // makes the effect go, so that it can run again
}

func (f *fixture) crashSnapshot(name string, volume backend.VolumeID, parameters map[string]string) operation {
	spec := f.snapshotSpec(name, volume, parameters)
	return operation{
		run: func(b backend.Backend) error {
			_, err := b.CreateSnapshot(context.Background(), spec, nil)
			return err
		},
		done: func(inventory backend.Inventory) bool { return hasSnapshot(inventory, spec.ID) },
		whole: func() {
			proof := f.volumeSpec("proof", backend.Source{Snapshot: spec.ID})
			proof.Capacity = f.volumes[volume].Capacity
			f.createFrom(proof, "content")
			f.checkContents()
			f.deleteVolume(proof.ID)
		},
		undo: func() { f.deleteSnapshot(spec.ID) },
	}
}

func (f *fixture) crashExpand(volume backend.VolumeID) operation {
	var before int64
	return operation{
		prepare: func() { before = f.volumes[volume].Capacity },
		run: func(b backend.Backend) error {
			_, err := b.ExpandVolume(context.Background(), volume, before+f.Size)
			return err
		},
		done: func(inventory backend.Inventory) bool {
			for _, v := range inventory.Volumes {
				if v.ID == volume && v.Capacity != before {
					expected := f.volumes[volume]
					expected.Capacity = before + f.Size
					f.volumes[volume] = expected
					return true
				}
			}
			return false
		},
		whole: f.checkContents,
		undo:  func() {}, // the next run grows it further
	}
}

func (f *fixture) crashDeleteVolume() operation {
	id := backend.NewVolumeID("node", "to be deleted")
	return operation{
		prepare: func() {
			if _, exists := f.volumes[id]; !exists {
				f.createVolume("to be deleted", "content")
			}
		},
		run:   func(b backend.Backend) error { return b.DeleteVolume(context.Background(), id) },
		done:  func(inventory backend.Inventory) bool { return !hasVolume(inventory, id) },
		whole: func() { delete(f.volumes, id) },
		undo:  func() {},
	}
}

func (f *fixture) crashDeleteSnapshot(volume backend.VolumeID) operation {
	id := backend.NewSnapshotID("node", "to be deleted")
	return operation{
		prepare: func() {
			if _, exists := f.snapshots[id]; !exists {
				f.createSnapshot("to be deleted", volume, nil)
			}
		},
		run:   func(b backend.Backend) error { return b.DeleteSnapshot(context.Background(), id) },
		done:  func(inventory backend.Inventory) bool { return !hasSnapshot(inventory, id) },
		whole: func() { delete(f.snapshots, id) },
		undo:  func() {},
	}
}

// crashLoop returns the number of steps at which the operation was stopped.
func (f *fixture) crashLoop(name string, op operation) int {
	for n := 1; n <= maxSteps; n++ {
		if op.prepare != nil {
			op.prepare()
		}
		crash := newCrash(n)
		if err := f.backend.Close(); err != nil {
			f.Fatalf("Close: %v", err)
		}
		f.backend = f.storage.Open(f, crash.step)
		f.recover()
		crash.arm()
		crashed, err := crash.run(f.backend, op.run)
		if err != nil {
			f.Fatalf("%s, crash %d: %v", name, n, err)
		}
		if crashed {
			f.storage.Crash(f, f.backend)
			f.backend = f.storage.Open(f, nil)
		}
		f.settle(fmt.Sprintf("%s, crash at step %d (%s)", name, n, crash.at), op, crashed)
		crash.bury()
		if !crashed {
			return n - 1
		}
	}
	f.Fatalf("%s has more than %d steps", name, maxSteps)
	return 0
}

// settle checks that the operation's effect is there wholly or not at all,
// that a repeat brings it about, and makes it undone.
func (f *fixture) settle(where string, op operation, crashed bool) {
	f.Helper()
	if crashed {
		inventory := f.recover()
		if len(inventory.Damaged) > 0 {
			f.Errorf("%s: Recover set aside %q", where, inventory.Damaged)
		}
		if op.done(inventory) {
			op.whole()
		} else if err := op.run(f.backend); err != nil {
			f.Fatalf("%s: the repeat: %v", where, err)
		}
	}
	if err := f.backend.Close(); err != nil {
		f.Fatalf("%s: Close: %v", where, err)
	}
	f.backend = f.storage.Open(f, nil)
	if !op.done(f.recover()) {
		f.Fatalf("%s: done, and after reopening it is not", where)
	}
	op.whole()
	op.undo()
	f.reopen()
	if f.Failed() {
		f.Fatalf("%s", where)
	}
}

func hasVolume(inventory backend.Inventory, id backend.VolumeID) bool {
	for _, v := range inventory.Volumes {
		if v.ID == id {
			return true
		}
	}
	return false
}

func hasSnapshot(inventory backend.Inventory, id backend.SnapshotID) bool {
	for _, s := range inventory.Snapshots {
		if s.ID == id {
			return true
		}
	}
	return false
}
