package lvm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/google/uuid"

	"github.com/snapdriver/snapdriver/internal/dm"
	"github.com/snapdriver/snapdriver/pkg/backend"
)

// CreateVolume implements backend.Backend. It is one command, and a second one
// where the volume is larger than its source. Nothing is ever copied, so that
// there is no progress.
func (b *Backend) CreateVolume(ctx context.Context, spec backend.VolumeSpec, _ *backend.Progress) (backend.Volume, error) {
	made, err := b.createVolume(ctx, spec)
	if err != nil {
		return backend.Volume{}, fmt.Errorf("create %s: %w", spec.ID, err)
	}
	return made.volume(), nil
}

func (b *Backend) createVolume(ctx context.Context, spec backend.VolumeSpec) (object, error) {
	fsType, err := newFilesystem(spec.Profile)
	if err != nil {
		return object{}, err
	}
	planned := object{id: spec.ID.String(), size: spec.Capacity, record: record{
		kind: kindVolume, name: spec.Name, mode: spec.Mode, fsType: fsType, askedFS: spec.FSType != "",
		access: spec.AccessModes, source: spec.Source,
	}}
	if planned.sourceID() != "" {
		return b.copyVolume(ctx, planned)
	}
	if fsType != "" {
		planned.unformatted = []uuid.UUID{identityOf(planned.id)}
	}
	return b.create(ctx, planned, "--virtualsize", inBytes(planned.size), "--thinpool", b.thinPool, b.group)
}

// copyVolume makes a volume of what its source holds, by a snapshot of it.
func (b *Backend) copyVolume(ctx context.Context, planned object) (object, error) {
	release, err := b.busy.share(planned.sourceID())
	if err != nil {
		return object{}, err
	}
	defer release()
	source, err := b.find(ctx, planned.sourceID())
	if err != nil {
		return object{}, err
	}
	if planned.askedFS && planned.fsType != source.fsType {
		return object{}, fmt.Errorf("fs_type: the source holds %s and cannot become a volume with %s; ask for %s or leave fs_type out: %w", source.fsType, planned.fsType, source.fsType, backend.ErrInvalid)
	}
	planned.fsType = source.fsType
	if source.isNew() {
		planned.unformatted = append(slices.Clone(source.unformatted), identityOf(planned.id))
	}
	if planned.size > source.size {
		planned.grow = planned.size
	}
	planned.size = source.size
	if err := b.flush(source); err != nil {
		return object{}, err
	}
	return b.create(ctx, planned, b.path(source.id))
}

// create makes the logical volume of an object: in the pool, or as a snapshot
// of another, as the last arguments say.
func (b *Backend) create(ctx context.Context, planned object, what ...string) (object, error) {
	if len(planned.name) > maxName {
		return object{}, fmt.Errorf("name: it has %d bytes, a tag has room for %d; use a shorter one: %w", len(planned.name), maxName, backend.ErrInvalid)
	}
	end, err := b.pool.admit(ctx, planned.id, planned.promise(), 1)
	if err != nil {
		return object{}, err
	}
	made, err := b.build(ctx, planned, what)
	end(err == nil)
	if err != nil {
		return made, err
	}
	b.index.put(made)
	return made, nil
}

// build runs the commands that make an object. One that is there already is
// taken, and finished if need be.
func (b *Backend) build(ctx context.Context, planned object, what []string) (object, error) {
	made := planned
	failure := b.changeWhen(ctx, creating, func() ([]string, error) {
		// Of one that is suspended already, lvm reports the copy as made and has
		// not told the kernel.
		if source := planned.sourceID(); source != "" {
			if _, err := b.resume(ctx, source); err != nil {
				return nil, err
			}
		}
		made.created = now()
		return append(made.creation(), what...), nil
	})
	if isFrozen(failure) {
		return object{}, fmt.Errorf("somebody has frozen the filesystem on %s, as a hook of a backup tool may have: thaw it and leave that to lvm, which freezes it for the moment of the cut: %w: %w",
			planned.sourceID(), backend.ErrPrecondition, failure)
	}
	if failure != nil {
		var err error
		if made, err = b.taken(ctx, planned, failure); err != nil {
			return object{}, err
		}
	}
	if !made.unfinished() {
		return made, nil
	}
	whole, err := b.extend(ctx, made, made.grow)
	if err != nil && failure == nil {
		err = errors.Join(err, b.remove(context.WithoutCancel(ctx), made))
	}
	return whole, err
}

// creation returns arguments of the command that makes an object.
func (o object) creation() []string {
	// No boot and no other program is to activate it by accident.
	arguments := []string{"--yes", "--type", "thin", "--name", o.id, "--setactivationskip", "y"}
	if o.activeFromStart() {
		arguments = append(arguments, "--ignoreactivationskip")
	} else {
		arguments = append(arguments, "--activate", "n")
	}
	for _, tag := range o.tags() {
		arguments = append(arguments, "--addtag", tag)
	}
	return arguments
}

// activeFromStart says whether an object is made with its device. It spares the
// first use of a filesystem one command. A raw device is what says that a
// volume is staged, and so appears with Attach only.
func (r record) activeFromStart() bool {
	return r.kind == kindVolume && r.mode == backend.Filesystem
}

