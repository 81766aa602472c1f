package lvm

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/snapdriver/snapdriver/internal/dm"
)

// errUnsettled says that a command was cut off and that what it has left could
// not be put in order.
var errUnsettled = errors.New("a command was cut off, and what it has left stays for now")

// errUncounted says that lvm has made a logical volume, and the pool does not know
// of it.
var errUncounted = errors.New("lvm says that it is made, and the kernel has not made it")

// change runs an lvm command that makes, grows or removes a thin volume, or
// suspends a device. When it fails, since somebody has killed it perhaps, what it
// has left is put in order, and it is run once more if that was something.
//
// One command runs at a time. They would wait for each other in lvm in any
// case; here the wait ends with ctx, and nobody makes a volume of what a removal
// has left before that has been looked at.
func (b *Backend) change(ctx context.Context, command string, arguments ...string) error {
	return b.changeWhen(ctx, command, func() ([]string, error) { return arguments, nil })
}

// changeWhen is change, with arguments that are made when it is the command's
// turn, since they tell the time, or something has to be seen to just before.
func (b *Backend) changeWhen(ctx context.Context, command string, prepare func() ([]string, error)) error {
	select {
	case b.turn <- struct{}{}:
		defer func() { <-b.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := b.clearWay(ctx, command); err != nil {
		return err
	}
	for again := false; ; again = true {
		arguments, err := prepare()
		if err != nil {
			return err
		}
		before, stateErr := b.pool.state()
		err = b.runner.change(ctx, command, arguments...)
		done := err == nil && (!isTransaction(command) || stateErr != nil || b.hasCounted(before))
		if done || err != nil && errors.Is(err, ctx.Err()) { // which it looks at before it begins
			return err
		}
		// Also when nobody waits any more: a device may be suspended.
		settled, settleErr := b.settleWhole(context.WithoutCancel(ctx))
		switch {
		case settleErr != nil:
			return errors.Join(err, fmt.Errorf("%w: %w", errUnsettled, settleErr))
		case err == nil && command == creating:
			return errUncounted
		case err == nil || !settled || again:
			return err // what a removal has not told the kernel, settleWhole has
		}
	}
}

// creating is the command that makes a thin volume.
const creating = "lvcreate"

// isTransaction says whether a command is a transaction of the pool.
func isTransaction(command string) bool { return command == creating || command == "lvremove" }

// clearWay sees to what would be in a command's way. With the pool suspended, lvm
// waits for ever. And a new volume would get what an earlier command has left, if
// that has not been put in order yet.
func (b *Backend) clearWay(ctx context.Context, command string) error {
	if _, err := b.pool.resume(ctx); err != nil {
		return err
	}
	if command != creating || !b.unsettled {
		return nil
	}
	if _, err := b.settleWhole(ctx); err != nil {
		return fmt.Errorf("%w: %w", errUnsettled, err)
	}
	return nil
}

// hasCounted says whether the kernel has counted a transaction of the pool since
// then. A removal that it has not counted, it has not been told of.
func (b *Backend) hasCounted(before poolState) bool {
	now, err := b.pool.state()
	return err != nil || now.TransactionID != before.TransactionID
}

// settleWhole puts in order whatever a command that was killed may have left,
// while the driver runs, and says whether there was anything. Whoever has the
// turn calls it.
func (b *Backend) settleWhole(ctx context.Context) (done bool, err error) {
	b.unsettled = true
	done, err = b.pool.resume(ctx)
	if err != nil {
		return false, err
	}
	for _, id := range b.index.ids() {
		this, err := b.resume(ctx, id)
		if err != nil {
			return false, err
		}
		done = done || this
	}
	if agree, err := b.agree(ctx); err != nil || agree {
		b.unsettled = err != nil
		return done, err
	}
	for {
		rows, err := report[row](ctx, b.runner, "lvs", "--options", rowFields, b.group)
		if err != nil {
			return false, err
		}
		s, err := b.settle(ctx, rows)
		if err != nil {
			return false, err
		}
		removed, err := b.removeCutOff(ctx, rows, s.cutOff)
		b.unsettled = b.unsettled || err != nil
		if done = done || s.done || removed; err != nil || !removed {
			return done, err
		}
	}
}

// removeCutOff removes those logical volumes of these names that are ours. Whoever
// asked for one of them gets an error. The next command would make it, at another
// time, and of a volume that it has not suspended.
func (b *Backend) removeCutOff(ctx context.Context, rows []row, names []string) (removed bool, err error) {
	for _, r := range rows {
		if !slices.Contains(names, r.Name) || !isOurs(r.tags()) {
			continue
		}
		if err := b.runner.change(ctx, "lvremove", b.discarding(r.Name)...); err != nil {
			return removed, err
		}
		removed = true
	}
	return removed, nil
}

// resume lets requests through to an object's device again, if a command was
// killed between suspending and resuming it.
func (b *Backend) resume(ctx context.Context, id string) (done bool, err error) {
	return b.runner.resume(ctx, b.device(id), b.path(id))
}

// resume is Backend.resume for the pool's devices. With them suspended, every
// other command would wait.
func (p *pool) resume(ctx context.Context) (done bool, err error) {
	for _, device := range p.devices() {
		this, err := p.runner.resume(ctx, device, p.String())
		if err != nil {
			return false, err
		}
		done = done || this
	}
	return done, nil
}

// resume resumes a device, if it is suspended, by what lvm knows of the logical
// volume. The table that a killed command has loaded may never have come into
// force; lvm loads the right one.
func (r *runner) resume(ctx context.Context, device, logicalVolume string) (done bool, err error) {
	found, err := dm.Lookup(device)
	if errors.Is(err, dm.ErrNotFound) || err == nil && !found.Suspended {
		return false, nil
	}
	if err == nil {
		err = r.change(ctx, "lvchange", "--refresh", logicalVolume)
	}
	return true, err
}
