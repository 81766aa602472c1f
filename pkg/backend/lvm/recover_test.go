package lvm_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/snapdriver/snapdriver/internal/dm"
	"github.com/snapdriver/snapdriver/pkg/backend"
)

// names are the logical volumes that there are.
func (f *fixture) names() []string {
	f.Helper()
	names := strings.Fields(f.at.LVM(f, "lvs", "--noheadings", "--options", "lv_name", f.at.Group))
	slices.Sort(names)
	return names
}

// What others keep in the volume group, in our pool too, is neither listed nor
// touched; what looks like ours and is not understood is named besides.
func TestForeignVolumesStay(t *testing.T) {
	f := newFixture(t)
	group, pool := f.at.Group, f.at.Group+"/"+f.at.Name
	newer, broken, taken := backend.NewVolumeID("node", "newer"), backend.NewSnapshotID("node", "broken"), backend.NewVolumeID("node", "taken")
	for _, arguments := range [][]string{
		{"--size", "4m", "--name", "linear", group},
		{"--virtualsize", "4m", "--thinpool", pool, "--name", "thin"},
		{"--virtualsize", "4m", "--thinpool", pool, "--name", "tagged", "--addtag", "backup", "--addtag", "sd.kind=volume"},
		{"--virtualsize", "4m", "--thinpool", pool, "--name", taken.String()},
		{"--virtualsize", "4m", "--thinpool", pool, "--name", newer.String(), "--addtag", "sd.v=2"},
		{"--virtualsize", "4m", "--thinpool", pool, "--name", broken.String(), "--addtag", "sd.v=1"},
	} {
		f.at.LVM(t, append([]string{"lvcreate"}, arguments...)...)
	}
	before := f.names()
	f.reopen()
	if len(f.inventory.Volumes)+len(f.inventory.Snapshots) != 0 {
		t.Errorf("listed: %+v", f.inventory)
	}
	slices.Sort(f.inventory.Damaged)
	for i, want := range []string{broken.String() + ": tag sd.kind: it is missing", newer.String() + ": tag sd.v is \"2\""} {
		if len(f.inventory.Damaged) != 2 || !strings.Contains(f.inventory.Damaged[i], want) {
			t.Errorf("named are %q, expected %q", f.inventory.Damaged, want)
		}
	}
	if len(f.inventory.DamagedVolumes) != 1 || f.inventory.DamagedVolumes[0] != newer {
		t.Errorf("damaged volumes: %v", f.inventory.DamagedVolumes)
	}
	if conditions, err := f.VolumeHealth(t.Context(), newer); err != nil || len(conditions) != 1 || conditions[0].Severity != backend.Inaccessible {
		t.Errorf("health: %+v, %v", conditions, err)
	}
	for _, id := range []backend.VolumeID{newer, taken} {
		spec := backend.VolumeSpec{ID: id, Name: "x", Profile: profiles["block"].Profile, Capacity: profiles["block"].size}
		if _, err := f.CreateVolume(t.Context(), spec, nil); !errors.Is(err, backend.ErrPrecondition) {
			t.Errorf("create: %v", err)
		}
		if _, err := f.Attach(t.Context(), id); !errors.Is(err, backend.ErrNotFound) {
			t.Errorf("attach: %v", err)
		}
		if err := errors.Join(f.Detach(t.Context(), id), f.DeleteVolume(t.Context(), id)); err != nil {
			t.Errorf("detach, delete: %v", err)
		}
	}
	if err := f.DeleteSnapshot(t.Context(), broken); err != nil {
		t.Errorf("delete: %v", err)
	}
	id := f.create("volume", "block", backend.Source{})
	f.write(id, "content")
	if err := f.DeleteVolume(t.Context(), id); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(before, f.names()); diff != "" {
		t.Errorf("logical volumes:\n%s", diff)
	}
}

