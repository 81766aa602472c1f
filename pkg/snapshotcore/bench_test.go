package snapshotcore

import (
	"fmt"
	"testing"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

const (
	benchObjects = 100_000
	benchPage    = 500 // what sidecars ask for
)

// benchSnapshots are snapshots, three of each volume.
func benchSnapshots() []backend.Snapshot {
	snapshots := make([]backend.Snapshot, benchObjects)
	for i := range snapshots {
		name := fmt.Sprint("snapshot ", i)
		snapshots[i] = backend.Snapshot{
			SnapshotSpec: backend.SnapshotSpec{
				ID: backend.NewSnapshotID("node", name), Name: name, Source: backend.NewVolumeID("node", fmt.Sprint("volume ", i/3)),
			},
			Mode: backend.Filesystem, Size: 1 << 30,
		}
	}
	return snapshots
}

func BenchmarkIndexBuild(b *testing.B) {
	snapshots := benchSnapshots()
	b.ReportAllocs()
	for b.Loop() {
		if s := newSnapshotIndex(snapshots); s.bytes == 0 {
			b.Fatal("nothing in it")
		}
	}
}

// BenchmarkIndexChange removes a snapshot of many, and adds it again.
func BenchmarkIndexChange(b *testing.B) {
	snapshots := benchSnapshots()
	s := newSnapshotIndex(snapshots)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		snapshot := snapshots[i%benchObjects]
		s.remove(snapshot.ID)
		s.add(snapshot)
	}
}

// BenchmarkPages lists all of many snapshots, page by page.
func BenchmarkPages(b *testing.B) {
	c := &Core{snapshots: newSnapshotIndex(benchSnapshots())}
	b.ReportAllocs()
	for b.Loop() {
		listed := 0
		for page := (Page{Max: benchPage}); listed == 0 || page.Token != ""; {
			snapshots, next, err := c.Snapshots(SnapshotFilter{}, page)
			if err != nil {
				b.Fatal(err)
			}
			listed, page.Token = listed+len(snapshots), next
		}
		if listed != benchObjects {
			b.Fatalf("listed %d", listed)
		}
	}
}
