package lvm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"

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
//   - The volume that a copy was to be made of was suspended before lvm came to
//     it: lvm says that the copy is made, and has told the kernel nothing.
//
// So, at the start and after a command has failed, the kernel's devices are
// compared with the logical volumes, and what none of them accounts for is
// deleted; when all agree, the kernel is told to count. After a failure the devices
// are first counted here, for most failures have another reason.

// disagreement is where the kernel and the volume group differ.
type disagreement struct {
	// orphans are the IDs of devices that lvm has made and that no logical
	// volume has.
	orphans []uint64

	// uncounted are the IDs of devices that the kernel has not counted yet, by
	// the names of their logical volumes; absent are those names of which the
	// kernel has no device.
	uncounted map[string]uint64
	absent    []string

	// behind is how many transactions the volume group has, and the kernel has
	// not counted.
	behind uint64

	// unknown says that the pool cannot be changed now, so that it was not
	// looked at.
	unknown bool
}

func (d disagreement) none() bool { return len(d.orphans) == 0 && d.behind == 0 }

// compare compares the kernel's devices with the logical volumes. The pool is
// active.
func (b *Backend) compare(rows []row) (disagreement, error) {
	state, err := b.pool.state()
	if err != nil || state.Mode != dm.ReadWrite && state.Mode != dm.OutOfDataSpace {
		return disagreement{unknown: true}, err
	}
	devices, err := thinmeta.Devices(dm.Path(dm.Name(b.group, b.thinPool+"_tmeta")))
	if err != nil {
		return disagreement{}, err
	}
	made := map[uint64]bool{}
	for _, device := range devices {
		made[device.ID] = true
	}
	found := disagreement{uncounted: map[string]uint64{}}
	known, recorded := map[uint64]bool{}, uint64(0)
	for _, r := range rows {
		switch {
		case r.Name == b.thinPool:
			recorded = uint64(r.Transaction)
		case r.Pool == b.thinPool:
			known[uint64(r.Device)] = true
			if r.counted(state) {
				continue
			}
			found.uncounted[r.Name] = uint64(r.Device)
			if !made[uint64(r.Device)] {
				found.absent = append(found.absent, r.Name)
			}
		}
	}
	if recorded < state.TransactionID {
		return disagreement{}, nil // the volume group is an older one: lvm says so, and changes nothing
	}
	found.behind = recorded - state.TransactionID
	if state.TransactionID > 0 {
		found.orphans = orphans(devices, known)
	}
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

// settlement is what settle has done, and has found.
type settlement struct {
	// cutOff are the names of logical volumes, whoever's they are, that were
	// being made when a command was cut off. Nobody was told of these, nor can
	// have used them: lvm does not activate them before the kernel has counted.
	cutOff []string

	// absent are the names of those that lvm takes for made, and the kernel does
	// not have: its metadata are older ones, perhaps.
	absent []string

	done bool // there was anything to do
}

// settle makes the kernel's devices agree with the logical volumes, which were
// reported before. What is deleted is decided while no lvm command can run.
func (b *Backend) settle(ctx context.Context, rows []row) (settlement, error) {
	b.unsettled = true
	if found, err := b.compare(rows); err != nil || found.none() {
		b.unsettled = err != nil || found.unknown
		return settlement{}, err
	}
	unlock, err := b.lockGroup(ctx)
	if err != nil {
		return settlement{}, err
	}
	defer unlock()
	rows, err = report[row](ctx, b.runner, "lvs", "--readonly", "--all", "--options", rowFields, b.group)
	if err != nil {
		return settlement{}, err
	}
	found, err := b.compare(rows)
	if err != nil {
		return settlement{}, err
	}
	var messages groupMessages
	if found.behind > 0 {
		if messages, err = b.messages(ctx); err != nil {
			return settlement{}, err
		}
	}
	var s settlement
	doomed := found.orphans
	for name, id := range found.uncounted {
		if slices.Contains(messages.creations, name) {
			s.cutOff = append(s.cutOff, name)
			doomed = append(doomed, id)
		} else if slices.Contains(found.absent, name) {
			s.absent = append(s.absent, name)
		}
	}
	if found.behind == 1 && len(s.absent) == 1 { // the last one that was made
		s.cutOff, s.absent = append(s.cutOff, s.absent...), nil
	}
	for _, id := range doomed {
		if err := b.deleteDevice(id); err != nil {
			return settlement{}, err
		}
	}
	s.done = len(doomed) > 0
	empty := found.behind
	if messages.any {
		empty-- // the last one is lvm's next command's to finish
	}
	if empty > 0 && len(found.uncounted) == 0 {
		if err := b.count(empty); err != nil {
			return settlement{}, err
		}
		s.done = true
	}
	b.unsettled = found.unknown
	return s, nil
}

// groupMessages are what the volume group has yet to tell the kernel.
type groupMessages struct {
	any       bool
	creations []string // names of logical volumes
}

// message is one that stands in the volume group until it was sent; creation is
// one that makes a logical volume.
var (
	message  = regexp.MustCompile(`message\d+ \{`)
	creation = regexp.MustCompile(`message\d+ \{\s*create = "([^"]+)"\s*\}`)
)

// messages reads them. The lock on the volume group is held.
func (b *Backend) messages(ctx context.Context) (found groupMessages, err error) {
	dir, err := os.MkdirTemp(b.lockDir, "settle-")
	if err != nil {
		return found, err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "group")
	if _, err := b.runner.ask(ctx, "vgcfgbackup", "--readonly", "--file", file, b.group); err != nil {
		return found, err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return found, err
	}
	found.any = message.Match(text)
	for _, match := range creation.FindAllSubmatch(text, -1) {
		found.creations = append(found.creations, string(match[1]))
	}
	return found, nil
}

// count has the kernel count transactions in which nothing is left to be done: lvm
// makes nothing in a pool that is more than one behind.
func (b *Backend) count(transactions uint64) error {
	state, err := b.pool.state()
	if err != nil {
		return err
	}
	text := fmt.Sprintf("set_transaction_id %d %d", state.TransactionID, state.TransactionID+transactions)
	b.runner.step.At(text)
	if err := dm.Message(state.device, text); err != nil {
		return err
	}
	klog.InfoS("Had the thin pool count transactions that a command has not told it of", "pool", b.pool.String(), "transactions", transactions)
	return nil
}

// deleteDevice deletes a device from the pool. One that is in use stays: then
// it has been activated without lvm.
func (b *Backend) deleteDevice(id uint64) error {
	state, err := b.pool.state()
	if err != nil {
		return err
	}
	text := fmt.Sprintf("delete %d", id)
	b.runner.step.At(text)
	err = dm.Message(state.device, text)
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