// A boot activates what lvm would activate, which is nothing of ours.
func TestReboot(t *testing.T) {
	f := newFixture(t)
	volume, block := f.create("volume", "ext4", backend.Source{}), f.create("block", "block", backend.Source{})
	for _, id := range []backend.VolumeID{volume, block} {
		f.write(id, "content")
		f.attach(id)
	}
	f.snapshot("snapshot", volume)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	f.at.LVM(t, "vgchange", "--activate", "n", f.at.Group)
	f.at.LVM(t, "vgchange", "--activate", "y", f.at.Group)
	for _, id := range []backend.VolumeID{volume, block} {
		if _, err := dm.Lookup(f.device(id)); !errors.Is(err, dm.ErrNotFound) {
			t.Errorf("%s is active: %v", id, err)
		}
	}
	f.at.LVM(t, "vgchange", "--activate", "n", f.at.Group) // the pool, too
	f.open()
	for _, id := range []backend.VolumeID{volume, block} {
		if _, attached, err := f.Attached(t.Context(), id); err != nil || attached {
			t.Errorf("attached: %v, %v", attached, err)
		}
		f.expect(id, "content")
	}
}

// unfinished makes a volume that is smaller than it was to be, as a crash leaves
// one between the two commands of a larger copy. It is not seen before reopen.
func (f *fixture) unfinished() backend.VolumeSpec {
	f.Helper()
	source := f.create("source", "block", backend.Source{})
	f.write(source, "content")
	spec := backend.VolumeSpec{
		ID: backend.NewVolumeID("node", "larger"), Name: "larger", Profile: profiles["block"].Profile,
		Capacity: 2 * profiles["block"].size, Source: backend.Source{Volume: source},
	}
	if _, err := f.CreateVolume(f.Context(), spec, nil); err != nil {
		f.Fatal(err)
	}
	f.at.LVM(f, "lvreduce", "--force", "--size", "4m", f.at.Group+"/"+spec.ID.String())
	return spec
}

// An object that is smaller than it was to be is made whole, never removed: an
// administrator may have shrunk it.
func TestUnfinishedVolumeIsFinished(t *testing.T) {
	f := newFixture(t)
	spec := f.unfinished()
	f.reopen()
	for _, volume := range f.inventory.Volumes {
		if volume.ID == spec.ID && volume.Capacity != spec.Capacity {
			t.Errorf("it has %d bytes, expected %d", volume.Capacity, spec.Capacity)
		}
	}
	if len(f.inventory.Volumes) != 2 {
		t.Errorf("volumes: %+v", f.inventory.Volumes)
	}
	f.expect(spec.ID, "content")
}

// Where the pool has no room for that at the start, the volume is not served and
// says why. The repeated request finishes it once there is room, and a deletion
// deletes it.
func TestUnfinishedVolumeWithoutRoom(t *testing.T) {
	const foreign = 4 * mib // what lvreduce has freed
	for name, test := range map[string]func(f *fixture, spec, filling backend.VolumeSpec){
		"room is made": func(f *fixture, spec, filling backend.VolumeSpec) {
			if _, err := f.CreateVolume(f.Context(), spec, nil); !errors.Is(err, backend.ErrExhausted) {
				f.Errorf("create: %v", err)
			}
			if err := f.DeleteVolume(f.Context(), filling.ID); err != nil {
				f.Fatal(err)
			}
			if volume, err := f.CreateVolume(f.Context(), spec, nil); err != nil || volume.Capacity != spec.Capacity {
				f.Errorf("create: %+v, %v", volume, err)
			}
			if conditions, err := f.VolumeHealth(f.Context(), spec.ID); err != nil || len(conditions) != 0 {
				f.Errorf("health of what is whole now: %+v, %v", conditions, err)
			}
			f.expect(spec.ID, "content")
			f.expectAvailable(filling.Capacity - foreign)
		},
		"it is looked at, and just enough is free": func(f *fixture, spec, filling backend.VolumeSpec) {
			if _, _, err := f.Attached(f.Context(), spec.ID); err != nil { // as for a deletion, which then fails
				f.Error(err)
			}
			if conditions, err := f.VolumeHealth(f.Context(), spec.ID); err != nil || len(conditions) != 1 {
				f.Errorf("health: %+v, %v", conditions, err)
			}
			f.at.LVM(f, "lvremove", f.at.Group+"/foreign")
			f.reopen()
			if !slices.ContainsFunc(f.inventory.Volumes, func(v backend.Volume) bool { return v.ID == spec.ID && v.Capacity == spec.Capacity }) {
				f.Errorf("there are %+v", f.inventory)
			}
			f.expectAvailable(0)
			if err := f.DeleteVolume(f.Context(), filling.ID); err != nil {
				f.Fatal(err)
			}
			f.expectAvailable(filling.Capacity)
		},
		"it is deleted": func(f *fixture, spec, _ backend.VolumeSpec) {
			if err := f.DeleteVolume(f.Context(), spec.ID); err != nil {
				f.Error(err)
			}
			if slices.Contains(f.names(), spec.ID.String()) {
				f.Errorf("there are %q", f.names())
			}
			if _, err := f.VolumeHealth(f.Context(), spec.ID); !errors.Is(err, backend.ErrNotFound) {
				f.Errorf("health: %v", err)
			}
			f.expectAvailable(spec.Capacity - foreign)
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			spec := f.unfinished()
			rest, err := f.Available(t.Context(), spec.Profile)
			if err != nil {
				t.Fatal(err)
			}
			filling := backend.VolumeSpec{ID: backend.NewVolumeID("node", "filling"), Name: "filling", Profile: spec.Profile, Capacity: rest}
			if _, err := f.CreateVolume(t.Context(), filling, nil); err != nil {
				t.Fatal(err)
			}
			f.at.LVM(t, "lvcreate", "--virtualsize", fmt.Sprint(foreign, "b"), "--thinpool", f.at.Group+"/"+f.at.Name, "--name", "foreign")
			f.reopen()
			if len(f.inventory.Volumes) != 2 || !slices.Contains(f.inventory.DamagedVolumes, spec.ID) || !slices.Contains(f.inventory.Unfinished, spec.ID.String()) {
				t.Errorf("there are %+v", f.inventory)
			}
			if conditions, err := f.VolumeHealth(t.Context(), spec.ID); err != nil || len(conditions) != 1 || !strings.Contains(conditions[0].Message, "its volumes have") {
				t.Errorf("health: %+v, %v", conditions, err)
			}
			test(f, spec, filling)
		})
	}
}

