package lvm_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/internal/dm"
	"github.com/snapdriver/snapdriver/internal/testenv"
	"github.com/snapdriver/snapdriver/pkg/backend"
	"github.com/snapdriver/snapdriver/pkg/backend/lvm"
)

func (f *fixture) expectResumed(devices ...string) {
	f.Helper()
	for _, device := range devices {
		if found, err := dm.Lookup(device); err != nil || found.Suspended {
			f.Errorf("%s: %+v, %v", device, found, err)
		}
	}
}

// A command that was killed may have left devices suspended: whoever uses one
// of them waits for ever.
func TestSuspendedDevicesAreResumed(t *testing.T) {
	f := newFixture(t)
	id := f.create("volume", "ext4", backend.Source{})
	f.write(id, "content")
	f.attach(id)
	for _, devices := range [][]string{{f.device(id)}, {dm.PoolName(f.at.Group, f.at.Name)}, {f.device(id), dm.PoolName(f.at.Group, f.at.Name)}} {
		for _, device := range devices {
			testenv.Run(t, "dmsetup", "suspend", device)
		}
		f.reopen()
		f.expectResumed(devices...)
	}
	f.expect(id, "content")
}

// What somebody's killed command has left suspended while the driver runs, a volume
// or the pool, keeps nothing from being made, and nothing is acknowledged that the
// kernel has not made.
func TestSuspendedBefore(t *testing.T) {
	f := newFixture(t)
	id := f.create("volume", "block", backend.Source{})
	f.write(id, "content")
	f.attach(id)
	for n, device := range []string{f.device(id), dm.PoolName(f.at.Group, f.at.Name)} {
		for what, act := range map[string]func(name string) backend.Source{
			"snapshot": func(name string) backend.Source { return backend.Source{Snapshot: f.snapshot(name, id)} },
			"clone": func(name string) backend.Source {
				return backend.Source{Volume: f.create(name, "block", backend.Source{Volume: id})}
			},
		} {
			testenv.Run(t, "dmsetup", "suspend", device)
			made := act(fmt.Sprint(what, n))
			f.expectResumed(device)
			f.expectAgreement()
			f.expect(f.create(fmt.Sprint("of ", what, n), "block", made), "content")
		}
	}
	testenv.Run(t, "dmsetup", "suspend", f.device(id))
	f.attach(id)
	f.expectResumed(f.device(id))
	f.detach(id)
}

// The same in the moment before lvm begins.
func TestSuspendedMeanwhile(t *testing.T) {
	f := newFixture(t)
	id := f.create("volume", "block", backend.Source{})
	f.write(id, "content")
	f.attach(id)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	f.Backend = f.at.Open(f, func(name string) {
		if strings.HasPrefix(name, "lvm lvcreate") {
			once.Do(func() { testenv.Run(t, "dmsetup", "suspend", f.device(id)) })
		}
	}).(*lvm.Backend)
	if _, err := f.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	spec := backend.SnapshotSpec{ID: backend.NewSnapshotID("node", "snapshot"), Name: "snapshot", Source: id}
	if _, err := f.CreateSnapshot(t.Context(), spec, nil); err == nil {
		t.Error("what the kernel has not made was acknowledged")
	}
	f.expectResumed(f.device(id))
	f.expectAgreement()
	f.snapshot("snapshot", id)
	f.expectAgreement()
	f.expect(f.create("restored", "block", backend.Source{Snapshot: spec.ID}), "content")
	f.detach(id)
}

// The same, and the driver has died before it noticed: what the kernel has not made
// is not served after the start, and in the way of nothing.
func TestStartAfterUntoldCopy(t *testing.T) {
	f := newFixture(t)
	id := f.create("volume", "block", backend.Source{})
	f.write(id, "content")
	snapshot := f.snapshot("snapshot", id)
	arguments := []string{"--type", "thin", "--name", snapshot.String(), "--setactivationskip", "y", "--activate", "n"}
	tags := strings.TrimSpace(f.at.LVM(t, "lvs", "--noheadings", "--options", "lv_tags", f.at.Group+"/"+snapshot.String()))
	for tag := range strings.SplitSeq(tags, ",") {
		arguments = append(arguments, "--addtag", tag)
	}
	if err := f.DeleteSnapshot(t.Context(), snapshot); err != nil {
		t.Fatal(err)
	}
	f.attach(id)
	testenv.Run(t, "dmsetup", "suspend", f.device(id))
	f.at.LVM(t, append(append([]string{"lvcreate"}, arguments...), f.at.Group+"/"+id.String())...)
	if kernel, group := f.devices(); len(kernel) != len(group)-1 {
		t.Fatalf("devices: the kernel has %q, the volume group %q", kernel, group)
	}
	f.reopen()
	f.detach(id)
	if len(f.inventory.Snapshots) > 0 || len(f.inventory.Damaged) > 0 {
		t.Errorf("there are %+v", f.inventory)
	}
	f.expectAgreement()
	f.snapshot("snapshot", id)
	f.expect(f.create("restored", "block", backend.Source{Snapshot: snapshot}), "content")
}

