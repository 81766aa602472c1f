package snapshotcore

import (
	"fmt"
	"slices"
	"testing"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

func TestPagesStayRightWhileObjectsComeAndGo(t *testing.T) {
	c := newCore(t)
	names := map[string]backend.Volume{}
	for i := range 20 {
		volume := mustCreateVolume(t, c, volumeRequest(fmt.Sprint("volume ", i)))
		names[volume.ID.String()] = volume
	}
	var seen []string
	token := ""
	for page := 0; ; page++ {
		volumes, next, err := c.Volumes(Page{Token: token, Max: 3})
		if err != nil {
			t.Fatal(err)
		}
		if len(volumes) > 3 {
			t.Errorf("page of %d", len(volumes))
		}
		for _, volume := range volumes {
			seen = append(seen, volume.ID.String())
			delete(names, volume.ID.String())
		}
		if next == "" {
			break
		}
		// The last one seen goes, and another comes.
		if err := c.DeleteVolume(t.Context(), volumes[len(volumes)-1].ID); err != nil {
			t.Fatal(err)
		}
		mustCreateVolume(t, c, volumeRequest(fmt.Sprint("newcomer ", page)))
		token = next
	}
	if len(names) != 0 {
		t.Errorf("never listed: %v", names)
	}
	if !slices.IsSorted(seen) || len(slices.Compact(slices.Clone(seen))) != len(seen) {
		t.Errorf("listed out of order or twice: %q", seen)
	}
}

func TestPageTokens(t *testing.T) {
	c := newCore(t)
	volume := mustCreateVolume(t, c, volumeRequest("volume"))
	for _, token := range []string{"invalid-token", "1", backend.NewSnapshotID("node", "x").String()} {
		_, _, err := c.Volumes(Page{Token: token})
		expectError(t, err, backend.ErrBadToken)
	}
	_, _, err := c.Snapshots(SnapshotFilter{}, Page{Token: volume.ID.String()})
	expectError(t, err, backend.ErrBadToken)
	if volumes, next, err := c.Volumes(Page{Max: 1}); err != nil || len(volumes) != 1 || next != "" {
		t.Errorf("the last page: %v, %q, %v", volumes, next, err)
	}
}

func TestSnapshotFilters(t *testing.T) {
	c := newCore(t)
	first, second := mustCreateVolume(t, c, volumeRequest("first")), mustCreateVolume(t, c, volumeRequest("second"))
	var ofFirst []backend.SnapshotID
	for i := range 5 {
		ofFirst = append(ofFirst, mustCreateSnapshot(t, c, fmt.Sprint("first ", i), first.ID).ID)
		mustCreateSnapshot(t, c, fmt.Sprint("second ", i), second.ID)
	}
	none := backend.NewSnapshotID("node", "none")
	for _, test := range []struct {
		name   string
		filter SnapshotFilter
		count  int
	}{
		{"all", SnapshotFilter{}, 10},
		{"by source", SnapshotFilter{Source: first.ID}, 5},
		{"by ID", SnapshotFilter{ID: ofFirst[0]}, 1},
		{"by both", SnapshotFilter{ID: ofFirst[0], Source: first.ID}, 1},
		{"by both, which exclude each other", SnapshotFilter{ID: ofFirst[0], Source: second.ID}, 0},
		{"by unknown ID", SnapshotFilter{ID: none}, 0},
		{"by unknown source", SnapshotFilter{Source: backend.NewVolumeID("node", "none")}, 0},
	} {
		snapshots, next, err := c.Snapshots(test.filter, Page{})
		if err != nil || len(snapshots) != test.count || next != "" {
			t.Errorf("%s: %d snapshots, %q, %v; expected %d", test.name, len(snapshots), next, err, test.count)
		}
		for _, snapshot := range snapshots {
			if !test.filter.Source.IsZero() && snapshot.Source != test.filter.Source {
				t.Errorf("%s: lists a snapshot of %s", test.name, snapshot.Source)
			}
		}
	}
	page, next, err := c.Snapshots(SnapshotFilter{Source: first.ID}, Page{Max: 3})
	if err != nil || len(page) != 3 || next == "" {
		t.Fatalf("first page: %v, %q, %v", page, next, err)
	}
	if page, next, err = c.Snapshots(SnapshotFilter{Source: first.ID}, Page{Max: 3, Token: next}); err != nil || len(page) != 2 || next != "" {
		t.Errorf("second page: %v, %q, %v", page, next, err)
	}
	for _, id := range ofFirst {
		if err := c.DeleteSnapshot(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	if _, left := c.snapshots.bySource[first.ID]; left {
		t.Error("the index keeps a source without snapshots")
	}
}
