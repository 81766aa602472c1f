package lvm

import (
	"context"
	"errors"
	"fmt"

	"github.com/snapdriver/snapdriver/internal/dm"
)

// errUnsettled says that a command was cut off and that what it has left could
// not be put in order.
var errUnsettled = errors.New("a command was cut off, and what it has left stays for now")

// change runs an lvm command that makes, grows or removes a thin volume. When it
// fails, since somebody has killed it perhaps, what it has left is put in order,
// and it is run once more if that was something.
//
// One command runs at a time. They would wait for each other in lvm in any
// case; here the wait ends with ctx, and nobody makes a volume of what a removal
// has left before that has been looked at.
func (b *Backend) change(ctx context.Context, command string, arguments ...string) error {
	return b.changeWhen(ctx, command, func() []string { return arguments })
}

// changeWhen is change, with arguments that are made when it is the command's
// turn, since they tell the time.
func (b *Backend) changeWhen(ctx context.Context, command string, arguments func() []string) error {
	select {
	case b.turn <- struct{}{}:
		defer func() { <-b.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	for again := false; ; again = true {
		before, stateErr := b.pool.state()
		err := b.runner.change(ctx, command, arguments()...)
		if err == nil && (command == "lvextend" || stateErr != nil || b.hasCounted(before)) {
			return nil
		}
		if err != nil && errors.Is(err, ctx.Err()) {
			return err // it was not begun
		}
		// Also when nobody waits any more: a device may be suspended.
		settled, settleErr := b.settleWhole(context.WithoutCancel(ctx))
		if settleErr != nil {
			return errors.Join(err, fmt.Errorf("%w: %w", errUnsettled, settleErr))
		}
		if err == nil || !settled || again {
			return err
		}
	}
}

// hasCounted says whether the kernel has counted a transaction of the pool since
// then. A removal that it has not counted, it has not been told of.
func (b *Backend) hasCounted(before poolState) bool {
	now, err := b.pool.state()
	return err != nil || now.TransactionID != before.TransactionID
}

// settleWhole puts in order whatever a command that was killed may have left,
// while the driver runs, and says whether there was anything.
func (b *Backend) settleWhole(ctx context.Context) (done bool, err error) {
	resumed, err := b.resumePool(ctx)
	if err != nil {
		return false, err
	}
	for _, id := range b.index.ids() {
		this, err := b.resume(ctx, b.device(id), id)
		if err != nil {
			return false, err
		}
		resumed = resumed || this
	}
	if agree, err := b.agree(ctx); err != nil || agree {
		return resumed, err
	}
	rows, err := report[row](ctx, b.runner, "lvs", "--options", rowFields, b.group)
	if err != nil {
		return false, err
	}
	// Whoever asked for what was being made has got an error. It stays in the
	// volume group: the next command makes it, and the repeated request decides.
	_, done, err = b.settle(ctx, rows)
	return done || resumed, err
}

// resumePool resumes the pool's devices. With them suspended, every other
// command would wait.
func (b *Backend) resumePool(ctx context.Context) (done bool, err error) {
	for _, name := range []string{dm.PoolName(b.group, b.thinPool), dm.Name(b.group, b.thinPool)} {
		this, err := b.resume(ctx, name, b.thinPool)
		if err != nil {
			return false, err
		}
		done = done || this
	}
	return done, nil
}

// resume lets requests through to a device again, if a command was killed
// between suspending and resuming it.
func (b *Backend) resume(ctx context.Context, device, name string) (done bool, err error) {
	found, err := dm.Lookup(device)
	if errors.Is(err, dm.ErrNotFound) || err == nil && !found.Suspended {
		return false, nil
	}
	if err == nil {
		err = b.runner.change(ctx, "lvchange", "--refresh", b.path(name))
	}
	return true, err
}
