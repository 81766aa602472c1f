package lvm_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

// A snapshot's creation time is the moment of its cut: the request may have
// waited for the commands of others before.
func TestCreationTimeIsTheMomentOfTheCut(t *testing.T) {
	f := newFixture(t)
	volume := f.create("volume", "block", backend.Source{})
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	var first sync.Once
	began, release := make(chan struct{}), make(chan struct{})
	b := f.at.Open(f, func(name string) {
		if strings.HasPrefix(name, "lvm lvcreate") {
			first.Do(func() { close(began); <-release })
		}
	})
	if _, err := b.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}

	var waiting sync.WaitGroup
	waiting.Go(func() {
		spec := backend.VolumeSpec{ID: backend.NewVolumeID("node", "other"), Name: "other", Profile: profiles["block"].Profile, Capacity: profiles["block"].size}
		if _, err := b.CreateVolume(t.Context(), spec, nil); err != nil {
			t.Error(err)
		}
	})
	<-began
	var snapshot backend.Snapshot
	waiting.Go(func() {
		var err error
		spec := backend.SnapshotSpec{ID: backend.NewSnapshotID("node", "snapshot"), Name: "snapshot", Source: volume}
		if snapshot, err = b.CreateSnapshot(t.Context(), spec, nil); err != nil {
			t.Error(err)
		}
	})
	time.Sleep(time.Second) // until it waits
	cut := time.Now()
	close(release)
	waiting.Wait()
	if snapshot.CreatedAt.Before(cut) {
		t.Errorf("created at %v, and cut after %v", snapshot.CreatedAt, cut)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	f.open()
	if got := f.inventory.Snapshots; len(got) != 1 || !got[0].CreatedAt.Equal(snapshot.CreatedAt) {
		t.Errorf("after a restart: %+v, created at %v before", got, snapshot.CreatedAt)
	}
}
