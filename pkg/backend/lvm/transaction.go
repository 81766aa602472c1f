package lvm

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/snapdriver/snapdriver/internal/dm"
)

// An lvm command that changes a thin pool first writes into the volume group
// what the kernel is to do, with the number of the pool's next transaction, then
// tells the kernel to do it, and then to count. A power cut, or a kill of lvm,
// before the kernel has counted leaves the volume group one ahead of it. lvm
// repeats the messages with its next command, unless the kernel has made a
// device already: then this command fails, and so does every later one, for
// volumes that have nothing to do with it.

// interrupted returns the device IDs of the thin volumes that a command was
// making when it was cut off, by name. Nobody was told of them, and nobody can
// have used them: lvm does not activate them. The pool is active.
func (b *Backend) interrupted(rows []row) (map[string]string, error) {
	state, err := b.pool.state()
	if err != nil {
		return nil, err
	}
	kernel, recorded := strconv.FormatUint(state.TransactionID, 10), strconv.FormatUint(state.TransactionID+1, 10)
	ids, ahead := map[string]string{}, false
	for _, r := range rows {
		ahead = ahead || r.Name == b.thinPool && r.Transaction == recorded
		if r.Pool == b.thinPool && r.Transaction == kernel {
			ids[r.Name] = r.Device
		}
	}
	if !ahead {
		return nil, nil
	}
	return ids, nil
}

// discard removes what was interrupted: from the kernel, where it is in the way
// of the messages that lvm then repeats, and from the volume group.
func (b *Backend) discard(ctx context.Context, o object, deviceID string) error {
	err := b.runner.write(ctx, "dmsetup", "message", dm.PoolName(b.group, b.thinPool), "0", "delete "+deviceID)
	if failed := (*commandError)(nil); errors.As(err, &failed) && strings.Contains(failed.stderr, "No data available") {
		err = nil // ENODATA: the kernel had not made it yet
	}
	if err == nil {
		err = b.remove(ctx, o)
	}
	if err != nil {
		return fmt.Errorf("finish what was interrupted: %w", err)
	}
	b.pool.removed(o.promise())
	return nil
}
