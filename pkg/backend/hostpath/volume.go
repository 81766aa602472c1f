package hostpath

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"time"

	"github.com/snapdriver/snapdriver/pkg/backend"
	"github.com/snapdriver/snapdriver/pkg/backend/hostpath/treecopy"
)

// CreateVolume implements backend.Backend.
func (b *Backend) CreateVolume(ctx context.Context, spec backend.VolumeSpec, progress *backend.Progress) (backend.Volume, error) {
	record, err := b.createVolume(ctx, spec, progress)
	if err != nil {
		return backend.Volume{}, fmt.Errorf("create %s: %w", spec.ID, b.explain(err))
	}
	return record.Volume, nil
}

func (b *Backend) createVolume(ctx context.Context, spec backend.VolumeSpec, progress *backend.Progress) (volumeRecord, error) {
	kind, err := parseProfile(spec.Profile)
	if err != nil {
		return volumeRecord{}, err
	}
	from, err := b.source(spec.Source)
	if err != nil {
		return volumeRecord{}, err
	}
	if err := from.check(kind); err != nil {
		return volumeRecord{}, err
	}
	if err := b.checkRoom(ctx, spec.Profile, spec.Capacity); err != nil {
		return volumeRecord{}, err
	}
	record := volumeRecord{
		Version: recordVersion,
		Volume:  backend.Volume{VolumeSpec: spec, CreatedAt: now(), OnDevice: kind.layout != layoutDirectory},
		Layout:  kind.layout,
	}
	if kind.layout == layoutImage {
		record.FSType = from.fsType
		if from.path == "" {
			record.FSType = kind.newFilesystem()
		}
	}
	err = b.build(ctx, volumesDir, spec.ID.String(), record.data(), func(stage *os.Root) (any, error) {
		if record.Layout == layoutDirectory {
			return record, b.fillDirectory(ctx, stage, from, progress)
		}
		return record, b.fillImage(ctx, stage, from, record, progress)
	})
	return record, err
}

// source is what a volume is made from. The zero source is nothing.
type source struct {
	path   string // of the data, below the root
	layout layout
	fsType string
	volume backend.VolumeID // set when the data are a volume's and may change
}

// source finds what a volume is to be made from.
func (b *Backend) source(of backend.Source) (source, error) {
	switch {
	case !of.Snapshot.IsZero():
		record, err := b.readSnapshot(of.Snapshot)
		return source{path: path.Join(snapshotPath(of.Snapshot), record.Format.file()), layout: record.Layout, fsType: record.FSType}, err
	case !of.Volume.IsZero():
		record, err := b.readVolume(of.Volume)
		return source{path: path.Join(volumePath(of.Volume), record.data()), layout: record.Layout, fsType: record.FSType, volume: of.Volume}, err
	}
	return source{}, nil
}

// check says whether the source can become a volume of this kind.
func (s source) check(kind kind) error {
	switch {
	case s.path == "":
		return nil
	case s.layout != kind.layout:
		return fmt.Errorf("parameters: layout: the source has layout %s and cannot become a volume of layout %s; use a StorageClass with the layout of the source: %w", s.layout, kind.layout, backend.ErrInvalid)
	case kind.fsType != "" && kind.fsType != s.fsType:
		return fmt.Errorf("fs_type: the source holds %s and cannot become a volume with %s; ask for %s or leave fs_type out: %w", s.fsType, kind.fsType, s.fsType, backend.ErrInvalid)
	}
	return nil
}

// fillDirectory makes the data directory of a volume.
func (b *Backend) fillDirectory(ctx context.Context, stage *os.Root, from source, progress *backend.Progress) error {
	if err := stage.Mkdir(dataDir, 0o700); err != nil {
		return err
	}
	if from.path == "" {
		// As emptyDir has it: a pod of any user can write, also without an
		// fsGroup. On the node, only root comes this far.
		return stage.Chmod(dataDir, 0o777)
	}
	in, err := b.root.Open(from.path)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := stage.Open(dataDir)
	if err != nil {
		return err
	}
	defer out.Close()
	if from.volume.IsZero() {
		return treecopy.ReadTar(ctx, in, out, progress)
	}
	return treecopy.CopyTree(ctx, in, out, progress)
}

// ExpandVolume implements backend.Backend. The image grows first: a crash
// after that leaves the old size, and an image that is larger than its record
// says, which harms nothing; see the package comment.
func (b *Backend) ExpandVolume(ctx context.Context, id backend.VolumeID, capacity int64) (backend.Volume, error) {
	volume, err := b.expandVolume(ctx, id, capacity)
	if err != nil {
		return backend.Volume{}, fmt.Errorf("expand %s: %w", id, b.explain(classify(err)))
	}
	return volume, nil
}

func (b *Backend) expandVolume(ctx context.Context, id backend.VolumeID, capacity int64) (backend.Volume, error) {
	record, err := b.readVolume(id)
	if err != nil {
		return backend.Volume{}, err
	}
	if err := b.checkRoom(ctx, record.Volume.Profile, capacity-record.Volume.Capacity); err != nil {
		return backend.Volume{}, err
	}
	if record.Layout == layoutDirectory {
		return b.setCapacity(record, capacity)
	}
	image, err := b.root.OpenFile(path.Join(volumePath(id), imageFile), os.O_RDWR, 0)
	if err != nil {
		return backend.Volume{}, err
	}
	defer image.Close()
	b.growing.Add(1)
	defer b.growing.Add(-1)
	b.step.At("grow")
	if err := grow(image, capacity); err != nil {
		return backend.Volume{}, err
	}
	if err := image.Sync(); err != nil {
		return backend.Volume{}, err
	}
	volume, err := b.setCapacity(record, capacity)
	if err != nil {
		return backend.Volume{}, err
	}
	b.step.At("refresh")
	return volume, b.loops.refresh(id, image)
}

// setCapacity replaces the record of a volume, unless it says so already: then an
// earlier try may have failed to make that durable.
func (b *Backend) setCapacity(record volumeRecord, capacity int64) (backend.Volume, error) {
	id := record.Volume.ID
	if record.Volume.Capacity == capacity {
		b.step.At("sync")
		return record.Volume, syncFile(b.root, volumePath(id))
	}
	record.Volume.Capacity = capacity
	staged := path.Join(stagingDir, unique(id.String()))
	b.step.At("record")
	err := writeRecord(b.root, staged, record)
	if err == nil {
		err = syncFile(b.root, staged)
	}
	if err == nil {
		b.step.At("commit")
		err = b.root.Rename(staged, path.Join(volumePath(id), recordFile))
	}
	if err != nil {
		return backend.Volume{}, errors.Join(err, b.root.RemoveAll(staged))
	}
	b.step.At("sync")
	return record.Volume, syncFile(b.root, volumePath(id))
}

// DeleteVolume implements backend.Backend.
func (b *Backend) DeleteVolume(ctx context.Context, id backend.VolumeID) error {
	b.step.At("detach")
	if err := b.Detach(ctx, id); err != nil {
		return err
	}
	return b.explain(b.delete(volumesDir, id.String()))
}

// now returns the time as records keep it.
func now() time.Time { return time.Now().UTC().Round(0) }
