package lvm_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/snapdriver/snapdriver/internal/dm"
	"github.com/snapdriver/snapdriver/internal/testenv"
	"github.com/snapdriver/snapdriver/pkg/backend"
)

// No operation runs a command whose output grows with the number of logical
// volumes, but for the scan at the start. An object that is not known costs one
// command, about it alone.
func TestCostDoesNotGrowWithNumber(t *testing.T) {
	testenv.RequireThinPools(t)
	costs := map[int]map[string]cost{}
	for _, number := range []int{100, 500} {
		t.Run(fmt.Sprint(number), func(t *testing.T) { costs[number] = measure(t, number) })
	}
	if costs[100]["create"].Changing == 0 || costs[100]["absent"].Printed == 0 {
		t.Errorf("nothing was measured: %+v", costs[100])
	}
	if diff := cmp.Diff(costs[100], costs[500], cmp.Comparer(cost.same)); diff != "" {
		t.Errorf("the costs differ (-100 +500):\n%s", diff)
	}
}

// cost is how many commands an operation ran, and how many bytes they printed.
type cost struct {
	Changing, Asking int
	Printed          int64
}

// same allows for a few bytes: the time in a tag is shorter when it ends in zeros.
func (c cost) same(other cost) bool {
	difference := c.Printed - other.Printed
	return c.Changing == other.Changing && c.Asking == other.Asking && max(difference, -difference) < 40
}

// measure returns the cost of operations beside so many volumes.
func measure(t *testing.T, number int) map[string]cost {
	f := &fixture{TB: t, at: newStorage(t)}
	f.fill(number)
	f.open()
	t.Cleanup(func() { _ = f.Close() })
	if len(f.inventory.Volumes) != number {
		t.Fatalf("there are %d volumes, expected %d", len(f.inventory.Volumes), number)
	}
	costs := map[string]cost{}
	of := func(what string, act func()) {
		changing, asking, printed := f.Commands()
		act()
		changingAfter, askingAfter, printedAfter := f.Commands()
		costs[what] = cost{changingAfter - changing, askingAfter - asking, printedAfter - printed}
	}
	fatal := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	size := profiles["block"].size
	var id, clone backend.VolumeID
	var snapshot backend.SnapshotID
	of("create", func() { id = f.create("volume", "block", backend.Source{}) })
	of("attach", func() { f.attach(id) })
	of("snapshot", func() { snapshot = f.snapshot("snapshot", id) })
	of("clone", func() { clone = f.create("clone", "block", backend.Source{Snapshot: snapshot}) })
	of("expand", func() { _, err := f.ExpandVolume(t.Context(), id, 2*size); fatal(err) })
	of("detach", func() { fatal(f.Detach(t.Context(), id)) })
	of("delete snapshot", func() { fatal(f.DeleteSnapshot(t.Context(), snapshot)) })
	of("delete", func() { fatal(f.DeleteVolume(t.Context(), clone)) })
	of("refused", func() {
		device := open(t, f.attach(id).Source)
		if err := f.DeleteVolume(t.Context(), id); err == nil {
			t.Error("a volume in use was deleted")
		}
		device.Close()
	})
	of("absent", func() { fatal(f.DeleteVolume(t.Context(), backend.NewVolumeID("node", "absent"))) })
	of("questions", func() {
		_, err := f.Available(t.Context(), profiles["block"].Profile)
		fatal(err)
		_, _, err = f.Attached(t.Context(), id)
		fatal(err)
		_, err = f.VolumeHealth(t.Context(), id)
		fatal(err)
		_, err = f.Gauges(t.Context())
		fatal(err)
	})
	return costs
}

// fill puts volumes of ours into the pool and into the metadata of the volume
// group, the latter all by one command: lvcreate would take minutes. They go when
// the test ends.
func (f *fixture) fill(number int) {
	f.Helper()
	dir := testenv.TempDir(f)
	before, after := filepath.Join(dir, "before"), filepath.Join(dir, "after")
	for i := range number {
		if err := dm.Message(dm.Name(f.at.Group, f.at.Name), fmt.Sprintf("create_thin %d", i+1)); err != nil {
			f.Fatal(err)
		}
	}
	f.at.LVM(f, "vgchange", "--activate", "n", f.at.Group)
	f.at.LVM(f, "vgcfgbackup", "--file", before, f.at.Group)
	text, err := os.ReadFile(before)
	if err != nil {
		f.Fatal(err)
	}
	var volumes strings.Builder
	for i := range number {
		fmt.Fprintf(&volumes, `
		%s {
			id = "%s"
			status = ["READ", "WRITE", "VISIBLE"]
			flags = ["ACTIVATION_SKIP"]
			tags = ["sd.v=1", "sd.kind=volume", "sd.name=AA", "sd.created=2026-01-01T00:00:00Z", "sd.mode=block"]
			segment_count = 1
			segment1 {
				start_extent = 0
				extent_count = 1
				type = "thin"
				thin_pool = "%s"
				transaction_id = 0
				device_id = %d
			}
		}
`, backend.NewVolumeID("node", fmt.Sprint("filling ", i)), lvmUUID(), f.at.Name, i+1)
	}
	const section = "logical_volumes {\n"
	changed := strings.Replace(string(text), section, section+volumes.String(), 1)
	if err := os.WriteFile(after, []byte(changed), 0o600); err != nil {
		f.Fatal(err)
	}
	restore := func(file string) { f.at.LVM(f, "vgcfgrestore", "--force", "--file", file, f.at.Group) }
	restore(after)
	f.Cleanup(func() {
		f.at.LVM(f, "vgchange", "--activate", "n", f.at.Group)
		restore(before)
	})
}

// lvmUUID returns a random UUID in LVM's form: 32 letters and digits in seven
// groups.
func lvmUUID() string {
	text := strings.ReplaceAll(uuid.NewString(), "-", "")
	return strings.Join([]string{text[:6], text[6:10], text[10:14], text[14:18], text[18:22], text[22:26], text[26:]}, "-")
}
