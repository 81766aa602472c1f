package backendtest

import (
	"regexp"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

// testHealthy asks at every stage of a volume's life.
func testHealthy(f *fixture) {
	f.checkHealthy("empty storage")
	id := f.createVolume("volume", "content")
	f.checkHealthy("with a volume", id)
	f.attach(id)
	f.checkHealthy("attached", id)
	f.expand(id, f.volumes[id].Capacity+f.Size)
	f.checkHealthy("grown while attached", id)
	f.detach(id)
	f.checkHealthy("detached", id)
	f.expand(id, f.volumes[id].Capacity+f.Size)
	snapshot := f.createSnapshot("snapshot", id, f.SnapshotParameters[0])
	spec := f.volumeSpec("restored", backend.Source{Snapshot: snapshot})
	spec.Capacity = f.volumes[id].Capacity
	restored := f.createFrom(spec, "content")
	f.checkHealthy("grown and restored", id, restored)
	f.reopen()
	f.checkHealthy("reopened", id, restored)
	f.deleteVolume(id)
	_, err := f.backend.VolumeHealth(f.ctx, id)
	f.expectError(err, backend.ErrNotFound, "")
	f.checkHealthy("its source deleted", restored)
}

func (f *fixture) checkHealthy(when string, ids ...backend.VolumeID) {
	f.Helper()
	if conditions, err := f.backend.StorageHealth(f.ctx); err != nil || len(conditions) > 0 {
		f.Errorf("%s: StorageHealth: %+v, %v; expected no condition", when, conditions, err)
	}
	for _, id := range ids {
		if conditions, err := f.backend.VolumeHealth(f.ctx, id); err != nil || len(conditions) > 0 {
			f.Errorf("%s: VolumeHealth of %s: %+v, %v; expected no condition", when, id, conditions, err)
		}
	}
}

// gaugeName is what a metric name may be after a prefix, in lower case
// (Prometheus, "Metric names and labels").
var gaugeName = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)

func testGauges(f *fixture) {
	before := f.gaugeNames()
	f.createVolume("volume", "content")
	f.reopen()
	for name := range f.gaugeNames() {
		if !before[name] {
			f.Errorf("the gauge %q was not there before", name)
		}
		delete(before, name)
	}
	for name := range before {
		f.Errorf("the gauge %q is no longer there", name)
	}
}

func (f *fixture) gaugeNames() map[string]bool {
	f.Helper()
	gauges, err := f.backend.Gauges(f.ctx)
	if err != nil {
		f.Fatalf("Gauges: %v", err)
	}
	names := map[string]bool{}
	for _, gauge := range gauges {
		if !gaugeName.MatchString(gauge.Name) || names[gauge.Name] || gauge.Help == "" {
			f.Errorf("gauge %+v: its name is not valid, not its own, or there is no help", gauge)
		}
		names[gauge.Name] = true
	}
	return names
}
