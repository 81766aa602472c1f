package lvm

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/dustin/go-humanize"

	"github.com/snapdriver/snapdriver/internal/dm"
	"github.com/snapdriver/snapdriver/pkg/backend"
)

// pool is the thin pool and the guard before it: it says what may still be
// made, before lvm is run. It asks the kernel how full the pool is, and starts
// a process only when its estimate of the volume group's metadata area says no.
type pool struct {
	runner      *runner
	group, name string
	limits      PoolLimits
	extentSize  int64 // of the volume group, bytes

	change    func(ctx context.Context, command string, arguments ...string) error // Backend.change
	stop      context.CancelFunc
	extending sync.WaitGroup // what start has begun

	mu        sync.Mutex       // never held across I/O
	promises  map[string]int64 // bytes that each volume in the pool may come to take, by name
	promised  int64            // their sum
	area      area
	groupFree int64 // bytes of the volume group that no LV has, when it was last asked
}

// newPool returns the guard of a pool, on which take and load must be called
// first. ErrInvalid when the limits are none.
func newPool(r *runner, group, name string, limits PoolLimits) (*pool, error) {
	limits = limits.withDefaults()
	return &pool{runner: r, group: group, name: name, limits: limits, change: r.change}, limits.validate()
}

// take takes over what lvm reports of the pool: no row if it is not there.
// ErrPrecondition when it is no pool that will do.
func (p *pool) take(rows []poolRow) error {
	if len(rows) != 1 {
		return p.missing(fmt.Errorf("there is no such logical volume"))
	}
	row := rows[0]
	switch {
	case row.Type != dm.ThinPoolTarget:
		return fmt.Errorf("%s is no thin pool, its type is %q: name another logical volume: %w", p, row.Type, backend.ErrPrecondition)
	case row.Zero != "zero":
		return fmt.Errorf("thin pool %s hands out blocks with what others wrote there: run lvchange --zero y %s: %w", p, p, backend.ErrPrecondition)
	}
	p.extentSize = row.ExtentSize
	p.mu.Lock()
	defer p.mu.Unlock()
	p.learn(p.area, row)
	return nil
}

// missing explains why the pool cannot be taken.
func (p *pool) missing(err error) error {
	return fmt.Errorf("look for the thin pool %s (snapdriver lvm init makes one): %w", p, err)
}

// explainWait adds to the error of who has waited for a command of lvm what that
// may be waiting for.
func (p *pool) explainWait(err error) error {
	for _, device := range p.devices() {
		if found, lookErr := dm.Lookup(device); lookErr == nil && found.Suspended {
			err = fmt.Errorf("%w; the pool's device %s is suspended, for which every command waits: run dmsetup resume %s", err, device, device)
		}
	}
	return err
}

// load makes the pool active, for else the kernel knows nothing of it. promises
// are the sizes of all volumes that lie in it, by name, also of those that are
// not ours.
//
// Snapshots do not count: nobody writes to them, so that what they will ever
// take is taken already. A volume may yet take its whole size.
func (p *pool) load(ctx context.Context, promises map[string]int64) error {
	p.mu.Lock()
	p.promises, p.promised = promises, 0
	for _, bytes := range promises {
		p.promised += bytes
	}
	p.mu.Unlock()
	if _, err := p.state(); !errors.Is(err, dm.ErrNotFound) {
		return err
	}
	if err := p.runner.change(ctx, "lvchange", "--activate", "y", "--ignoreactivationskip", p.String()); err != nil {
		return fmt.Errorf("activate thin pool %s: %w", p, err)
	}
	_, err := p.state()
	return err
}

// String returns the pool's name as lvm takes it.
func (p *pool) String() string { return p.group + "/" + p.name }

// devices are the names of the pool's devices, of which one or both are there.
func (p *pool) devices() []string {
	return []string{dm.PoolName(p.group, p.name), dm.Name(p.group, p.name)}
}

// poolState is what the kernel says of the pool.
type poolState struct {
	dm.ThinPool
	device string // the name of the pool's device
	size   int64  // bytes
}

// state asks the kernel. An error wraps dm.ErrNotFound when the pool is not
// active.
//
// LVM drives a pool through a device of its own once it has had a first
// volume, and before that through the one that has the pool's name.
func (p *pool) state() (poolState, error) {
	for range 2 { // for the second device may come while the first is looked at
		for _, name := range p.devices() {
			_, targets, err := dm.Status(name)
			switch {
			case errors.Is(err, dm.ErrNotFound):
			case err != nil:
				return poolState{}, err
			case len(targets) == 1 && targets[0].Type == dm.ThinPoolTarget:
				status, err := dm.ParseThinPool(targets[0].Status)
				return poolState{status, name, dm.Size(targets)}, err
			}
		}
	}
	return poolState{}, fmt.Errorf("thin pool %s is not active: run lvchange -ay %s: %w", p, p, dm.ErrNotFound)
}

