package lvm_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

// executioner is an lvm that is killed some time after it was started, if a
// file says so, which it takes away: as the kernel does when memory runs out.
const executioner = `#!/bin/sh
case $1 in
lvcreate|lvremove|lvextend)
	if mv %[1]s/delay %[1]s/taken; then
		exec timeout --signal=KILL "$(cat %[1]s/taken)" %[2]s "$@"
	fi 2>/dev/null
esac
exec %[2]s "$@"
`

// TestKilledCommands kills lvm at random moments of every operation, and not the
// driver. The repeated request succeeds, nothing is lost, and nothing is left.
func TestKilledCommands(t *testing.T) {
	f := newFixture(t)
	const seed = 7
	random := rand.New(rand.NewPCG(seed, seed))
	real, err := exec.LookPath("lvm")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "lvm"), fmt.Appendf(nil, executioner, dir, real), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))

	began := time.Now()
	volume := f.create("volume", "block", backend.Source{})
	usual := time.Since(began)
	f.write(volume, "content")
	f.attach(volume)

	killed := 0
	// kill does something while lvm is killed, and again if that has failed.
	kill := func(what string, act func() error) {
		t.Helper()
		delay := time.Duration(random.Int64N(int64(usual)))
		if err := os.WriteFile(filepath.Join(dir, "delay"), fmt.Appendf(nil, "%.3f", delay.Seconds()), 0o600); err != nil {
			t.Fatal(err)
		}
		err := act()
		if err := os.Remove(filepath.Join(dir, "delay")); err == nil {
			t.Fatalf("%s: no command was run", what)
		}
		for attempt := 0; err != nil; attempt++ {
			killed++
			t.Logf("%s, killed after %v: %v", what, delay, err)
			if attempt == 2 {
				t.Fatalf("%s does not succeed", what)
			}
			err = act()
		}
		f.expectAgreement()
	}
	size := profiles["block"].size
	for round := range 3 {
		name := func(kind string) string { return fmt.Sprint(kind, " ", round) }
		other := backend.NewVolumeID("node", name("other"))
		restored := backend.NewVolumeID("node", name("restored"))
		snapshot := backend.NewSnapshotID("node", name("snapshot"))
		create := func(id backend.VolumeID, size int64, source backend.Source) func() error {
			return func() error {
				_, err := f.CreateVolume(t.Context(), backend.VolumeSpec{ID: id, Name: id.String(), Profile: profiles["block"].Profile, Capacity: size, Source: source}, nil)
				return err
			}
		}
		kill("create", create(other, size, backend.Source{}))
		f.expect(other, "")
		f.write(other, "secret")
		kill("snapshot", func() error {
			_, err := f.CreateSnapshot(t.Context(), backend.SnapshotSpec{ID: snapshot, Name: name("snapshot"), Source: volume}, nil)
			return err
		})
		size += 4 * mib
		kill("expand", func() error {
			_, err := f.ExpandVolume(t.Context(), volume, size)
			return err
		})
		kill("restore", create(restored, size, backend.Source{Snapshot: snapshot}))
		f.expect(restored, "content")
		kill("delete other", func() error { return f.DeleteVolume(t.Context(), other) })
		kill("delete snapshot", func() error { return f.DeleteSnapshot(t.Context(), snapshot) })
		kill("delete restored", func() error { return f.DeleteVolume(t.Context(), restored) })
		if device := open(t, f.attach(volume).Source); device != nil {
			end, err := device.Seek(0, 2)
			if err != nil || end != size {
				t.Errorf("the device has %d bytes, want %d: %v", end, size, err)
			}
			device.Close()
		}
	}
	if killed == 0 {
		t.Error("nothing was killed")
	}
	f.detach(volume)
	f.expect(volume, "content")
	f.reopen()
	if volumes := f.inventory.Volumes; len(volumes) != 1 || volumes[0].Capacity != size || len(f.inventory.Snapshots) != 0 {
		t.Errorf("there are %+v", f.inventory)
	}
	if err := f.DeleteVolume(t.Context(), volume); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "taken")); errors.Is(err, os.ErrNotExist) {
		t.Error("the executioner was never called")
	}
}