// A command of the driver before this one that waits for the suspended pool keeps
// the start waiting; the error names the device, and how to let it go on.
func TestStartWaitsForSuspendedPool(t *testing.T) {
	f := newFixture(t)
	f.create("volume", "block", backend.Source{})
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	pool := dm.PoolName(f.at.Group, f.at.Name)
	next := f.at.Open(f, nil).(*lvm.Backend)
	locks, err := filepath.Glob(filepath.Join(f.at.options(nil).LockDir, "*.commands"))
	if err != nil || len(locks) != 1 {
		t.Fatalf("%q, %v", locks, err)
	}
	orphan := open(t, locks[0])
	if err := unix.Flock(int(orphan.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.Fatal(err)
	}
	testenv.Run(t, "dmsetup", "suspend", pool)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err = next.Recover(ctx)
	testenv.Run(t, "dmsetup", "resume", pool)
	if err == nil || !strings.Contains(err.Error(), "dmsetup resume "+pool) {
		t.Error(err)
	}
	if err := errors.Join(orphan.Close(), next.Close()); err != nil {
		t.Fatal(err)
	}
	f.open()
}

// bomb is an lvm of which the first lvextend dies when all is done but that the
// pool is still suspended.
const bomb = `#!/bin/sh
if [ $1 = lvextend ] && mv %[1]s/armed %[1]s/gone 2>/dev/null; then
	%[2]s "$@"
	dmsetup suspend %[3]s && mv %[1]s/gone %[1]s/suspended
	kill -KILL $$
fi
exec %[2]s "$@"
`

// TestKilledExtension: whoever writes to the pool waits no longer than it takes to
// notice that its automatic extension was killed.
func TestKilledExtension(t *testing.T) {
	f := &fixture{TB: t, at: storage{testenv.ThinPool(t, testenv.PoolOptions{Disk: 256 * mib, Data: 64 * mib, Metadata: 4 * mib}), testenv.TempDir(t)}}
	f.open()
	id := f.create("volume", "block", backend.Source{})
	f.write(id, "content")
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	program, err := exec.LookPath("lvm")
	if err != nil {
		t.Fatal(err)
	}
	dir, pool := t.TempDir(), dm.PoolName(f.at.Group, f.at.Name)
	err = errors.Join(
		os.WriteFile(filepath.Join(dir, "lvm"), fmt.Appendf(nil, bomb, dir, program, pool), 0o700),
		os.WriteFile(filepath.Join(dir, "armed"), nil, 0o600))
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	options := f.at.options(nil)
	options.Limits = lvm.DefaultPoolLimits()
	options.Limits.Extension = lvm.Extension{AtPercent: 1, ByPercent: 1000}
	if f.Backend, err = lvm.Open(options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	if _, err := f.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	device := open(t, f.attach(id).Source)
	if _, err := device.Write(make([]byte, 2*mib)); err != nil {
		t.Fatal(err)
	}
	await := func(what string, happened func() bool) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); !happened(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("the pool was not %s", what)
			}
		}
	}
	await("suspended", func() bool { _, err := os.Stat(filepath.Join(dir, "suspended")); return err == nil })
	await("resumed", func() bool { found, err := dm.Lookup(pool); return err == nil && !found.Suspended })
	if err := errors.Join(device.Sync(), device.Close()); err != nil {
		t.Error(err)
	}
	f.detach(id)
}

// TestFrozenFilesystem: what a hook of a backup tool has frozen cannot be frozen
// once more for the cut. The error says so, and after the thaw all is well.
func TestFrozenFilesystem(t *testing.T) {
	const freeze, thaw = 0xC0045877, 0xC0045878 // FIFREEZE, FITHAW of linux/fs.h
	for _, profile := range []string{"ext4", "xfs"} {
		f := newFixture(t)
		id := f.create("volume", profile, backend.Source{})
		root := openDir(t, f.mounted(t, id, 0))
		if err := unix.IoctlSetInt(int(root.Fd()), freeze, 0); err != nil {
			t.Fatal(err)
		}
		spec := backend.SnapshotSpec{ID: backend.NewSnapshotID("node", "snapshot"), Name: "snapshot", Source: id}
		_, err := f.CreateSnapshot(t.Context(), spec, nil)
		if thawErr := unix.IoctlSetInt(int(root.Fd()), thaw, 0); thawErr != nil {
			t.Error(thawErr)
		}
		if !errors.Is(err, backend.ErrPrecondition) || !strings.Contains(err.Error(), "thaw it") {
			t.Errorf("%s: %v", profile, err)
		}
		f.expectAgreement()
		f.snapshot("snapshot", id)
		root.Close()
	}
}

func openDir(t testing.TB, path string) *os.File {
	t.Helper()
	dir, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dir.Close() })
	return dir
}
