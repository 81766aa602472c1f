package backendtest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

func testReopen(f *fixture) {
	id := f.createVolume("a volume", "content")
	f.createSnapshot("a snapshot", id, f.SnapshotParameters[0])
	unready := f.snapshotSpec("one that is not ready yet", id, f.SnapshotParameters[0])
	unready.ReadyAfter = time.Minute + time.Nanosecond
	f.createSnapshotOf(unready)
	f.reopen()
	f.checkContents()
}

func testSnapshotKeeps(f *fixture) {
	id := f.createVolume("volume", "before")
	for i, parameters := range f.SnapshotParameters {
		f.write(id, "before")
		snapshot := f.createSnapshot(fmt.Sprint("snapshot", i), id, parameters)
		f.write(id, "after")
		for _, name := range []string{"restored", "restored again"} {
			f.createFrom(f.volumeSpec(fmt.Sprint(name, i), backend.Source{Snapshot: snapshot}), "before")
		}
		f.checkContents()
	}
}

func testClone(f *fixture) {
	source := f.createVolume("source", "common")
	clone := f.createFrom(f.volumeSpec("clone", backend.Source{Volume: source}), "common")
	f.checkContents()
	f.write(source, "the source's")
	f.write(clone, "the clone's")
	f.checkContents()
}

func testRestoreLarger(f *fixture) {
	source := f.createVolume("source", "content")
	for i, from := range []backend.Source{
		{Snapshot: f.createSnapshot("snapshot", source, f.SnapshotParameters[0])},
		{Volume: source},
	} {
		spec := f.volumeSpec(fmt.Sprint("larger", i), from)
		spec.Capacity *= 2
		f.createFrom(spec, "content")
	}
	f.checkContents()
}

func testDeletionOrders(f *fixture) {
	for round, order := range [][]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}} {
		volume := f.createVolume(fmt.Sprint("volume", round), "content")
		snapshot := f.createSnapshot(fmt.Sprint("snapshot", round), volume, f.SnapshotParameters[0])
		restored := f.createFrom(f.volumeSpec(fmt.Sprint("restored", round), backend.Source{Snapshot: snapshot}), "content")
		for _, which := range order {
			switch which {
			case 0:
				f.deleteVolume(volume)
			case 1:
				f.deleteSnapshot(snapshot)
			case 2:
				f.deleteVolume(restored)
			}
			f.checkContents()
			if _, left := f.snapshots[snapshot]; left {
				// That a snapshot is whole shows in what is made from it.
				proof := f.createFrom(f.volumeSpec("proof", backend.Source{Snapshot: snapshot}), "content")
				f.checkContents()
				f.deleteVolume(proof)
			}
		}
	}
}

func testDeleteAbsent(f *fixture) {
	id := f.createVolume("volume", "content")
	snapshot := f.createSnapshot("snapshot", id, nil)
	for range 2 {
		f.deleteSnapshot(snapshot)
		f.deleteVolume(id)
	}
	f.deleteVolume(backend.NewVolumeID("node", "never made"))
	f.deleteSnapshot(backend.NewSnapshotID("node", "never made"))
}

func testExpand(f *fixture) {
	id := f.createVolume("volume", "content")
	for _, attached := range []bool{false, true} {
		if attached {
			f.attach(id)
		}
		f.expand(id, f.volumes[id].Capacity+f.Size)
		if attached {
			f.attach(id)
			f.detach(id)
		}
		f.checkContents()
	}
	f.reopen()
	f.expand(id, f.volumes[id].Capacity) // a repeat
}

func (f *fixture) expand(id backend.VolumeID, capacity int64) {
	f.Helper()
	grown, err := f.backend.ExpandVolume(f.ctx, id, capacity)
	if err != nil {
		f.Fatalf("ExpandVolume: %v", err)
	}
	if grown.Capacity != capacity {
		f.Errorf("ExpandVolume to %d returned %d", capacity, grown.Capacity)
	}
	volume := f.volumes[id]
	volume.Capacity = capacity
	f.volumes[id] = volume
}

func (f *fixture) attach(id backend.VolumeID) backend.Mount {
	f.Helper()
	mount, err := f.backend.Attach(f.ctx, id)
	if err != nil {
		f.Fatalf("Attach: %v", err)
	}
	return mount
}

func (f *fixture) detach(id backend.VolumeID) {
	f.Helper()
	if err := f.backend.Detach(f.ctx, id); err != nil {
		f.Fatalf("Detach: %v", err)
	}
}

func testAttach(f *fixture) {
	id := f.createVolume("volume", "content")
	f.detach(id)
	first := f.attach(id)
	if !strings.HasPrefix(first.Source, "/") {
		f.Errorf("Attach says to mount %q, which is no absolute path", first.Source)
	}
	if again := f.attach(id); again.Source != first.Source {
		f.Errorf("attached again at %q, first at %q", again.Source, first.Source)
	}
	if mount, attached, err := f.backend.Attached(f.ctx, id); err != nil || !attached || mount.Source != first.Source {
		f.Errorf("Attached: %+v, %v, %v; expected %+v", mount, attached, err, first)
	}
	f.detach(id)
	f.detach(id)
	f.detach(backend.NewVolumeID("node", "never made"))
	mount, attached, err := f.backend.Attached(f.ctx, id)
	if err != nil || attached != (mount.Source != "") || mount.FSType != first.FSType {
		f.Errorf("Attached, when detached: %+v, %v, %v; it was %+v", mount, attached, err, first)
	}
	f.attach(id)
	f.deleteVolume(id) // attached, not in use
}

