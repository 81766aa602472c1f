package snapshotcore

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

// SnapshotRequest is what CreateSnapshot is asked for.
type SnapshotRequest struct {
	Name       string
	Source     backend.VolumeID
	Parameters map[string]string

	// ReadyAfter is how long after its cut it is to count as not ready to use.
	ReadyAfter time.Duration

	// Elsewhere says that the snapshot may not lie on this node.
	Elsewhere bool
	Around    Around
}

// CreateSnapshot cuts a snapshot, or returns the one that the same request has
// cut before, unchanged. ErrExists when the name is taken by a snapshot of
// another volume; ErrBusy while it is being made. CSI CreateSnapshot: a
// request is the same when name and source are.
func (c *Core) CreateSnapshot(ctx context.Context, r SnapshotRequest) (backend.Snapshot, error) {
	id := backend.NewSnapshotID(c.options.NodeID, r.Name)
	c.mu.Lock()
	if snapshot, exists := c.snapshots.byID[id]; exists {
		defer c.mu.Unlock()
		return snapshot, cmp.Or(c.beingDeleted(id), r.compatible(snapshot))
	}
	op, err := c.joinOrStartSnapshot(id, r)
	if err == nil {
		op.waiting++
	}
	c.mu.Unlock()
	if err != nil {
		return backend.Snapshot{}, err
	}
	return wait[backend.Snapshot](ctx, c, op)
}

// joinOrStartSnapshot returns the running operation that makes the snapshot,
// or starts one; or one that has failed unheard. The caller holds c.mu.
func (c *Core) joinOrStartSnapshot(id backend.SnapshotID, r SnapshotRequest) (*operation, error) {
	if op, running := c.creating[id.String()]; running {
		if !sameSnapshotRequest(op.request.(SnapshotRequest), r) {
			// Not ErrExists, which is final: this one may yet not come to be.
			return nil, fmt.Errorf("name: snapshot %q is being made with other arguments; repeat the call later or use another name: %w", r.Name, backend.ErrBusy)
		}
		return op, nil
	}
	if op := c.tell(id.String()); op != nil && sameSnapshotRequest(op.request.(SnapshotRequest), r) {
		return op, nil
	}
	if r.Elsewhere {
		return nil, fmt.Errorf("accessibility_requirements: none of the topologies is this node, and a snapshot lies where its volume does: %w", backend.ErrExhausted)
	}
	op := &operation{id: id.String(), request: r, around: r.Around, locks: []lock{exclusive(id.String()), shared(r.Source.String())}}
	if _, exists := c.volumes.byID[r.Source]; !exists {
		return nil, fmt.Errorf("source_volume_id: %w", c.absentOrBusy(r.Source))
	}
	spec := backend.SnapshotSpec{ID: id, Name: r.Name, Source: r.Source, Parameters: r.Parameters, ReadyAfter: r.ReadyAfter}
	create := func(ctx context.Context, progress *backend.Progress) (any, error) {
		return c.backend.CreateSnapshot(ctx, spec, progress)
	}
	return op, c.start(op, create, func(snapshot any) { c.snapshots.add(snapshot.(backend.Snapshot)) })
}

// sameSnapshotRequest says whether two requests of one name ask for the same.
func sameSnapshotRequest(a, b SnapshotRequest) bool {
	return a.Source == b.Source && a.Elsewhere == b.Elsewhere && maps.Equal(a.Parameters, b.Parameters)
}

// compatible says whether a snapshot that exists satisfies the request: nil or
// ErrExists, with the argument that differs.
func (r SnapshotRequest) compatible(snapshot backend.Snapshot) error {
	if snapshot.Source != r.Source {
		return fmt.Errorf("snapshot %q exists and is of volume %s, not %s; use another name: %w", r.Name, snapshot.Source, r.Source, backend.ErrExists)
	}
	if r.Elsewhere {
		return fmt.Errorf("snapshot %q exists on this node, which accessibility_requirements do not admit; use another name: %w", r.Name, backend.ErrExists)
	}
	return nil
}

// DeleteSnapshot deletes a snapshot; one that does not exist is deleted
// already. ErrBusy while it is being made or restored. Volumes made from it
// stay. CSI DeleteSnapshot.
func (c *Core) DeleteSnapshot(ctx context.Context, id backend.SnapshotID) error {
	c.forget(id.String())
	release, err := c.lockForDeletion(id)
	if err != nil {
		return err
	}
	defer release()
	if _, err := c.Snapshot(id); err != nil && !c.isUnfinished(id) {
		return absentIsDone(err)
	}
	// Once begun it is finished, whatever becomes of the caller.
	if err := c.backend.DeleteSnapshot(context.WithoutCancel(ctx), id); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.snapshots.remove(id)
	return nil
}

// Snapshot returns the snapshot of that ID. ErrNotFound, or ErrPrecondition
// when it was made on another node.
func (c *Core) Snapshot(id backend.SnapshotID) (backend.Snapshot, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if snapshot, exists := c.snapshots.byID[id]; exists {
		return snapshot, nil
	}
	return backend.Snapshot{}, c.absent(id)
}

// SnapshotFilter restricts a list to one snapshot, to the snapshots of one
// volume, or to both at once; zero values do not restrict.
type SnapshotFilter struct {
	ID     backend.SnapshotID
	Source backend.VolumeID
}

// Snapshots returns a page of the snapshots that pass the filter, in the order
// of their IDs, and the token of the next page. Nothing passes: an empty page.
// ErrBadToken. It takes no longer for more snapshots that do not pass.
func (c *Core) Snapshots(filter SnapshotFilter, page Page) ([]backend.Snapshot, string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ids, next, err := pageOf(c.candidates(filter), page, backend.ParseSnapshotID)
	if err != nil {
		return nil, "", err
	}
	snapshots := make([]backend.Snapshot, len(ids))
	for i, id := range ids {
		snapshots[i] = c.snapshots.byID[id]
	}
	return snapshots, next, nil
}

// candidates returns the sorted IDs that pass a filter. The caller holds c.mu.
func (c *Core) candidates(filter SnapshotFilter) []backend.SnapshotID {
	switch {
	case !filter.ID.IsZero():
		snapshot, exists := c.snapshots.byID[filter.ID]
		if !exists || (!filter.Source.IsZero() && snapshot.Source != filter.Source) {
			return nil
		}
		return []backend.SnapshotID{filter.ID}
	case !filter.Source.IsZero():
		return c.snapshots.bySource[filter.Source]
	default:
		return c.snapshots.order
	}
}
