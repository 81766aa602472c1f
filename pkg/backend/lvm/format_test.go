package lvm_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/snapdriver/snapdriver/internal/dm"
	"github.com/snapdriver/snapdriver/internal/testenv"
	"github.com/snapdriver/snapdriver/pkg/backend"
	"github.com/snapdriver/snapdriver/pkg/backend/lvm"
)

// A device that might hold data is not formatted. Each of these is a way in
// which it might.
func TestNeverFormats(t *testing.T) {
	f := newFixture(t)
	fresh := func(name string) backend.VolumeID { return f.create(name, "ext4", backend.Source{}) }
	formatted := func(name string) backend.VolumeID {
		id := fresh(name)
		f.write(id, "content")
		f.attach(id)
		return id
	}
	onDevice := func(id backend.VolumeID, program string, arguments ...string) {
		testenv.Run(t, program, append(arguments, dm.Path(f.device(id)))...)
	}
	for name, test := range map[string]struct {
		spoil func(name string) backend.VolumeID // makes a volume and spoils it
		err   string                             // part of the error
	}{
		"the node is missing": {func(name string) backend.VolumeID {
			id := fresh(name)
			onDevice(id, "rm")
			return id
		}, "no such file"},
		"the node is another device's": {func(name string) backend.VolumeID {
			id := fresh(name)
			onDevice(id, "rm")
			testenv.Run(t, "cp", "--archive", f.at.Device, dm.Path(f.device(id)))
			return id
		}, "not the node"},
		"the logical volume is missing": {func(name string) backend.VolumeID {
			id := fresh(name)
			f.at.LVM(t, "lvremove", f.at.Group+"/"+id.String())
			return id
		}, "Failed to find"},
		"too large": {func(name string) backend.VolumeID {
			id := fresh(name)
			f.replaceTable(id, func(table string) string { return strings.Replace(table, "0 32768", "0 65536", 1) })
			return id
		}, "33554432 bytes, the logical volume has 16777216"},
		"unreadable": {func(name string) backend.VolumeID {
			id := fresh(name)
			f.replaceTable(id, func(string) string { return "0 32768 error" })
			return id
		}, `["error"]`},
		"unreadable in part": {func(name string) backend.VolumeID {
			id := fresh(name)
			f.replaceTable(id, func(table string) string {
				return strings.Replace(table, "0 32768", "0 32000", 1) + "\n32000 768 error"
			})
			return id
		}, `["thin" "error"]`},
		"a foreign filesystem": {func(name string) backend.VolumeID {
			id := fresh(name)
			onDevice(id, "mkfs.btrfs", "--quiet", "--mixed")
			return id
		}, "btrfs"},
		"a filesystem of the same kind": {func(name string) backend.VolumeID {
			id := fresh(name)
			onDevice(id, "mkfs.ext4", "-q")
			return id
		}, "ext4"},
		"swap space": {func(name string) backend.VolumeID {
			id := fresh(name)
			onDevice(id, "mkswap")
			return id
		}, "swap"},
		"made from a snapshot, and empty": {func(name string) backend.VolumeID {
			id := f.create(name, "ext4", backend.Source{Snapshot: f.snapshot(name, formatted("source of "+name))})
			onDevice(id, "wipefs", "--all")
			return id
		}, "may be lost"},
		"made from a volume, and empty": {func(name string) backend.VolumeID {
			id := f.create(name, "ext4", backend.Source{Volume: formatted("source of " + name)})
			onDevice(id, "wipefs", "--all")
			return id
		}, "may be lost"},
		"formatted before, and empty": {func(name string) backend.VolumeID {
			id := formatted(name)
			onDevice(id, "wipefs", "--all")
			return id
		}, "may be lost"},
		"formatted before, and now with another filesystem": {func(name string) backend.VolumeID {
			id := formatted(name)
			onDevice(id, "wipefs", "--all")
			onDevice(id, "mkswap")
			return id
		}, "swap"},
	} {
		t.Run(name, func(t *testing.T) {
			id := test.spoil(name)
			f.took("")
			_, err := f.Attach(t.Context(), id)
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("got error %v, expected one that says %q", err, test.err)
			}
			f.mu.Lock()
			for _, step := range f.steps {
				if strings.HasPrefix(step, "mkfs") || strings.HasPrefix(step, "discard") {
					t.Errorf("ran %s", step)
				}
			}
			f.mu.Unlock()
			// With another table, lvm does not know it for a user of the pool.
			_ = exec.Command("dmsetup", "remove", f.device(id)).Run()
			if err := f.DeleteVolume(t.Context(), id); err != nil {
				t.Error(err)
			}
		})
	}
}

// A device that is too small is what a command leaves that was killed before it
// could enlarge it. It has its size before it is formatted.
func TestSmallDeviceIsEnlarged(t *testing.T) {
	f := newFixture(t)
	id := f.create("volume", "ext4", backend.Source{})
	f.replaceTable(id, func(table string) string { return strings.Replace(table, "0 32768", "0 16384", 1) })
	f.attach(id)
	_, targets, err := dm.Status(f.device(id))
	if err != nil {
		t.Fatal(err)
	}
	super := testenv.Run(t, "dumpe2fs", "-h", dm.Path(f.device(id)))
	if size := dm.Size(targets); size != profiles["ext4"].size || !regexp.MustCompile(`(?m)^Block count: +4096$`).MatchString(super) {
		t.Errorf("the device has %d bytes, its filesystem:\n%s", size, super)
	}
}

