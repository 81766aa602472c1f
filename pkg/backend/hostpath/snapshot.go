package hostpath

import (
	"context"
	"fmt"
	"os"
	"path"

	"github.com/snapdriver/snapdriver/pkg/backend"
	"github.com/snapdriver/snapdriver/pkg/backend/hostpath/treecopy"
)

// CreateSnapshot implements backend.Backend.
func (b *Backend) CreateSnapshot(ctx context.Context, spec backend.SnapshotSpec, progress *backend.Progress) (backend.Snapshot, error) {
	snapshot, err := b.createSnapshot(ctx, spec, progress)
	if err != nil {
		return backend.Snapshot{}, fmt.Errorf("create %s of %s: %w", spec.ID, spec.Source, b.explain(err))
	}
	return snapshot, nil
}

func (b *Backend) createSnapshot(ctx context.Context, spec backend.SnapshotSpec, progress *backend.Progress) (backend.Snapshot, error) {
	volume, err := b.readVolume(spec.Source)
	if err != nil {
		return backend.Snapshot{}, err
	}
	format, err := parseFormat(spec.Parameters, volume.Layout)
	if err != nil {
		return backend.Snapshot{}, err
	}
	record := snapshotRecord{
		Version:  recordVersion,
		Snapshot: backend.Snapshot{SnapshotSpec: spec, Mode: volume.Volume.Mode, Size: volume.Volume.Capacity},
		Layout:   volume.Layout,
		FSType:   volume.FSType,
		Format:   format,
	}
	err = b.build(ctx, snapshotsDir, spec.ID.String(), format.file(), func(stage *os.Root) (any, error) {
		out, err := stage.OpenFile(format.file(), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return nil, err
		}
		defer out.Close()
		if format == formatImage {
			record.Snapshot.CreatedAt, err = b.cut(ctx, spec.Source, volume.Layout, out, progress)
			return record, err
		}
		record.Snapshot.CreatedAt = now()
		return record, b.archive(ctx, volume, format, out, progress)
	})
	return record.Snapshot, err
}

// archive writes the tree of a directory volume to out.
func (b *Backend) archive(ctx context.Context, volume volumeRecord, format format, out *os.File, progress *backend.Progress) error {
	tree, err := b.root.Open(path.Join(volumePath(volume.Volume.ID), dataDir))
	if err != nil {
		return err
	}
	defer tree.Close()
	if format == formatTarZstd {
		return treecopy.WriteTarZstd(ctx, tree, out, progress)
	}
	return treecopy.WriteTar(ctx, tree, out, progress)
}

// DeleteSnapshot implements backend.Backend.
func (b *Backend) DeleteSnapshot(_ context.Context, id backend.SnapshotID) error {
	return b.explain(b.delete(snapshotsDir, id.String()))
}
