package lvm

import (
	"context"
	"fmt"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

// CreateSnapshot implements backend.Backend. lvm suspends the volume's device
// for the moment of the cut; with it, the kernel freezes a mounted ext4 or xfs,
// so that the snapshot holds all that was written. Of a raw device it holds
// what was written through its cache.
func (b *Backend) CreateSnapshot(ctx context.Context, spec backend.SnapshotSpec, _ *backend.Progress) (backend.Snapshot, error) {
	made, err := b.createSnapshot(ctx, spec)
	if err != nil {
		return backend.Snapshot{}, fmt.Errorf("create %s of %s: %w", spec.ID, spec.Source, err)
	}
	return made.snapshot(), nil
}

func (b *Backend) createSnapshot(ctx context.Context, spec backend.SnapshotSpec) (object, error) {
	if err := refuseParameters(spec.Parameters); err != nil {
		return object{}, err
	}
	release, err := b.busy.share(spec.Source.String())
	if err != nil {
		return object{}, err
	}
	defer release()
	source, err := b.find(ctx, spec.Source.String())
	if err != nil {
		return object{}, err
	}
	if err := b.flush(source); err != nil {
		return object{}, err
	}
	planned := object{id: spec.ID.String(), size: source.size, record: record{
		kind: kindSnapshot, name: spec.Name, mode: source.mode, fsType: source.fsType,
		source: backend.Source{Volume: spec.Source}, unformatted: source.unformatted, readyAfter: spec.ReadyAfter,
	}}
	return b.create(ctx, planned, b.path(source.id))
}

// DeleteSnapshot implements backend.Backend.
func (b *Backend) DeleteSnapshot(ctx context.Context, id backend.SnapshotID) error {
	return b.delete(ctx, id.String())
}
