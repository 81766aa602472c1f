package lvm

import (
	"context"
	"fmt"
	"slices"

	"k8s.io/klog/v2"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

// Recover implements backend.Backend. What a process before this one was doing
// when it was killed has ended by then.
func (b *Backend) Recover(ctx context.Context) (backend.Inventory, error) {
	if err := b.locks.awaitOrphans(ctx, orphanLimit); err != nil {
		return backend.Inventory{}, b.pool.explainWait(err)
	}
	if _, err := b.pool.resume(ctx); err != nil {
		return backend.Inventory{}, err
	}
	rows, err := b.scan(ctx)
	if err != nil {
		return backend.Inventory{}, err
	}
	found := b.sort(rows)
	if err := b.pool.load(ctx, found.promises); err != nil {
		return backend.Inventory{}, err
	}
	settled, err := b.settle(ctx, rows)
	if err != nil { // it is in the way of what is new, and perhaps not of what exists
		klog.ErrorS(err, "Cannot look for what a command that was cut off has left in the thin pool", "pool", b.pool.String())
	}
	served, err := b.finish(ctx, &found, settled)
	if err != nil {
		return backend.Inventory{}, err
	}
	b.index.fill(served, found.damaged)
	b.pool.start()
	return b.inventory(served, found), nil
}

// finish finishes or removes what commands have left undone, and returns the
// objects that are whole. What cannot be finished is added to the damaged.
func (b *Backend) finish(ctx context.Context, found *contents, settled settlement) (served []object, err error) {
	for _, o := range found.objects {
		if slices.Contains(settled.absent, o.id) {
			err = errUncounted
		} else if slices.Contains(settled.cutOff, o.id) {
			if err = b.discard(ctx, o); err == nil {
				b.pool.removed(o.id)
				continue
			}
		} else if o, err = b.mend(ctx, o); err == nil {
			served = append(served, o)
			continue
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		found.damaged[o.id] = err
		found.unfinished = append(found.unfinished, o.id)
	}
	return served, nil
}

// inventory lists what is served and what is not.
func (b *Backend) inventory(served []object, found contents) backend.Inventory {
	inventory := backend.Inventory{Unfinished: found.unfinished}
	for _, o := range served {
		if o.kind == kindVolume {
			inventory.Volumes = append(inventory.Volumes, o.volume())
		} else {
			inventory.Snapshots = append(inventory.Snapshots, o.snapshot())
		}
	}
	for name, err := range found.damaged {
		inventory.Damaged = append(inventory.Damaged, fmt.Sprintf("%s: %v; not served, left as it is", b.path(name), err))
		if id, err := backend.ParseVolumeID(name); err == nil {
			inventory.DamagedVolumes = append(inventory.DamagedVolumes, id)
		}
	}
	return inventory
}

// scan asks lvm about the pool and about every logical volume, by one command.
func (b *Backend) scan(ctx context.Context) ([]row, error) {
	both, err := report[struct {
		row
		poolRow
	}](ctx, b.runner, "lvs", "--options", rowFields+","+poolFields, b.group)
	if err != nil {
		return nil, b.pool.missing(err)
	}
	var rows []row
	var pools []poolRow
	for _, r := range both {
		rows = append(rows, r.row)
		if r.Name == b.thinPool {
			pools = append(pools, r.poolRow)
		}
	}
	return rows, b.pool.take(pools)
}

// contents are what lies in the pool.
type contents struct {
	objects  []object
	damaged  map[string]error // of ours, but not to be served, by name
	promises map[string]int64 // bytes that each may come to use, by name; see pool.load

	unfinished []string // names of those damaged that are objects
}

// sort tells our objects from what others keep in the volume group.
func (b *Backend) sort(rows []row) contents {
	found := contents{damaged: map[string]error{}, promises: map[string]int64{}}
	for _, r := range rows {
		if r.Pool != b.thinPool {
			continue
		}
		if !isOurs(r.tags()) {
			found.promises[r.Name] = r.Size
			continue
		}
		o, err := r.object()
		if err != nil {
			found.promises[r.Name] = r.Size
			found.damaged[r.Name] = err
			continue
		}
		found.promises[o.id] = min(o.size, o.promise()) // of one that is unfinished, so far
		found.objects = append(found.objects, o)
	}
	return found
}

// mend brings an object out of the state in which a killed command left it. One
// that is still smaller than it was to be is never removed, although nobody can
// have been told of it: an administrator may have shrunk it since.
func (b *Backend) mend(ctx context.Context, o object) (object, error) {
	if _, err := b.resume(ctx, o.id); err != nil || !o.unfinished() {
		return o, err
	}
	end, err := b.pool.admit(ctx, o.id, o.grow, 0)
	if err != nil {
		return o, err
	}
	o, err = b.extend(ctx, o, o.grow)
	end(err == nil)
	return o, err
}
