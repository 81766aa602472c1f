package snapshotcore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"k8s.io/klog/v2"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

// VolumeRequest is what CreateVolume is asked for.
type VolumeRequest struct {
	Name        string
	Profile     backend.Profile
	AccessModes []backend.AccessMode

	// Required and Limit are the capacity range in bytes; 0: not given.
	Required, Limit int64
	Source          backend.Source

	// Elsewhere says that the volume may not lie on this node.
	Elsewhere bool
	Around    Around
}

// CreateVolume creates a volume, or returns the one that the same request has
// created before. ErrExists when the name is taken by a volume that does not
// satisfy the request; ErrBusy while it is being created. CSI CreateVolume.
func (c *Core) CreateVolume(ctx context.Context, r VolumeRequest) (backend.Volume, error) {
	if err := CheckRange(r.Required, r.Limit); err != nil {
		return backend.Volume{}, err
	}
	limits, err := c.backend.Limits(r.Profile)
	if err != nil {
		return backend.Volume{}, err
	}
	r.AccessModes = slices.Compact(slices.Sorted(slices.Values(r.AccessModes)))
	id := backend.NewVolumeID(c.options.NodeID, r.Name)

	c.mu.Lock()
	if volume, exists := c.volumes.byID[id]; exists {
		defer c.mu.Unlock()
		return volume, cmp.Or(c.beingDeleted(id), r.compatible(volume))
	}
	op, err := c.joinOrStartVolume(id, r, limits)
	if err == nil {
		op.waiting++
	}
	c.mu.Unlock()
	if err != nil {
		return backend.Volume{}, err
	}
	return wait[backend.Volume](ctx, c, op)
}

// joinOrStartVolume returns the running operation that creates the volume, or
// starts one; or one that has failed unheard. The caller holds c.mu.
func (c *Core) joinOrStartVolume(id backend.VolumeID, r VolumeRequest, limits backend.Limits) (*operation, error) {
	if op, running := c.creating[id.String()]; running {
		if !sameVolumeRequest(op.request.(VolumeRequest), r) {
			// Not ErrExists, which is final: the volume may yet come to satisfy
			// this request, or not come to be.
			return nil, fmt.Errorf("name: %q is being created with other arguments; repeat the call later or use another name: %w", r.Name, backend.ErrBusy)
		}
		return op, nil
	}
	if op := c.tell(id.String()); op != nil && sameVolumeRequest(op.request.(VolumeRequest), r) {
		return op, nil
	}
	if r.Elsewhere {
		return nil, fmt.Errorf("accessibility_requirements: none of the topologies is this node, and this driver makes volumes on its own node only: %w", backend.ErrExhausted)
	}
	sourceLocks, sourceSize, err := c.resolveSource(r)
	if err != nil {
		return nil, err
	}
	size, err := pickSize(r.Required, r.Limit, limits, sourceSize)
	if err != nil {
		return nil, err
	}
	spec := backend.VolumeSpec{ID: id, Name: r.Name, Profile: r.Profile, AccessModes: r.AccessModes, Capacity: size, Source: r.Source}
	op := &operation{id: id.String(), request: r, around: r.Around, locks: append(sourceLocks, exclusive(id.String()))}
	create := func(ctx context.Context, progress *backend.Progress) (any, error) {
		return c.backend.CreateVolume(ctx, spec, progress)
	}
	return op, c.start(op, create, func(volume any) { c.volumes.put(volume.(backend.Volume)) })
}