func testLimits(f *fixture) {
	limits, err := f.backend.Limits(f.Profile)
	if err != nil {
		f.Fatalf("Limits: %v", err)
	}
	if limits.Min < 1 || limits.Granularity < 1 || limits.Default < limits.Min || limits.Max < limits.Default || limits.Min%limits.Granularity != 0 {
		f.Fatalf("Limits contradict themselves: %+v", limits)
	}
	available, err := f.backend.Available(f.ctx, f.Profile)
	if err != nil || available < limits.Min {
		f.Fatalf("Available: %d, %v; expected at least %d", available, err, limits.Min)
	}
	spec := f.volumeSpec("smallest", backend.Source{})
	spec.Capacity = limits.Min
	f.createFrom(spec, "")
	// Twice as much, for other processes may free space meanwhile.
	if more := 2 * available; more <= limits.Max {
		_, err = f.backend.ExpandVolume(f.ctx, spec.ID, more)
		f.expectError(err, backend.ErrExhausted, "")
		spec := f.volumeSpec("too large", backend.Source{})
		spec.Capacity = more
		_, err = f.backend.CreateVolume(f.ctx, spec, nil)
		f.expectError(err, backend.ErrExhausted, "")
	}
	f.write(spec.ID, "fits")
	f.checkContents()
}

func testUnknownParameters(f *fixture) {
	profile := f.Profile
	profile.Parameters = map[string]string{"no-such-key": "x"}
	maps.Copy(profile.Parameters, f.Profile.Parameters)
	_, err := f.backend.Limits(profile)
	f.expectError(err, backend.ErrInvalid, "no-such-key")
	_, err = f.backend.Available(f.ctx, profile)
	f.expectError(err, backend.ErrInvalid, "no-such-key")

	id := f.createVolume("volume", "content")
	spec := f.snapshotSpec("snapshot", id, map[string]string{"no-such-key": "x"})
	_, err = f.backend.CreateSnapshot(f.ctx, spec, nil)
	f.expectError(err, backend.ErrInvalid, "no-such-key")
}

func testAbsent(f *fixture) {
	absent := backend.NewVolumeID("node", "never made")
	_, err := f.backend.Attach(f.ctx, absent)
	f.expectError(err, backend.ErrNotFound, "")
	_, _, err = f.backend.Attached(f.ctx, absent)
	f.expectError(err, backend.ErrNotFound, "")
	_, err = f.backend.VolumeHealth(f.ctx, absent)
	f.expectError(err, backend.ErrNotFound, "")
	_, err = f.backend.ExpandVolume(f.ctx, absent, f.Size)
	f.expectError(err, backend.ErrNotFound, "")
	_, err = f.backend.CreateSnapshot(f.ctx, f.snapshotSpec("snapshot", absent, nil), nil)
	f.expectError(err, backend.ErrNotFound, "")
}

func (f *fixture) expectError(err, class error, text string) {
	f.Helper()
	if !errors.Is(err, class) || !strings.Contains(fmt.Sprint(err), text) {
		f.Errorf("got error %v, expected one of class %q that names %q", err, class, text)
	}
}

func testCancel(f *fixture) {
	id := f.createVolume("volume", "content")
	snapshot := f.createSnapshot("snapshot", id, f.SnapshotParameters[0])
	cancelled, cancel := context.WithCancel(f.ctx)
	cancel()
	for name, source := range map[string]backend.Source{"clone": {Volume: id}, "restore": {Snapshot: snapshot}} {
		if _, err := f.backend.CreateVolume(cancelled, f.volumeSpec(name, source), nil); err == nil {
			f.Errorf("%s: cancelled, and yet no error", name)
		}
	}
	if _, err := f.backend.CreateSnapshot(cancelled, f.snapshotSpec("cancelled", id, nil), nil); err == nil {
		f.Error("snapshot: cancelled, and yet no error")
	}
	f.reopen() // finds nothing of it
}

func testConcurrent(f *fixture) {
	source := f.createVolume("source", "content")
	var workers sync.WaitGroup
	for worker := range 4 {
		workers.Go(func() {
			for round := range 2 {
				name := fmt.Sprint(worker, ".", round)
				snapshot := f.createSnapshot(name, source, f.SnapshotParameters[worker%len(f.SnapshotParameters)])
				restored := f.createFrom(f.volumeSpec("restored "+name, backend.Source{Snapshot: snapshot}), "content")
				f.createFrom(f.volumeSpec("clone "+name, backend.Source{Volume: restored}), "content")
				f.deleteVolume(restored)
				f.deleteSnapshot(snapshot)
			}
		})
	}
	workers.Wait()
	f.checkContents()
	names := slices.Sorted(maps.Values(f.volumeNames()))
	if len(names) != 1+4*2 {
		f.Errorf("left are %q", names)
	}
}

func (f *fixture) volumeNames() map[backend.VolumeID]string {
	names := map[backend.VolumeID]string{}
	for id, volume := range f.volumes {
		names[id] = volume.Name
	}
	return names
}
