package lvm_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/snapdriver/snapdriver/internal/dm"
	"github.com/snapdriver/snapdriver/internal/testenv"
	"github.com/snapdriver/snapdriver/internal/thinmeta"
	"github.com/snapdriver/snapdriver/pkg/backend"
)

// rewrite changes the text of the volume group, as if lvm had been cut off.
func (f *fixture) rewrite(oldnew ...string) {
	f.Helper()
	record := filepath.Join(f.TempDir(), "group")
	f.at.LVM(f, "vgcfgbackup", "--file", record, f.at.Group)
	text, err := os.ReadFile(record)
	if err != nil {
		f.Fatal(err)
	}
	changed := strings.NewReplacer(oldnew...).Replace(string(text))
	if err := os.WriteFile(record, []byte(changed), 0o600); err != nil {
		f.Fatal(err)
	}
	f.at.LVM(f, "vgcfgrestore", "--force", "--file", record, f.at.Group)
}

// cutOffCreation puts the volume group where it is while lvm makes an object,
// the last one that was made: the kernel has made it and is about to count.
func (f *fixture) cutOffCreation(id interface{ String() string }) {
	f.Helper()
	counted := f.transaction()
	f.rewrite(
		fmt.Sprintf("transaction_id = %d\n", counted), fmt.Sprintf("transaction_id = %d\nmessage1 {\ncreate = %q\n}\n", counted+1, id),
		fmt.Sprintf("transaction_id = %d\n", counted-1), fmt.Sprintf("transaction_id = %d\n", counted),
	)
}

// staleMessage puts the volume group where it is when the kernel has counted,
// and lvm was cut off before it took note of that.
func (f *fixture) staleMessage(message string) {
	f.Helper()
	transaction := fmt.Sprintf("transaction_id = %d\n", f.transaction())
	f.rewrite(transaction, transaction+"message1 {\n"+message+"\n}\n")
}

// transaction is the last one that the kernel has counted.
func (f *fixture) transaction() uint64 {
	f.Helper()
	_, targets, err := dm.Status(dm.PoolName(f.at.Group, f.at.Name))
	if err != nil {
		f.Fatal(err)
	}
	pool, err := dm.ParseThinPool(targets[0].Status)
	if err != nil {
		f.Fatal(err)
	}
	return pool.TransactionID
}

func (f *fixture) message(format string, args ...any) {
	f.Helper()
	if err := dm.Message(dm.PoolName(f.at.Group, f.at.Name), fmt.Sprintf(format, args...)); err != nil {
		f.Fatal(err)
	}
}

// devices are the IDs of the devices that the kernel has in the pool, and of
// those that the logical volumes have.
func (f *fixture) devices() (kernel, group []string) {
	f.Helper()
	devices, err := thinmeta.Devices(dm.Path(dm.Name(f.at.Group, f.at.Name+"_tmeta")))
	if err != nil {
		f.Fatal(err)
	}
	for _, device := range devices {
		kernel = append(kernel, fmt.Sprint(device.ID))
	}
	group = strings.Fields(f.at.LVM(f, "lvs", "--noheadings", "--options", "thin_id", f.at.Group))
	slices.Sort(kernel)
	slices.Sort(group)
	return kernel, group
}

// expectAgreement fails when kernel and volume group have different devices.
func (f *fixture) expectAgreement() {
	f.Helper()
	kernel, group := f.devices()
	if diff := cmp.Diff(group, kernel); diff != "" {
		f.Errorf("devices (-volume group +kernel):\n%s", diff)
	}
}

// reboot reopens after what a boot does to the devices.
func (f *fixture) reboot() {
	f.Helper()
	if err := f.Close(); err != nil {
		f.Fatal(err)
	}
	f.at.LVM(f, "vgchange", "--activate", "n", f.at.Group)
	f.open()
}