// resolveSource finds the source of a new volume: its size, and the lock that
// keeps it from being deleted or grown while it is read. The caller holds c.mu.
func (c *Core) resolveSource(r VolumeRequest) (locks []lock, size int64, err error) {
	var mode backend.Mode
	switch source := r.Source; {
	case !source.Snapshot.IsZero():
		snapshot, exists := c.snapshots.byID[source.Snapshot]
		if !exists {
			return nil, 0, absentSource(c.absentOrBusy(source.Snapshot))
		}
		if left := snapshot.ReadyIn(time.Now()); left > 0 {
			return nil, 0, fmt.Errorf("volume_content_source: %s will not be ready to use for another %s; wait for its ready_to_use: %w", source.Snapshot, left.Round(time.Millisecond), backend.ErrPrecondition)
		}
		locks, size, mode = []lock{shared(source.Snapshot.String())}, snapshot.Size, snapshot.Mode
	case !source.Volume.IsZero():
		volume, exists := c.volumes.byID[source.Volume]
		if !exists {
			return nil, 0, absentSource(c.absentOrBusy(source.Volume))
		}
		locks, size, mode = []lock{shared(source.Volume.String())}, volume.Capacity, volume.Mode
	default:
		return nil, 0, nil
	}
	if mode != r.Profile.Mode {
		return nil, 0, fmt.Errorf("volume_content_source: the source is a %s volume's, the request is for a %s volume; ask for the source's mode: %w", mode, r.Profile.Mode, backend.ErrInvalid)
	}
	return locks, size, nil
}

// absentSource turns "on another node" into ErrExhausted, on which the
// provisioner lets the scheduler try another node; any other error is final.
func absentSource(err error) error {
	if errors.Is(err, backend.ErrPrecondition) {
		return fmt.Errorf("volume_content_source: not on this node (%s): %w", err, backend.ErrExhausted) //nolint:errorlint // the class changes on purpose
	}
	return fmt.Errorf("volume_content_source: %w", err)
}

// compatible says whether a volume that exists satisfies the request: nil or
// ErrExists, with the argument that differs.
func (r VolumeRequest) compatible(volume backend.Volume) error {
	var differs string
	switch {
	case !fits(volume.Capacity, r.Required, r.Limit):
		differs = fmt.Sprintf("capacity_range: it has %d bytes", volume.Capacity)
	case volume.Mode != r.Profile.Mode || volume.FSType != r.Profile.FSType || !slices.Equal(volume.AccessModes, r.AccessModes):
		differs = fmt.Sprintf("volume_capabilities: it was created as %s, fs_type %q, access modes %v", volume.Mode, volume.FSType, volume.AccessModes)
	case !maps.Equal(volume.Parameters, r.Profile.Parameters):
		differs = fmt.Sprintf("parameters: it was created with %v", volume.Parameters)
	case volume.Source != r.Source:
		differs = "volume_content_source: it was created from another source"
	case r.Elsewhere:
		differs = "accessibility_requirements: it lies on this node, which they do not admit"
	default:
		return nil
	}
	return fmt.Errorf("volume %q exists and does not match: %s; use another name: %w", r.Name, differs, backend.ErrExists)
}

// sameVolumeRequest says whether two requests of one name ask for the same.
func sameVolumeRequest(a, b VolumeRequest) bool {
	return a.Required == b.Required && a.Limit == b.Limit && a.Source == b.Source && a.Elsewhere == b.Elsewhere &&
		a.Profile.Mode == b.Profile.Mode && a.Profile.FSType == b.Profile.FSType &&
		maps.Equal(a.Profile.Parameters, b.Profile.Parameters) && slices.Equal(a.AccessModes, b.AccessModes)
}

// DeleteVolume deletes a volume; one that does not exist is deleted already.
// ErrPrecondition, and nothing is altered, while it is mounted anywhere.
// ErrBusy while it is being created, read by a copy, or used by a node RPC.
// Its snapshots stay. CSI DeleteVolume.
func (c *Core) DeleteVolume(ctx context.Context, id backend.VolumeID) error {
	c.forget(id.String())
	release, err := c.lockForDeletion(id, exclusive(nodeKey(id)))
	if err != nil {
		return err
	}
	defer release()
	if _, err := c.Volume(id); err != nil && !c.isUnfinished(id) {
		return absentIsDone(err)
	}
	// Once begun it is finished, whatever becomes of the caller.
	ctx = context.WithoutCancel(ctx)
	if err := c.checkUnused(ctx, id); err != nil {
		return err
	}
	if err := c.backend.DeleteVolume(ctx, id); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.volumes.remove(id)
	return nil
}