// admit sets aside what an operation will take: so many bytes for the volume of
// that name to fill, those included that it had been promised before, and so
// many more logical volumes. ErrExhausted, with the figures and the remedy. Once
// the operation has ended, end must be called, with whether its effect is there.
func (p *pool) admit(ctx context.Context, name string, bytes int64, objects int) (end func(done bool), err error) {
	state, err := p.healthy()
	if err != nil {
		return nil, err
	}
	var before int64
	err = p.withRoom(ctx, objects, func() error {
		before = p.promises[name]
		if more, limit := bytes-before, p.limits.promises(state.size); more > 0 && more > limit-p.promised {
			return fmt.Errorf("thin pool %s: its volumes have %s, and %s more are above the limit of %s, which is %g times its size: ask for less, delete volumes, or extend the pool (lvextend --size): %w",
				p, size(p.promised), size(more), size(limit), p.limits.Overprovision, backend.ErrExhausted)
		}
		p.promise(name, bytes)
		p.area.admit(objects)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return func(done bool) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.area.settle(objects, done)
		if !done {
			p.promise(name, before)
		}
	}, nil
}

// promise notes how many bytes a volume may come to take; 0: it is not there, or
// a snapshot. p.mu is held.
func (p *pool) promise(name string, bytes int64) {
	p.promised += bytes - p.promises[name]
	if p.promises[name] = bytes; bytes == 0 {
		delete(p.promises, name)
	}
}

// removed forgets a volume that is now deleted.
func (p *pool) removed(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.promise(name, 0)
}

// available returns how large a volume admit would admit now.
func (p *pool) available(ctx context.Context) (room int64, err error) {
	state, err := p.healthy()
	if err == nil {
		err = p.withRoom(ctx, 1, func() error {
			room = max(p.limits.promises(state.size)-p.promised, 0)
			return nil
		})
	}
	if errors.Is(err, backend.ErrExhausted) {
		return 0, nil
	}
	return room - room%p.extentSize, err
}

// healthy returns the state of a pool that takes something new; otherwise
// ErrExhausted.
func (p *pool) healthy() (poolState, error) {
	state, err := p.state()
	if err != nil {
		return poolState{}, err
	}
	return state, p.limits.refusal(p, state)
}

// withRoom calls do, with p.mu held, if the metadata area has room for more
// logical volumes; otherwise ErrExhausted.
func (p *pool) withRoom(ctx context.Context, objects int, do func() error) error {
	for asked := false; ; asked = true {
		p.mu.Lock()
		if objects == 0 || p.area.fits(objects, p.limits.MetadataReserve) {
			defer p.mu.Unlock()
			return do()
		}
		free, all := p.area.free(), p.area.size
		p.mu.Unlock()
		if asked {
			return fmt.Errorf("volume group %s: %s of its metadata area of %s are free, and %s are kept for repairs: delete snapshots or volumes, or make a volume group with a larger area (pvcreate --metadatasize): %w",
				p.group, size(free), size(all), size(p.limits.MetadataReserve), backend.ErrExhausted)
		}
		if _, err := p.look(ctx); err != nil { // so far it was an estimate
			return err
		}
	}
}

// poolRow is what lvm reports of the pool and its volume group.
type poolRow struct {
	Type       string `json:"segtype"`
	Zero       string `json:"zero"`
	ExtentSize int64  `json:"vg_extent_size,string"`
	GroupFree  int64  `json:"vg_free,string"`
	AreaSize   int64  `json:"vg_mda_size,string"`
	AreaFree   int64  `json:"vg_mda_free,string"`
}

const poolFields = "segtype,zero,vg_extent_size,vg_free,vg_mda_size,vg_mda_free"

// look asks lvm, and sets the estimates right. Its output is one line, however
// many volumes there are.
func (p *pool) look(ctx context.Context) (poolRow, error) {
	p.mu.Lock()
	before := p.area
	p.mu.Unlock()
	rows, err := report[poolRow](ctx, p.runner, "lvs", "--options", poolFields, p.String())
	if err != nil {
		return poolRow{}, err
	}
	if len(rows) != 1 {
		return poolRow{}, fmt.Errorf("lvm reports %d logical volumes for %s", len(rows), p)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.learn(before, rows[0])
	return rows[0], nil
}

// learn sets the estimates right. before is what they were when lvm was asked.
// p.mu is held.
func (p *pool) learn(before area, row poolRow) {
	p.area.learn(before, row.AreaSize, row.AreaFree)
	p.groupFree = row.GroupFree
}

func size(bytes int64) string { return humanize.IBytes(uint64(max(bytes, 0))) }
