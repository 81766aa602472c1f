package lvm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/snapdriver/snapdriver/internal/dm"
	"github.com/snapdriver/snapdriver/internal/thinmeta"
)

// A transaction of lvm on a thin pool takes four steps. lvm writes into the
// volume group what is to be, with a message for the kernel and the number of
// the pool's next transaction; sends the message, which makes the device or
// deletes it; tells the kernel to count the transaction; and takes the message
// out of the volume group. A power cut, or a kill of lvm, in between is mostly
// made good by lvm's next command, but not always:
//
//   - The kernel has made a snapshot's device and not counted: lvm makes it once
//     more, fails, and so does every later command, for volumes that have
//     nothing to do with it.
//   - The kernel has counted and the message is still there: if the next command
//     is a removal, lvm takes its message for as old as the other one and does not
//     send it. The device of what was removed stays, with its data and the space
//     that they take, and under the ID that lvm gives to the next volume. That one
//     has the data then; if it is a snapshot, it cannot be made.
//   - lvm has undone a creation of which the kernel has its part already, or
//     what the volume group said was lost, on a disk of its own.
//
// So, at the start and after a command has failed, the kernel's devices are
// compared with the logical volumes, and what none of them accounts for is
// deleted. After a failure they are first counted, for most have another reason.

// disagreement is where the kernel and the volume group differ.
type disagreement struct {
	// orphans are the IDs of devices that lvm has made and that no logical
	// volume has.
	orphans []uint64

	// uncounted are the IDs of devices that the kernel has not counted yet, by
	// the names of their logical volumes; it may have made them or not.
	uncounted map[string]uint64
}

func (d disagreement) none() bool { return len(d.orphans)+len(d.uncounted) == 0 }

// compare compares the kernel's devices with the logical volumes. The pool is
// active.
func (b *Backend) compare(rows []row) (disagreement, error) {
	state, err := b.pool.state()
	if err != nil || state.Mode != dm.ReadWrite && state.Mode != dm.OutOfDataSpace {
		return disagreement{}, err // nothing can be changed now
	}
	devices, err := thinmeta.Devices(dm.Path(dm.Name(b.group, b.thinPool+"_tmeta")))
	if err != nil {
		return disagreement{}, err
	}
	known, uncounted, recorded := map[uint64]bool{}, map[string]uint64{}, uint64(0)
	for _, r := range rows {
		switch {
		case r.Name == b.thinPool:
			recorded = uint64(r.Transaction)
		case r.Pool == b.thinPool:
			known[uint64(r.Device)] = true
			if r.counted(state) {
				continue
			}
			uncounted[r.Name] = uint64(r.Device)
		}
	}
	var found disagreement
	switch recorded {
	case state.TransactionID + 1:
		found.uncounted = uncounted
		fallthrough
	case state.TransactionID:
		if state.TransactionID > 0 {
			found.orphans = orphans(devices, known)
		}
	} // otherwise they are of different times: lvm says so, and changes nothing
	return found, nil
}

// agree says whether kernel and volume group have the same transaction, and as
// many devices: then there is nothing to settle. lvm prints one line for it, and
// not one for each logical volume, as for compare.
func (b *Backend) agree(ctx context.Context) (bool, error) {
	state, err := b.pool.state()
	if err != nil {
		return false, err
	}
	pools, err := report[struct {
		Transaction number `json:"transaction_id"`
		Devices     number `json:"thin_count"`
	}](ctx, b.runner, "lvs", "--options", "transaction_id,thin_count", b.pool.String())
	if err != nil || len(pools) != 1 {
		return false, err
	}
	devices, err := thinmeta.Devices(dm.Path(dm.Name(b.group, b.thinPool+"_tmeta")))
	return err == nil && uint64(pools[0].Transaction) == state.TransactionID && int(pools[0].Devices) == len(devices), err
}

// orphans returns the devices that lvm has made and does not know. lvm makes one
// device in a transaction. Those of which several were made in one are another
// program's, which uses the pool without lvm and its transactions. (A single one
// of such a program's cannot be told from lvm's: docs/lvm.md warns of it.)
func orphans(devices []thinmeta.Device, known map[uint64]bool) (orphans []uint64) {
	made := map[uint64]int{}
	for _, device := range devices {
		made[device.Transaction]++
	}
	for _, device := range devices {
		switch {
		case known[device.ID]:
		case made[device.Transaction] == 1:
			orphans = append(orphans, device.ID)
		default:
			klog.InfoS("A device of the thin pool is no logical volume, nor was it made by lvm; it stays", "device", device.ID)
		}
	}
	return orphans
}

// settle makes the kernel's devices agree with the logical volumes, which were
// reported before. It returns the names of those, whoever's they are, that were
// being made when a command was cut off, and says whether there was anything to
// do. Nobody was told of these, nor can have used them: lvm does not activate
// them before the kernel has counted.
//
// What is deleted is decided while no lvm command can run.
func (b *Backend) settle(ctx context.Context, rows []row) (cutOff []string, done bool, err error) {
	if found, err := b.compare(rows); err != nil || found.none() {
		return nil, false, err
	}
	unlock, err := b.lockGroup(ctx)
	if err != nil {
		return nil, false, err
	}
	defer unlock()
	rows, err = report[row](ctx, b.runner, "lvs", "--readonly", "--all", "--options", rowFields, b.group)
	if err != nil {
		return nil, false, err
	}
	found, err := b.compare(rows)
	if err != nil {
		return nil, false, err
	}
	if cutOff, err = b.creationsCutOff(ctx, found.uncounted); err != nil {
		return nil, false, err
	}
	doomed := found.orphans
	for _, name := range cutOff {
		doomed = append(doomed, found.uncounted[name])
	}
	for _, id := range doomed {
		if err := b.deleteDevice(id); err != nil {
			return nil, false, err
		}
	}
	return cutOff, len(doomed) > 0, nil
}

// creation is a message that stands in the volume group until it was sent.
var creation = regexp.MustCompile(`message\d+ \{\s*create = "([^"]+)"\s*\}`)

// creationsCutOff returns those names that the volume group wants to be made
// yet. The lock on it is held.
func (b *Backend) creationsCutOff(ctx context.Context, names map[string]uint64) (cutOff []string, err error) {
	if len(names) == 0 {
		return nil, nil
	}
	dir, err := os.MkdirTemp(b.lockDir, "settle-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "group")
	if _, err := b.runner.ask(ctx, "vgcfgbackup", "--readonly", "--file", file, b.group); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	for _, message := range creation.FindAllSubmatch(text, -1) {
		name := string(message[1])
		if _, uncounted := names[name]; uncounted {
			cutOff = append(cutOff, name)
		}
	}
	return cutOff, nil
}

// deleteDevice deletes a device from the pool. One that is in use stays: then
// it has been activated without lvm.
func (b *Backend) deleteDevice(id uint64) error {
	state, err := b.pool.state()
	if err != nil {
		return err
	}
	message := fmt.Sprintf("delete %d", id)
	b.runner.step.At(message)
	err = dm.Message(state.device, message)
	switch {
	case errors.Is(err, unix.ENODATA): // the kernel had not made it yet
		return nil
	case errors.Is(err, unix.EBUSY):
		klog.ErrorS(err, "A device of the thin pool is no logical volume, and in use; it stays")
		return nil
	case err == nil:
		klog.InfoS("Deleted a device that a command which was cut off has left in the thin pool", "pool", b.pool.String(), "device", id)
	}
	return err
}
