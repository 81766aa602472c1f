package lvm

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/snapdriver/snapdriver/internal/dm"
	"github.com/snapdriver/snapdriver/pkg/backend"
)

// Options are what Open needs to know.
type Options struct {
	// VolumeGroup and ThinPool name the thin pool to use, which exists.
	VolumeGroup, ThinPool string

	// LoopFile is the path of a file that holds the volume group. It is bound to
	// a loop device if it is not, as after a reboot. Empty: there is none.
	LoopFile string

	// LockDir is a directory for lock files that every driver on the node
	// sees; empty: DefaultLockDir.
	LockDir string

	// Limits say when the pool counts as full.
	Limits PoolLimits

	// Step is called before each command that changes something, by tests.
	Step backend.StepFunc
}

// Backend serves one thin pool; it implements backend.Backend.
type Backend struct {
	group, thinPool string
	lockDir         string
	locks           locks
	runner          *runner
	pool            *pool
	index           index
	busy            busy
	turn            chan struct{} // see change
	unsettled       bool          // a command may have left something; whoever has the turn has this
}

var _ backend.Backend = (*Backend)(nil)

// Open takes a thin pool for this process. While another process has it, Open
// fails. The pool is looked at by Recover.
func Open(options Options) (*Backend, error) {
	b, err := open(options)
	if err != nil {
		return nil, fmt.Errorf("open thin pool %s/%s: %w", options.VolumeGroup, options.ThinPool, err)
	}
	return b, nil
}

func open(options Options) (*Backend, error) {
	if err := CheckSupport(); err != nil {
		return nil, err
	}
	if err := checkNames(options.VolumeGroup, options.ThinPool); err != nil {
		return nil, err
	}
	if options.LockDir == "" {
		options.LockDir = DefaultLockDir
	}
	locks, err := takeLocks(options.LockDir, dm.Name(options.VolumeGroup, options.ThinPool))
	if err != nil {
		return nil, err
	}
	b := &Backend{
		group: options.VolumeGroup, thinPool: options.ThinPool, lockDir: options.LockDir, locks: locks, turn: make(chan struct{}, 1),
		runner: &runner{
			held: locks.commands, step: options.Step,
			device: dm.Path(dm.PoolName(options.VolumeGroup, options.ThinPool)),
		},
	}
	b.pool, err = newPool(b.runner, b.group, b.thinPool, options.Limits)
	b.pool.change = b.change // what is killed and leaves the pool suspended is resumed
	if err == nil && options.LoopFile != "" {
		_, err = attachLoop(options.LoopFile)
	}
	if err != nil {
		return nil, errors.Join(err, locks.free())
	}
	return b, nil
}

// lvmName is what lvm takes for a name. Nothing that begins with a hyphen ever
// stands where an option could.
var lvmName = regexp.MustCompile(`^[a-zA-Z0-9+_.][a-zA-Z0-9+_.-]*$`)

func checkNames(names ...string) error {
	for _, name := range names {
		if !lvmName.MatchString(name) {
			return fmt.Errorf("%q is no name for a volume group or a pool (lvm(8), valid names): %w", name, backend.ErrInvalid)
		}
	}
	return nil
}

// Close implements backend.Backend.
func (b *Backend) Close() error {
	b.pool.close()
	return b.locks.free()
}

// Limits implements backend.Backend.
func (b *Backend) Limits(profile backend.Profile) (backend.Limits, error) {
	fsType, err := newFilesystem(profile)
	if err != nil {
		return backend.Limits{}, err
	}
	return limitsOf(fsType, b.pool.extentSize), nil
}

// Available implements backend.Backend.
func (b *Backend) Available(ctx context.Context, profile backend.Profile) (int64, error) {
	limits, err := b.Limits(profile)
	if err != nil {
		return 0, err
	}
	available, err := b.pool.available(ctx)
	return min(available, limits.Max), err
}

// find returns the object of that ID. lvm is asked about one that is not known
// here, and only about that one. ErrNotFound also of one that is not served.
func (b *Backend) find(ctx context.Context, id string) (object, error) {
	o, found := b.index.get(id)
	if found {
		return o, nil
	}
	o, err := b.look(ctx, id)
	switch {
	case err == nil && b.index.reason(id) == nil: // of what is not served, that stays
		b.index.put(o)
	case errors.Is(err, errNotOurs):
		err = fmt.Errorf("%w: %w", err, backend.ErrNotFound)
	}
	return o, err
}

// errNotOurs says that a logical volume has the name of an object and is none
// that this program may touch.
var errNotOurs = errors.New("not an object of this driver")

// look asks lvm about one object: ErrNotFound, errNotOurs.
func (b *Backend) look(ctx context.Context, id string) (object, error) {
	_, o, err := b.lookRow(ctx, id)
	return o, err
}

// lookRow is look, and also returns what lvm has said.
func (b *Backend) lookRow(ctx context.Context, id string) (row, object, error) {
	rows, err := report[row](ctx, b.runner, "lvs", "--options", rowFields, "--select", "lv_name="+id, b.group)
	if err != nil {
		return row{}, object{}, err
	}
	if len(rows) == 0 {
		return row{}, object{}, fmt.Errorf("%s: %w", id, backend.ErrNotFound)
	}
	if rows[0].Pool != b.thinPool || !isOurs(rows[0].tags()) {
		return row{}, object{}, fmt.Errorf("%s is a logical volume without our tags, or in another pool: %w", b.path(id), errNotOurs)
	}
	o, err := rows[0].object()
	if err != nil {
		return row{}, object{}, fmt.Errorf("%s: %w: %w", b.path(id), err, errNotOurs)
	}
	return rows[0], o, nil
}

// path returns the name of a logical volume as lvm takes it.
func (b *Backend) path(name string) string { return b.group + "/" + name }

// device returns the name of an object's device.
func (b *Backend) device(id string) string { return dm.Name(b.group, id) }

// status asks the kernel about an object's device: dm.ErrNotFound also of one
// that lvm has only begun to make, and that cannot be read.
func (b *Backend) status(id string) (dm.Device, []dm.Target, error) {
	device, targets, err := dm.Status(b.device(id))
	if err == nil && !device.Active {
		err = dm.ErrNotFound
	}
	return device, targets, err
}

// now returns the time as tags keep it.
func now() time.Time { return time.Now().UTC().Round(0) }