// A power cut while an object was made, between the kernel's two steps, is in
// the way of nothing: neither of the repeat nor of others.
func TestInterruptedTransaction(t *testing.T) {
	for name, restart := range map[string]func(*fixture){"restart": (*fixture).reopen, "reboot": (*fixture).reboot} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			whole := f.create("whole", "block", backend.Source{})
			f.write(whole, "content")
			f.cutOffCreation(f.create("cut", "block", backend.Source{}))
			restart(f)
			if volumes := f.inventory.Volumes; len(volumes) != 1 || volumes[0].ID != whole {
				t.Errorf("volumes: %+v, want %s", volumes, whole)
			}
			f.cutOffCreation(f.snapshot("snapshot", whole))
			restart(f)
			if len(f.inventory.Volumes) != 1 || len(f.inventory.Snapshots) != 0 {
				t.Errorf("there are %+v", f.inventory)
			}
			f.expectAgreement()
			f.create("cut", "block", backend.Source{})
			f.snapshot("snapshot", whole)
			f.reopen()
			if len(f.inventory.Volumes) != 2 || len(f.inventory.Snapshots) != 1 {
				t.Errorf("there are %+v", f.inventory)
			}
			f.expect(whole, "content")
		})
	}
}

// What others were making in the pool when they were cut off is not removed, and
// is in the way of nothing.
func TestInterruptedTransactionOfOthers(t *testing.T) {
	f := newFixture(t)
	whole := f.create("whole", "block", backend.Source{})
	f.at.LVM(t, "lvcreate", "--snapshot", "--name", "other", f.at.Group+"/"+whole.String())
	f.cutOffCreation(stringer("other"))
	f.reopen()
	f.create("volume", "block", backend.Source{})
	f.expectAgreement()
	if !slices.Contains(f.names(), "other") {
		t.Errorf("there are %q", f.names())
	}
}

type stringer string

func (s stringer) String() string { return string(s) }

// After a power cut between the kernel's last step and lvm's, lvm forgets to
// tell the kernel of the next removal. Nobody gets to see what was removed.
func TestRemovalAfterStaleMessage(t *testing.T) {
	for name, cut := range map[string]func(*fixture){"restart": (*fixture).reopen, "reboot": (*fixture).reboot, "lvm alone was killed": func(*fixture) {}} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			kept, secret := f.create("kept", "block", backend.Source{}), f.create("secret", "block", backend.Source{})
			f.write(kept, "content")
			f.write(secret, "secret")
			for _, message := range []string{fmt.Sprintf("create = %q", kept), "delete = 99"} {
				f.staleMessage(message)
				cut(f)
				if err := f.DeleteVolume(t.Context(), secret); err != nil {
					t.Error(err)
				}
				f.expectAgreement()
				secret = f.create("next", "block", backend.Source{})
				f.expect(secret, "")
				f.write(secret, "secret")
			}
			f.snapshot("snapshot", kept)
			f.expect(kept, "content")
		})
	}
}

// The same, when the power goes once more before the removal has been looked
// at, or somebody else has removed something.
func TestOrphanedDevice(t *testing.T) {
	f := newFixture(t)
	kept, secret := f.create("kept", "block", backend.Source{}), f.create("secret", "block", backend.Source{})
	f.write(kept, "content")
	f.write(secret, "secret")
	f.staleMessage("delete = 99")
	f.at.LVM(t, "lvremove", f.at.Group+"/"+secret.String())
	if kernel, group := f.devices(); len(kernel) != len(group)+1 {
		t.Errorf("lvm has told the kernel: there are %q, logical volumes have %q", kernel, group)
	}
	f.reopen()
	f.expectAgreement()
	f.expect(f.create("next", "block", backend.Source{}), "")

	// One that was never counted, in the way of snapshots of what is in use, of
	// what is not, and of clones.
	f.attach(kept)
	_, group := f.devices()
	next := len(group) + 1
	for _, act := range []func(){
		func() { f.snapshot("used", kept) },
		func() { f.detach(kept); f.snapshot("not used", kept) },
		func() { f.create("clone", "block", backend.Source{Volume: kept}) },
		f.reopen,
		f.reboot,
	} {
		f.message("create_snap %d 1", next)
		act()
		f.expectAgreement()
		_, group := f.devices()
		next = len(group) + 1
	}
	f.expect(kept, "content")
}

