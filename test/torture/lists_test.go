package torture

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
)

// TestListsWhileObjectsComeAndGo reads lists page by page while others create
// and delete. Whatever was there all the time is in the list, once; no page is
// longer than was asked for; and a filter lets through what it should.
func TestListsWhileObjectsComeAndGo(t *testing.T) {
	onEach(t, func(t *testing.T, s storage) {
		b := started(t, s, 4*gib)
		of := s.kinds[0]
		var volumes, snapshots []string
		for i := range 10 {
			v := b.mustCreate(of, fmt.Sprint("stays ", i))
			volumes = append(volumes, v.id)
			for j := range 3 {
				snapshots = append(snapshots, v.mustSnapshot(fmt.Sprint("stays ", i, " ", j)))
			}
		}
		stop := b.churn(of)
		defer stop()
		random := newRandom(t)
		for range 50 * *scale {
			size := int32(random.IntN(12))
			expectAll(t, volumes, pages(t, size, b.volumePage))
			expectAll(t, snapshots, pages(t, size, b.snapshotPage(&csi.ListSnapshotsRequest{})))
			i := random.IntN(len(volumes))
			of := pages(t, size, b.snapshotPage(&csi.ListSnapshotsRequest{SourceVolumeId: volumes[i]}))
			expectAll(t, snapshots[3*i:3*i+3], of)
			if len(of) != 3 {
				t.Errorf("snapshots of one volume: %q", of)
			}
			one := snapshots[random.IntN(len(snapshots))]
			if found := pages(t, size, b.snapshotPage(&csi.ListSnapshotsRequest{SnapshotId: one})); !slices.Equal(found, []string{one}) {
				t.Errorf("%s: %q", one, found)
			}
			if t.Failed() {
				return
			}
		}
	})
}

// page returns some IDs and the token of the next page.
type page func(size int32, token string) (ids []string, next string, err error)

func (b *testbed) volumePage(size int32, token string) (ids []string, next string, err error) {
	response, err := b.Controller.ListVolumes(background, &csi.ListVolumesRequest{MaxEntries: size, StartingToken: token})
	for _, entry := range response.GetEntries() {
		ids = append(ids, entry.GetVolume().GetVolumeId())
	}
	return ids, response.GetNextToken(), err
}

func (b *testbed) snapshotPage(filter *csi.ListSnapshotsRequest) page {
	return func(size int32, token string) (ids []string, next string, err error) {
		filter.MaxEntries, filter.StartingToken = size, token
		response, err := b.Controller.ListSnapshots(background, filter)
		for _, entry := range response.GetEntries() {
			ids = append(ids, entry.GetSnapshot().GetSnapshotId())
		}
		return ids, response.GetNextToken(), err
	}
}

// pages reads a list to its end.
func pages(t *testing.T, size int32, read page) (all []string) {
	t.Helper()
	for token := ""; ; {
		ids, next, err := read(size, token)
		if err != nil {
			t.Fatal(err)
		}
		if size > 0 && len(ids) > int(size) {
			t.Errorf("a page of %d, asked for %d", len(ids), size)
		}
		all = append(all, ids...)
		if next == "" {
			return all
		}
		token = next
	}
}

// expectAll checks that all that is wanted is in a list, and nothing twice.
func expectAll(t *testing.T, want, list []string) {
	t.Helper()
	sorted := slices.Sorted(slices.Values(list))
	if len(slices.Compact(slices.Clone(sorted))) != len(sorted) {
		t.Errorf("something is listed twice: %q", sorted)
	}
	for _, id := range want {
		if !slices.Contains(list, id) {
			t.Errorf("%s is not listed", id)
		}
	}
}

// churn makes and deletes volumes and snapshots until it is stopped.
func (b *testbed) churn(of kind) (stop func()) {
	ctx, cancel := context.WithCancel(background)
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			for round := 0; ctx.Err() == nil; round++ {
				v, err := b.create(of, fmt.Sprint("goes ", i, " ", round), nil)
				if err != nil {
					b.Error(err)
					return
				}
				cut, err := v.snapshot(fmt.Sprint("goes ", i, " ", round))
				if err := errors.Join(err, b.deleteVolume(v.id), b.deleteSnapshot(cut)); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	return func() { cancel(); all.Wait() }
}

// TestListTokens: a token that was never given out is refused, and so is a
// negative size; a filter by what does not exist, or is no ID, finds nothing.
func TestListTokens(t *testing.T) {
	onEach(t, func(t *testing.T, s storage) {
		b := started(t, s, gib)
		for _, read := range []page{b.volumePage, b.snapshotPage(&csi.ListSnapshotsRequest{})} {
			_, _, err := read(1, "no token")
			expectCode(t, err, codes.Aborted)
			_, _, err = read(-1, "")
			expectCode(t, err, codes.InvalidArgument)
		}
		for _, filter := range []*csi.ListSnapshotsRequest{
			{SnapshotId: "none"}, {SnapshotId: otherNode}, {SourceVolumeId: "none"}, {SourceVolumeId: otherNode},
		} {
			if ids, _, err := b.snapshotPage(filter)(0, ""); len(ids) > 0 || err != nil {
				t.Errorf("%v: %q, %v", filter, ids, err)
			}
		}
	})
}
