package snapshotcore

import (
	"context"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

// nodeKey is the lock of the node RPCs on a volume: a key apart from the
// volume's own, so that publishing does not wait for the end of a snapshot.
func nodeKey(id backend.VolumeID) string { return "node RPCs of " + id.String() }

// LockNode keeps other node RPCs on the volume and its deletion away until
// release is called. The volume need not exist. ErrBusy.
func (c *Core) LockNode(id backend.VolumeID) (release func(), err error) {
	return c.lock(exclusive(nodeKey(id)))
}

// NodeBusy says whether somebody holds LockNode, and so changes where the volume
// is mounted.
func (c *Core) NodeBusy(id backend.VolumeID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.locks.excludes(nodeKey(id))
}

// LockVolume keeps snapshots, clones, expansions and the deletion of the volume
// away until release is called. The volume need not exist. ErrBusy.
func (c *Core) LockVolume(id backend.VolumeID) (release func(), err error) {
	return c.lock(exclusive(id.String()))
}

// Attach is backend.Backend.Attach. The caller holds LockNode.
func (c *Core) Attach(ctx context.Context, id backend.VolumeID) (backend.Mount, error) {
	return c.backend.Attach(ctx, id)
}

// Attached is backend.Backend.Attached.
func (c *Core) Attached(ctx context.Context, id backend.VolumeID) (backend.Mount, bool, error) {
	return c.backend.Attached(ctx, id)
}

// Detach is backend.Backend.Detach. The caller holds LockNode.
func (c *Core) Detach(ctx context.Context, id backend.VolumeID) error {
	return c.backend.Detach(ctx, id)
}
