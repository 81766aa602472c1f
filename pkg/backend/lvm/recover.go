package lvm

import (
	"context"
	"errors"
	"fmt"

	"github.com/snapdriver/snapdriver/internal/dm"
	"github.com/snapdriver/snapdriver/pkg/backend"
)

// Recover implements backend.Backend. What a process before this one was doing
// when it was killed has ended by then.
func (b *Backend) Recover(ctx context.Context) (backend.Inventory, error) {
	if err := b.locks.awaitOrphans(ctx, orphanLimit); err != nil {
		return backend.Inventory{}, err
	}
	// The pool first: with it suspended, every other command would wait.
	for _, name := range []string{dm.PoolName(b.group, b.thinPool), dm.Name(b.group, b.thinPool)} {
		if err := b.resume(ctx, name, b.thinPool); err != nil {
			return backend.Inventory{}, err
		}
	}
	if err := b.pool.find(ctx); err != nil {
		return backend.Inventory{}, err
	}
	rows, err := report[row](ctx, b.runner, "lvs", "--options", rowFields, b.group)
	if err != nil {
		return backend.Inventory{}, err
	}
	found := b.sort(rows)
	if err := b.pool.load(ctx, found.promised); err != nil {
		return backend.Inventory{}, err
	}
	interrupted, err := b.interrupted(rows)
	if err != nil {
		return backend.Inventory{}, err
	}
	var inventory backend.Inventory
	var served []object
	for _, o := range found.objects {
		if deviceID, cutOff := interrupted[o.id]; cutOff {
			if err := b.discard(ctx, o, deviceID); err != nil {
				return backend.Inventory{}, err
			}
			continue
		}
		whole, err := b.mend(ctx, o)
		switch {
		case ctx.Err() != nil:
			return backend.Inventory{}, ctx.Err()
		case err != nil:
			found.damaged[o.id] = err
		case whole.kind == kindVolume:
			served = append(served, whole)
			inventory.Volumes = append(inventory.Volumes, whole.volume())
		default:
			served = append(served, whole)
			inventory.Snapshots = append(inventory.Snapshots, whole.snapshot())
		}
	}
	for name, err := range found.damaged {
		inventory.Damaged = append(inventory.Damaged, fmt.Sprintf("%s: %v; not served, left as it is", b.path(name), err))
		if id, err := backend.ParseVolumeID(name); err == nil {
			inventory.DamagedVolumes = append(inventory.DamagedVolumes, id)
		}
	}
	b.index.fill(served, found.damaged)
	b.pool.start()
	return inventory, nil
}

// scan is what lies in the pool.
type scan struct {
	objects  []object
	damaged  map[string]error // of ours, but not to be served, by name
	promised int64            // bytes that may come to be used; see pool.load
}

// sort tells our objects from what others keep in the volume group.
func (b *Backend) sort(rows []row) scan {
	found := scan{damaged: map[string]error{}}
	for _, r := range rows {
		if r.Pool != b.thinPool {
			continue
		}
		if !isOurs(r.tags()) {
			found.promised += r.Size
			continue
		}
		o, err := r.object()
		if err != nil {
			found.promised += r.Size
			found.damaged[r.Name] = err
			continue
		}
		if o.kind == kindVolume {
			found.promised += r.Size
		}
		found.objects = append(found.objects, o)
	}
	return found
}

// mend brings an object out of the state in which a killed command left it. One
// that is still smaller than it was to be is never removed, although nobody can
// have been told of it: an administrator may have shrunk it since.
func (b *Backend) mend(ctx context.Context, o object) (object, error) {
	if err := b.resume(ctx, b.device(o.id), o.id); err != nil || !o.unfinished() {
		return o, err
	}
	settled, err := b.pool.admit(ctx, o.grow-o.size, 0)
	if err != nil {
		return o, err
	}
	o, err = b.extend(ctx, o, o.grow)
	settled(err == nil)
	return o, err
}

// resume lets requests through to a device again, if a command was killed
// between suspending and resuming it.
func (b *Backend) resume(ctx context.Context, device, name string) error {
	found, err := dm.Lookup(device)
	if errors.Is(err, dm.ErrNotFound) || err == nil && !found.Suspended {
		return nil
	}
	if err != nil {
		return err
	}
	return b.runner.change(ctx, "lvchange", "--refresh", b.path(name))
}