// expectAvailable expects that a raw device may be as large as that.
func (f *fixture) expectAvailable(want int64) {
	f.Helper()
	if got, err := f.Available(f.Context(), profiles["block"].Profile); err != nil || got != want {
		f.Errorf("%d bytes are available, expected %d: %v", got, want, err)
	}
}

// A device that is open when it is detached stays, and is taken later.
func TestDetachOfOpenDevice(t *testing.T) {
	f := newFixture(t)
	id := f.create("volume", "block", backend.Source{})
	device := open(t, f.attach(id).Source)
	if err := f.Detach(t.Context(), id); err != nil {
		t.Error(err)
	}
	if err := f.DeleteVolume(t.Context(), id); !errors.Is(err, backend.ErrPrecondition) {
		t.Errorf("deleted while it is open: %v", err)
	}
	device.Close()
	if err := f.Detach(t.Context(), id); err != nil {
		t.Error(err)
	}
	if _, err := dm.Lookup(f.device(id)); !errors.Is(err, dm.ErrNotFound) {
		t.Errorf("it is still there: %v", err)
	}
}

// A pool that no boot is to activate is activated by the driver.
func TestPoolWithActivationSkip(t *testing.T) {
	f := newFixture(t)
	id := f.create("volume", "block", backend.Source{})
	f.write(id, "content")
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	f.at.LVM(t, "lvchange", "--setactivationskip", "y", f.at.Group+"/"+f.at.Name)
	f.at.LVM(t, "vgchange", "--activate", "n", f.at.Group)
	f.open()
	f.expect(id, "content")
}

// lvm calls it a success when lvm.conf keeps it from activating a volume.
func TestAttachOfWhatLVMLeavesOut(t *testing.T) {
	f := newFixture(t)
	id := f.create("volume", "block", backend.Source{})
	dir := t.TempDir()
	text := fmt.Sprintf("activation { volume_list = [ %q ] }\n", f.at.Group+"/"+f.at.Name)
	if err := os.WriteFile(filepath.Join(dir, "lvm.conf"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("LVM_SYSTEM_DIR", dir)
	if mount, err := f.Attach(t.Context(), id); !errors.Is(err, backend.ErrPrecondition) || !strings.Contains(err.Error(), "volume_list") {
		t.Errorf("%+v, %v", mount, err)
	}
}