// checkUnused asks the mount table, not a record, whether a volume is in use:
// ErrPrecondition.
func (c *Core) checkUnused(ctx context.Context, id backend.VolumeID) error {
	mount, _, err := c.backend.Attached(ctx, id)
	if errors.Is(err, backend.ErrNotFound) {
		return nil // an earlier deletion got that far and then met an error
	}
	var inUse bool
	if err == nil {
		inUse, err = c.options.InUse(mount)
	}
	if err != nil {
		return fmt.Errorf("look whether %s is in use: %w", id, err)
	}
	if inUse {
		return fmt.Errorf("%s is mounted; unpublish and unstage it first: %w", id, backend.ErrPrecondition)
	}
	return nil
}

// ExpandVolume makes a volume at least required bytes large and returns it. A
// volume that is large enough stays as it is. ErrOutOfRange, and not
// ErrExhausted, where there is no room: of that csi-resizer believes that the
// growth may still be going on, and no longer lets anybody ask for less. CSI
// ControllerExpandVolume.
func (c *Core) ExpandVolume(ctx context.Context, id backend.VolumeID, required, limit int64) (backend.Volume, error) {
	if err := CheckRange(required, limit); err != nil {
		return backend.Volume{}, err
	}
	if required == 0 && limit == 0 {
		return backend.Volume{}, fmt.Errorf("capacity_range: neither required_bytes nor limit_bytes is given: %w", backend.ErrInvalid)
	}
	release, err := c.lock(exclusive(id.String()))
	if err != nil {
		return backend.Volume{}, err
	}
	defer release()
	volume, err := c.Volume(id)
	if err != nil {
		return backend.Volume{}, err
	}
	limits, err := c.backend.Limits(volume.Profile)
	if err != nil {
		return backend.Volume{}, err
	}
	size, err := pickSize(max(required, volume.Capacity), limit, limits, 0)
	if err != nil {
		if limit > 0 && volume.Capacity > limit {
			return backend.Volume{}, fmt.Errorf("capacity_range.limit_bytes: the volume has %d bytes already and cannot shrink to %d: %w", volume.Capacity, limit, backend.ErrOutOfRange)
		}
		return backend.Volume{}, err
	}
	if size <= volume.Capacity {
		return volume, nil
	}
	// Once begun it is finished, whatever becomes of the caller.
	volume, err = c.backend.ExpandVolume(context.WithoutCancel(ctx), id, size)
	if errors.Is(err, backend.ErrExhausted) {
		err = fmt.Errorf("capacity_range.required_bytes: %v: %w", err, backend.ErrOutOfRange) //nolint:errorlint // the class changes on purpose
	}
	if err != nil {
		return backend.Volume{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.volumes.put(volume)
	klog.InfoS("Grew volume", "id", id, "bytes", size)
	return volume, nil
}

// Volume returns the volume of that ID. ErrNotFound, or ErrPrecondition when it
// was made on another node.
func (c *Core) Volume(id backend.VolumeID) (backend.Volume, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.volume(id)
}

// volume is Volume for callers that hold c.mu.
func (c *Core) volume(id backend.VolumeID) (backend.Volume, error) {
	if volume, exists := c.volumes.byID[id]; exists {
		return volume, nil
	}
	return backend.Volume{}, c.absent(id)
}

// Volumes returns a page of all volumes, in the order of their IDs, and the
// token of the next page. ErrBadToken.
func (c *Core) Volumes(page Page) ([]backend.Volume, string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ids, next, err := pageOf(c.volumes.order, page, backend.ParseVolumeID)
	if err != nil {
		return nil, "", err
	}
	volumes := make([]backend.Volume, len(ids))
	for i, id := range ids {
		volumes[i] = c.volumes.byID[id]
	}
	return volumes, next, nil
}