// replaceTable puts another table under an active volume.
func (f *fixture) replaceTable(id backend.VolumeID, change func(table string) string) {
	f.Helper()
	device := f.device(id)
	table := strings.TrimSpace(testenv.Run(f, "dmsetup", "table", device))
	load := exec.Command("dmsetup", "load", device)
	load.Stdin = strings.NewReader(change(table))
	if out, err := load.CombinedOutput(); err != nil {
		f.Fatalf("dmsetup load: %v\n%s", err, out)
	}
	testenv.Run(f, "dmsetup", "resume", device)
}

// What blkid looks at is read before, for blkid takes for empty what it cannot
// read.
func TestUnreadableIsNotEmpty(t *testing.T) {
	testenv.RequireThinPools(t)
	name := fmt.Sprintf("snapdriver-test-%d", os.Getpid())
	for what, table := range map[string]string{
		"beginning": "0 8 error\n8 65528 zero",
		"end":       "0 65528 zero\n65528 8 error",
	} {
		create := exec.Command("dmsetup", "create", name)
		create.Stdin = strings.NewReader(table)
		if out, err := create.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		device, err := dm.Lookup(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := lvm.CheckReadable(dm.Path(name), device.Number, 65536*512); err == nil {
			t.Errorf("%s: no error", what)
		}
		testenv.Run(t, "dmsetup", "remove", name)
	}
}

// A crash at any step of the first Attach is mended by the next: what an mkfs
// of ours has left is not taken for somebody's data.
func TestFormattingIsRepeated(t *testing.T) {
	for _, profile := range []string{"ext4", "xfs", "btrfs"} {
		t.Run(profile, func(t *testing.T) {
			f := newFixture(t)
			for _, last := range []string{"mkfs", "lvchange"} {
				id := f.create("until "+last, profile, backend.Source{})
				f.dieBefore(id, last)
				snapshot := f.snapshot("of "+last, id)
				restored := f.create("restored "+last, profile, backend.Source{Snapshot: snapshot})
				for _, id := range []backend.VolumeID{id, restored} {
					f.write(id, "content")
					f.reopen()
					f.expect(id, "content")
				}
			}
			if !f.took("discard /dev") {
				t.Error("nothing had to be discarded: this tests nothing")
			}
		})
	}
}

// dieBefore attaches a volume and ends before the step that begins so; the
// backend is then open again.
func (f *fixture) dieBefore(id backend.VolumeID, prefix string) {
	f.Helper()
	if err := f.Close(); err != nil {
		f.Fatal(err)
	}
	armed, died := false, make(chan bool)
	b := f.at.Open(f, func(name string) {
		if armed && strings.HasPrefix(strings.TrimPrefix(name, "lvm "), prefix) {
			runtime.Goexit()
		}
	}).(*lvm.Backend)
	if _, err := b.Recover(f.Context()); err != nil {
		f.Fatal(err)
	}
	armed = true
	go func() {
		defer close(died)
		_, err := b.Attach(f.Context(), id)
		f.Errorf("it did not come to %s: %v", prefix, err)
	}()
	<-died
	b.Crash()
	f.open()
}

// A filesystem that took longer to make than its caller waited is one.
func TestFormattingOutlastsItsCaller(t *testing.T) {
	f := newFixture(t)
	id := f.create("volume", "ext4", backend.Source{})
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, leave := context.WithCancel(t.Context())
	formatted := 0
	b := f.at.Open(f, func(name string) {
		if strings.HasPrefix(name, "mkfs") {
			formatted++
			leave()
		}
	})
	if _, err := b.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, _ = b.Attach(ctx, id) // whatever it answers, nobody hears it
	if _, err := b.Attach(t.Context(), id); err != nil || formatted != 1 {
		t.Errorf("formatted %d times: %v", formatted, err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	f.open()
}

// While a filesystem is made, the volume is neither copied nor grown; and the
// other way round.
func TestFormattingExcludesCopies(t *testing.T) {
	f := newFixture(t)
	id := f.create("volume", "ext4", backend.Source{})
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	reached, proceed := make(chan bool), make(chan bool)
	b := f.at.Open(f, func(name string) {
		if strings.HasPrefix(name, "mkfs") {
			close(reached)
			<-proceed
		}
	})
	if _, err := b.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	attached := make(chan error)
	go func() {
		_, err := b.Attach(t.Context(), id)
		attached <- err
	}()
	<-reached
	_, snapshot := b.CreateSnapshot(t.Context(), backend.SnapshotSpec{ID: backend.NewSnapshotID("node", "s"), Name: "s", Source: id}, nil)
	_, clone := b.CreateVolume(t.Context(), backend.VolumeSpec{
		ID: backend.NewVolumeID("node", "c"), Name: "c", Profile: profiles["ext4"].Profile, Capacity: profiles["ext4"].size, Source: backend.Source{Volume: id},
	}, nil)
	_, grown := b.ExpandVolume(t.Context(), id, 2*profiles["ext4"].size)
	for what, err := range map[string]error{"snapshot": snapshot, "clone": clone, "expand": grown} {
		if !errors.Is(err, backend.ErrBusy) {
			t.Errorf("%s: %v, expected %v", what, err, backend.ErrBusy)
		}
	}
	close(proceed)
	if err := <-attached; err != nil {
		t.Error(err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	f.open()
}
