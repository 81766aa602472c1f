package snapshotcore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"k8s.io/klog/v2"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

// Options are what a Core needs to know beside its backend.
type Options struct {
	// NodeID is the ID of this node; the IDs of new objects carry its hash.
	NodeID string

	// InUse says whether the mount table holds a mount of what a volume's
	// Mount names. A volume in use is not deleted.
	InUse func(backend.Mount) (bool, error)
}

// Core serves volumes and snapshots from one backend. It is safe for
// concurrent use.
type Core struct {
	backend  backend.Backend
	options  Options
	nodeHash string

	// Not served; neither changes.
	damaged    []backend.VolumeID
	unfinished []string // IDs of what is deleted nevertheless when somebody asks

	mu        sync.Mutex // guards all below; never held across I/O
	locks     lockTable
	volumes   table[backend.VolumeID, backend.Volume]
	snapshots snapshotIndex
	creating  map[string]*operation // running creations by ID
	untold    map[string]*operation // those that have failed and nobody was told, see tellLater
	deleting  map[string]bool       // running deletions by ID

	running sync.WaitGroup
	stop    context.CancelFunc // ends every detached operation
	ctx     context.Context
}

// Open recovers the backend's storage and builds the index of what it holds.
// The Core closes the backend when it is closed.
func Open(ctx context.Context, b backend.Backend, options Options) (*Core, error) {
	inventory, err := b.Recover(ctx)
	if err != nil {
		return nil, fmt.Errorf("recover the storage: %w", err)
	}
	for _, damaged := range inventory.Damaged {
		klog.ErrorS(nil, "An object is not served", "object", damaged)
	}
	c := &Core{
		backend:    b,
		options:    options,
		nodeHash:   backend.NodeHash(options.NodeID),
		damaged:    inventory.DamagedVolumes,
		unfinished: inventory.Unfinished,
		locks:      lockTable{},
		creating:   map[string]*operation{},
		untold:     map[string]*operation{},
		deleting:   map[string]bool{},
	}
	c.ctx, c.stop = context.WithCancel(context.WithoutCancel(ctx))
	c.volumes = newTable(inventory.Volumes,
		func(v backend.Volume) backend.VolumeID { return v.ID },
		func(v backend.Volume) int64 { return v.Capacity })
	c.snapshots = newSnapshotIndex(inventory.Snapshots)
	return c, nil
}

// Close cancels what is running, waits for its end, and closes the backend.
// What was cancelled half-way is removed by the next Recover at the latest.
func (c *Core) Close() error {
	c.mu.Lock()
	c.stop()
	c.mu.Unlock()
	c.running.Wait()
	return c.backend.Close()
}

// Stats are figures for metrics.
type Stats struct {
	Volumes, Snapshots         int
	VolumeBytes, SnapshotBytes int64 // sums of nominal sizes
	Copies                     int   // creations running now
}

// Stats returns the present figures. It takes the same time however many
// objects there are.
func (c *Core) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Stats{
		Volumes:       len(c.volumes.byID),
		Snapshots:     len(c.snapshots.byID),
		VolumeBytes:   c.volumes.bytes,
		SnapshotBytes: c.snapshots.bytes,
		Copies:        len(c.creating),
	}
}

// Capacity is what can be created now.
type Capacity struct {
	// Available is the largest volume that would be accepted now, in bytes.
	Available int64
	Limits    backend.Limits
}

// Capacity returns what can be created now for a profile.
func (c *Core) Capacity(ctx context.Context, profile backend.Profile) (Capacity, error) {
	limits, err := c.backend.Limits(profile)
	if err != nil {
		return Capacity{}, err
	}
	available, err := c.backend.Available(ctx, profile)
	if err != nil {
		return Capacity{}, err
	}
	available = min(available, limits.Max)
	return Capacity{Available: available - available%limits.Granularity, Limits: limits}, nil
}

// lock takes all the locks or none; ErrBusy. Whoever needs an object looks it up
// after that: of one that is being created the answer is ErrBusy, not ErrNotFound.
func (c *Core) lock(locks ...lock) (release func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.locks.try(locks...); err != nil {
		return nil, err
	}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.locks.release(locks...)
	}, nil
}

// lockForDeletion is lock for the deletion of an object: others are the locks
// that it needs beside that of the object.
func (c *Core) lockForDeletion(id anyID, others ...lock) (release func(), err error) {
	locks := append(others, exclusive(id.String()))
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.locks.try(locks...); err != nil {
		return nil, err
	}
	c.deleting[id.String()] = true
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.deleting, id.String())
		c.locks.release(locks...)
	}, nil
}

// beingDeleted is the error of a request for an object that is about to go:
// ErrBusy, nil for any other. The caller holds c.mu.
func (c *Core) beingDeleted(id anyID) error {
	if !c.deleting[id.String()] {
		return nil
	}
	return fmt.Errorf("name: %s, which has it, is being deleted; repeat the call later: %w", id, backend.ErrBusy)
}

// anyID is what both kinds of ID tell about themselves.
type anyID interface {
	String() string
	NodeHash() string
}

// absent explains that an object is not here: ErrPrecondition when it was made
// on another node, for there it may well exist; otherwise ErrNotFound.
func (c *Core) absent(id anyID) error {
	if id.NodeHash() != c.nodeHash {
		return fmt.Errorf("%s was made on another node than this (%q): ask the driver there: %w", id, c.options.NodeID, backend.ErrPrecondition)
	}
	return fmt.Errorf("%s: %w", id, backend.ErrNotFound)
}

// isUnfinished says whether an object that is absent is there to be deleted.
func (c *Core) isUnfinished(id anyID) bool { return slices.Contains(c.unfinished, id.String()) }

// absentOrBusy is absent for the source of a new object, which may be about to
// exist: ErrBusy. The caller holds c.mu.
func (c *Core) absentOrBusy(id anyID) error {
	if _, running := c.creating[id.String()]; running {
		return fmt.Errorf("%s is still being created; repeat the call later: %w", id, backend.ErrBusy)
	}
	return c.absent(id)
}

// absentIsDone turns "not found" into success, for deletions: what is absent
// need not be deleted. An object of another node stays an error.
func absentIsDone(err error) error {
	if errors.Is(err, backend.ErrNotFound) {
		return nil
	}
	return err
}