// taken returns what is there when making an object has failed, if that is the
// same object. ErrPrecondition when it is another; if there is none, or only
// the beginning of one, which then goes, the error of the attempt.
func (b *Backend) taken(ctx context.Context, planned object, failure error) (object, error) {
	if ctx.Err() != nil || errors.Is(failure, errUnsettled) {
		return object{}, failure
	}
	row, found, err := b.lookRow(ctx, planned.id)
	switch {
	case errors.Is(err, backend.ErrNotFound):
		return object{}, failure
	case errors.Is(err, errNotOurs):
		return object{}, fmt.Errorf("%w; rename or remove it: %w", err, backend.ErrPrecondition)
	case err != nil:
		return object{}, errors.Join(failure, err)
	case !found.sameRequest(planned.record):
		return object{}, fmt.Errorf("%s is another object already; restart the driver, which then lists it: %w", b.path(planned.id), backend.ErrPrecondition)
	}
	state, err := b.pool.state()
	if err == nil && !row.counted(state) {
		err = b.discard(ctx, found) // the repeat makes it whole
	}
	if err != nil || !row.counted(state) {
		return object{}, errors.Join(failure, err)
	}
	return found, b.runner.flush() // perhaps that is what has failed
}

// ExpandVolume implements backend.Backend. The device of an attached volume
// grows with it.
func (b *Backend) ExpandVolume(ctx context.Context, id backend.VolumeID, capacity int64) (backend.Volume, error) {
	grown, err := b.expandVolume(ctx, id, capacity)
	if err != nil {
		return backend.Volume{}, fmt.Errorf("expand %s: %w", id, err)
	}
	return grown.volume(), nil
}

func (b *Backend) expandVolume(ctx context.Context, id backend.VolumeID, capacity int64) (object, error) {
	release, err := b.busy.share(id.String())
	if err != nil {
		return object{}, err
	}
	defer release()
	o, err := b.find(ctx, id.String())
	if err != nil || o.size >= capacity {
		return o, err
	}
	end, err := b.pool.admit(ctx, o.id, capacity, 0)
	if err != nil {
		return object{}, err
	}
	o, err = b.extend(ctx, o, capacity)
	end(err == nil)
	if err == nil {
		b.index.put(o)
	}
	return o, err
}

// extend makes an object's logical volume larger.
func (b *Backend) extend(ctx context.Context, o object, size int64) (object, error) {
	err := b.change(ctx, "lvextend", "--yes", "--size", inBytes(size), b.path(o.id))
	if err != nil && ctx.Err() == nil {
		// An attempt before this one may have got there.
		if found, lookErr := b.look(ctx, o.id); lookErr == nil && found.size >= size {
			o, err = found, b.runner.flush()
		}
	}
	o.size = max(o.size, size)
	return o, err
}

// DeleteVolume implements backend.Backend.
func (b *Backend) DeleteVolume(ctx context.Context, id backend.VolumeID) error {
	return b.delete(ctx, id.String())
}

// delete removes an object. What is not there, or not ours, is deleted already.
func (b *Backend) delete(ctx context.Context, id string) error {
	o, err := b.find(ctx, id)
	if errors.Is(err, backend.ErrNotFound) {
		return nil
	}
	if err == nil {
		err = b.remove(ctx, o)
	}
	if err != nil {
		return fmt.Errorf("delete %s: %w", id, err)
	}
	b.index.remove(id)
	b.pool.removed(o.id)
	return nil
}

// remove removes an object's logical volume, with its device.
func (b *Backend) remove(ctx context.Context, o object) error {
	err := b.change(ctx, "lvremove", "--yes", b.path(o.id))
	if err != nil && ctx.Err() == nil && !errors.Is(err, errUnsettled) {
		return b.explainRemoval(ctx, o, err)
	}
	return err
}

// discard removes the logical volume of an object that the kernel has not made,
// or not counted.
func (b *Backend) discard(ctx context.Context, o object) error {
	if err := b.change(ctx, "lvremove", b.discarding(o.id)...); err != nil {
		return fmt.Errorf("remove what was cut off: %w", err)
	}
	return nil
}

// discarding are arguments of the command that removes a logical volume. Forced
// twice, lvm removes it also where it cannot have the kernel make it first, which
// it would like to: in a pool that is nearly full.
func (b *Backend) discarding(name string) []string {
	return []string{"--yes", "--force", "--force", b.path(name)}
}

// explainRemoval says why a removal has failed; nil when there was nothing to
// remove.
func (b *Backend) explainRemoval(ctx context.Context, o object, failure error) error {
	if _, err := b.look(ctx, o.id); errors.Is(err, backend.ErrNotFound) {
		return b.runner.flush()
	}
	if device, err := dm.Lookup(b.device(o.id)); err == nil && device.OpenCount > 0 {
		return fmt.Errorf("a process or a mount has %s open; end that first: %w: %w", dm.Path(b.device(o.id)), backend.ErrPrecondition, failure)
	}
	return failure
}

// inBytes returns a size as lvm takes it.
func inBytes(size int64) string { return strconv.FormatInt(size, 10) + "b" }
