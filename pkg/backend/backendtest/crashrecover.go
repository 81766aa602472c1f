package backendtest

import (
	"context"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

// testCrashRecover does to Recover what testCrash does to the operations.
func testCrashRecover(f *fixture) {
	volume := f.createVolume("volume", "content")
	snapshot := f.createSnapshot("snapshot", volume, f.SnapshotParameters[0])
	litter := f.volumeSpec("litter", backend.Source{Snapshot: snapshot})
	litter.Capacity *= 2
	for n := 1; n <= maxSteps; n++ {
		creation := f.litter(litter)
		recovery := newCrash(n)
		recovery.arm()
		f.backend = f.storage.Open(f, recovery.step)
		crashed, err := recovery.run(f.backend, func(b backend.Backend) error {
			_, err := b.Recover(context.Background())
			return err
		})
		if err != nil {
			f.Fatalf("Recover: %v", err)
		}
		if crashed {
			f.storage.Crash(f, f.backend)
		} else if err := f.backend.Close(); err != nil {
			f.Fatalf("Close: %v", err)
		}
		f.openWithLitter(litter)
		recovery.bury()
		creation.bury()
		if f.Failed() {
			f.Fatalf("Recover, crash at step %d (%s)", n, recovery.at)
		}
		if !crashed {
			f.Logf("crashed at each of %d steps", n-1)
			if n == 1 {
				f.Error("Recover has no steps: nothing was tested")
			}
			return
		}
	}
	f.Fatalf("Recover has more than %d steps", maxSteps)
}

// openWithLitter checks that the storage holds what it should, and the volume
// whose creation was cut off wholly or not at all.
func (f *fixture) openWithLitter(litter backend.VolumeSpec) {
	f.Helper()
	f.backend = f.storage.Open(f, nil)
	inventory := f.recover()
	for _, volume := range inventory.Volumes {
		if volume.ID == litter.ID {
			f.volumes[litter.ID] = expectedVolume{backend.Volume{VolumeSpec: litter, CreatedAt: volume.CreatedAt, OnDevice: volume.OnDevice}, "content"}
		}
	}
	f.checkInventory(inventory)
	f.checkContents()
	f.deleteVolume(litter.ID)
}

// litter leaves the storage as a process leaves it that dies in CreateVolume,
// with something half built. spec asks for what takes two steps at least: a
// restore in a larger size. Bury the process when that has been looked at.
func (f *fixture) litter(spec backend.VolumeSpec) *crash {
	f.Helper()
	if err := f.backend.Close(); err != nil {
		f.Fatalf("Close: %v", err)
	}
	creation := newCrash(2) // after the first step something lies there
	f.open(creation.step)
	creation.arm()
	crashed, err := creation.run(f.backend, func(b backend.Backend) error {
		_, err := b.CreateVolume(context.Background(), spec, nil)
		return err
	})
	if !crashed {
		f.Fatalf("CreateVolume did not reach its second step: %v", err)
	}
	f.storage.Crash(f, f.backend)
	return creation
}
