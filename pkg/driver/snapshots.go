package driver

import (
	"context"
	"errors"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/snapdriver/snapdriver/pkg/backend"
	"github.com/snapdriver/snapdriver/pkg/driver/faults"
	"github.com/snapdriver/snapdriver/pkg/snapshotcore"
)

func (c *controller) CreateSnapshot(ctx context.Context, r *csi.CreateSnapshotRequest) (*csi.CreateSnapshotResponse, error) {
	request, err := parseCreateSnapshot(r)
	if err != nil {
		return nil, err
	}
	request.Elsewhere = !c.topology.admits(r.GetAccessibilityRequirements())
	request.Around, request.ReadyAfter = faults.Around(ctx), faults.ReadyAfter(ctx)
	snapshot, err := c.core().CreateSnapshot(ctx, request)
	if err != nil {
		return nil, err
	}
	return &csi.CreateSnapshotResponse{Snapshot: c.topology.snapshot(snapshot)}, nil
}

func (c *controller) DeleteSnapshot(ctx context.Context, r *csi.DeleteSnapshotRequest) (*csi.DeleteSnapshotResponse, error) {
	id, err := parseSnapshotID(r.GetSnapshotId())
	if err == nil {
		err = c.core().DeleteSnapshot(ctx, id)
	}
	return &csi.DeleteSnapshotResponse{}, unlessAbsent(err)
}

func (c *controller) GetSnapshot(_ context.Context, r *csi.GetSnapshotRequest) (*csi.GetSnapshotResponse, error) {
	id, err := parseSnapshotID(r.GetSnapshotId())
	if err != nil {
		return nil, err
	}
	snapshot, err := c.core().Snapshot(id)
	if err != nil {
		return nil, err
	}
	return &csi.GetSnapshotResponse{Snapshot: c.topology.snapshot(snapshot)}, nil
}

func (c *controller) ListSnapshots(_ context.Context, r *csi.ListSnapshotsRequest) (*csi.ListSnapshotsResponse, error) {
	page, err := parsePage(r.GetMaxEntries(), r.GetStartingToken())
	if err != nil {
		return nil, err
	}
	filter, err := parseFilter(r)
	if err != nil {
		return &csi.ListSnapshotsResponse{}, unlessAbsent(err)
	}
	snapshots, next, err := c.core().Snapshots(filter, page)
	if err != nil {
		return nil, err
	}
	response := &csi.ListSnapshotsResponse{NextToken: next}
	for _, snapshot := range snapshots {
		response.Entries = append(response.Entries, &csi.ListSnapshotsResponse_Entry{Snapshot: c.topology.snapshot(snapshot)})
	}
	return response, nil
}

// parseFilter returns what restricts a list. ErrNotFound: nothing can pass.
func parseFilter(r *csi.ListSnapshotsRequest) (filter snapshotcore.SnapshotFilter, err error) {
	if err := filter.ID.UnmarshalText([]byte(r.GetSnapshotId())); err != nil {
		return filter, err
	}
	return filter, filter.Source.UnmarshalText([]byte(r.GetSourceVolumeId()))
}

// unlessAbsent turns ErrNotFound into success.
func unlessAbsent(err error) error {
	if errors.Is(err, backend.ErrNotFound) {
		return nil
	}
	return err
}
