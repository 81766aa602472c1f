package backendtest

import (
	"context"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

// testCrashRecover does to Recover what testCrash does to the operations.
func testCrashRecover(f *fixture) {
	volume := f.createVolume("volume", "content")
	f.createSnapshot("snapshot", volume, f.SnapshotParameters[0])
	for n := 1; n <= maxSteps; n++ {
		creation := f.litter()
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
			f.open(nil)
		} else {
			f.reopen()
		}
		f.checkContents()
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

// litter leaves the storage as a process leaves it that dies in CreateVolume,
// with something half built. Bury the process when that has been looked at.
func (f *fixture) litter() *crash {
	f.Helper()
	if err := f.backend.Close(); err != nil {
		f.Fatalf("Close: %v", err)
	}
	creation := newCrash(2) // after the first step something lies there
	f.open(creation.step)
	creation.arm()
	crashed, err := creation.run(f.backend, func(b backend.Backend) error {
		_, err := b.CreateVolume(context.Background(), f.volumeSpec("litter", backend.Source{}), nil)
		return err
	})
	if !crashed {
		f.Fatalf("CreateVolume did not reach its second step: %v", err)
	}
	f.storage.Crash(f, f.backend)
	return creation
}