// Devices that another program has made in the pool, without lvm, stay.
func TestDevicesOfOtherProgramsStay(t *testing.T) {
	f := newFixture(t)
	id := f.create("volume", "block", backend.Source{})
	f.message("create_thin 100")
	f.message("create_thin 101")
	f.reopen()
	if err := f.DeleteVolume(t.Context(), id); err != nil {
		t.Error(err)
	}
	if kernel, _ := f.devices(); !slices.Equal(kernel, []string{"100", "101"}) {
		t.Errorf("devices: %q", kernel)
	}
	f.message("delete 100")
	f.message("delete 101")
}

// lvm was killed while it made a snapshot, and the driver was not: nobody gets
// the half of it, and nobody else has to wait for it.
func TestCutOffWhileRunning(t *testing.T) {
	for name, first := range map[string]func(*fixture){
		"the repeat comes first": func(*fixture) {},
		"another comes first":    func(f *fixture) { f.create("another", "block", backend.Source{}) },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			volume := f.create("volume", "block", backend.Source{})
			f.write(volume, "content")
			snapshot := f.snapshot("snapshot", volume)
			f.Forget(snapshot.String())
			f.cutOffCreation(snapshot)

			first(f)
			spec := backend.SnapshotSpec{ID: snapshot, Name: "snapshot", Source: volume}
			if _, err := f.CreateSnapshot(t.Context(), spec, nil); err != nil {
				t.Log(err)
				f.snapshot("snapshot", volume)
			}
			f.reopen()
			if len(f.inventory.Snapshots) != 1 {
				t.Errorf("there are %+v", f.inventory)
			}
			f.expectAgreement()
			f.expect(f.create("restored", "block", backend.Source{Snapshot: snapshot}), "content")
		})
	}
}

// What could not be put in order is remembered: nobody gets a device that still has
// what was removed.
func TestUnsettledIsRemembered(t *testing.T) {
	for name, settle := range map[string]func(f *fixture, secret backend.VolumeID){
		"while it runs": func(f *fixture, secret backend.VolumeID) {
			f.withoutMetadata(func() {
				if err := f.DeleteVolume(f.Context(), secret); err == nil {
					f.Error("deleted, although what was left could not be looked at")
				}
			})
		},
		"at the start": func(f *fixture, secret backend.VolumeID) {
			f.at.LVM(f, "lvremove", f.at.Group+"/"+secret.String())
			f.withoutMetadata(f.reopen)
		},
		"in a pool that was read-only at the start": func(f *fixture, secret backend.VolumeID) {
			f.at.LVM(f, "lvremove", f.at.Group+"/"+secret.String())
			pool := dm.PoolName(f.at.Group, f.at.Name)
			table := strings.TrimSpace(testenv.Run(f, "dmsetup", "table", pool))
			f.load(pool, strings.Join(strings.Fields(table)[:7], " ")+" 1 read_only")
			f.reopen()
			f.load(pool, table)
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			kept, secret := f.create("kept", "block", backend.Source{}), f.create("secret", "block", backend.Source{})
			f.write(kept, "content")
			f.write(secret, "secret")
			f.staleMessage("delete = 99")
			settle(f, secret)
			f.expect(f.create("next", "block", backend.Source{}), "")
			if err := f.DeleteVolume(t.Context(), secret); err != nil {
				t.Error(err)
			}
			f.expectAgreement()
			f.expect(kept, "content")
		})
	}
}

// withoutMetadata hides the pool's metadata.
func (f *fixture) withoutMetadata(act func()) {
	f.Helper()
	node := dm.Path(dm.Name(f.at.Group, f.at.Name+"_tmeta"))
	if err := os.Rename(node, node+".hidden"); err != nil {
		f.Fatal(err)
	}
	act()
	if err := os.Rename(node+".hidden", node); err != nil {
		f.Fatal(err)
	}
}

// load gives a device another table.
func (f *fixture) load(device, table string) {
	f.Helper()
	testenv.Run(f, "dmsetup", "load", device, "--table", table)
	testenv.Run(f, "dmsetup", "resume", device)
}
