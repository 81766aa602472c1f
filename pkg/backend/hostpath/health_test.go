package hostpath_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/snapdriver/snapdriver/internal/testenv"
	"github.com/snapdriver/snapdriver/pkg/backend"
	"github.com/snapdriver/snapdriver/pkg/backend/hostpath"
)

// summary returns conditions as "Severity Reason", and fails t for one that
// says nothing or that CSI would cut off.
func summary(t *testing.T, conditions []backend.Condition) []string {
	t.Helper()
	var all []string
	for _, c := range conditions {
		if c.Message == "" || len(c.Message) > 128 {
			t.Errorf("%s: a message of %d bytes: %q", c.Reason, len(c.Message), c.Message)
		}
		all = append(all, fmt.Sprint(c.Severity, " ", c.Reason))
	}
	slices.Sort(all)
	return all
}

func checkVolumeHealth(t *testing.T, b *hostpath.Backend, id backend.VolumeID, expected ...string) {
	t.Helper()
	conditions, err := b.VolumeHealth(t.Context(), id)
	if got := summary(t, conditions); err != nil || !slices.Equal(got, expected) {
		t.Errorf("VolumeHealth: %+v, %v; expected %q", conditions, err, expected)
	}
}

func checkStorageHealth(t *testing.T, b *hostpath.Backend, expected ...string) {
	t.Helper()
	conditions, err := b.StorageHealth(t.Context())
	if got := summary(t, conditions); err != nil || !slices.Equal(got, expected) {
		t.Errorf("StorageHealth: %+v, %v; expected %q", conditions, err, expected)
	}
}

// What happens to a volume while the driver runs.
func TestVolumeHealth(t *testing.T) {
	testenv.RequireRoot(t)
	for name, test := range map[string]struct {
		kind     string
		attached bool
		harm     func(object string) error
		expected string
	}{
		"no record":        {kind: "directory", harm: func(object string) error { return os.Remove(object + "/meta.json") }, expected: "Inaccessible RecordUnusable"},
		"another's record": {kind: "block", harm: replace(`"vol-5`, `"vol-6`), expected: "Inaccessible RecordUnusable"},
		"newer record":     {kind: "directory", harm: replace(`"version": 1`, `"version": 2`), expected: "Inaccessible RecordUnusable"},
		"no directory":     {kind: "directory", harm: func(object string) error { return os.Remove(object + "/data") }, expected: "DataLoss DataMissing"},
		"a file": {kind: "directory", harm: func(object string) error {
			return errors.Join(os.Remove(object+"/data"), os.WriteFile(object+"/data", nil, 0o600))
		}, expected: "DataLoss DataMissing"},
		"no image": {kind: "block", harm: func(object string) error { return os.Remove(object + "/image") }, expected: "DataLoss DataMissing"},
		"a directory for an image": {kind: "block", harm: func(object string) error {
			return errors.Join(os.Remove(object+"/image"), os.Mkdir(object+"/image", 0o700))
		}, expected: "DataLoss DataMissing"},
		"short image":    {kind: "ext4 image", harm: func(object string) error { return os.Truncate(object+"/image", 8<<20) }, expected: "DataLoss ImageTooShort"},
		"image deleted":  {kind: "block", attached: true, harm: func(object string) error { return os.Remove(object + "/image") }, expected: "DataLoss ImageDeleted"},
		"image replaced": {kind: "block", attached: true, harm: copied("image"), expected: "DataLoss ImageDeleted"},
		"short device": {kind: "block", attached: true, harm: func(object string) error {
			return errors.Join(os.Truncate(object+"/image", 2<<20), replace(`"capacityBytes": 1048576`, `"capacityBytes": 2097152`)(object))
		}, expected: "Degraded DeviceTooSmall"},
	} {
		t.Run(name, func(t *testing.T) {
			root := testenv.TempDir(t)
			b := opened(t, root, hostpath.Options{})
			id := create(t, b, spec(test.kind, "volume"))
			if test.attached {
				device := attached(t, b, id).Source
				t.Cleanup(func() { testenv.Run(t, "losetup", "-d", device) })
			}
			checkVolumeHealth(t, b, id)
			if err := test.harm(filepath.Join(root, "volumes", id.String())); err != nil {
				t.Fatal(err)
			}
			checkVolumeHealth(t, b, id, test.expected)
			checkStorageHealth(t, b)
		})
	}
}

// What a process before this one has attached is looked at too.
func TestHealthAfterRestart(t *testing.T) {
	testenv.RequireRoot(t)
	root := testenv.TempDir(t)
	b := opened(t, root, hostpath.Options{})
	replaced, deleted, good := create(t, b, spec("block", "replaced")), create(t, b, spec("block", "deleted")), create(t, b, spec("block", "good"))
	for _, id := range []backend.VolumeID{replaced, deleted, good} {
		device := attached(t, b, id).Source
		defer testenv.Run(t, "losetup", "-d", device)
	}
	b.Crash()
	if err := errors.Join(copied("image")(filepath.Join(root, "volumes", replaced.String())),
		os.Remove(filepath.Join(root, "volumes", deleted.String(), "image"))); err != nil {
		t.Fatal(err)
	}
	b = opened(t, root, hostpath.Options{})
	for range 2 {
		checkVolumeHealth(t, b, replaced, "DataLoss ImageDeleted")
		checkVolumeHealth(t, b, deleted, "DataLoss ImageDeleted", "Inaccessible SetAside")
		checkVolumeHealth(t, b, good)
		// That a search for the image finds none does not make it forgotten.
		if _, is, err := b.Attached(t.Context(), replaced); is || err != nil {
			t.Errorf("attached: %v %v", is, err)
		}
	}
}

// copied returns a function that puts a copy in the place of one of an
// object's files.
func copied(name string) func(object string) error {
	return func(object string) error {
		content, err := os.ReadFile(filepath.Join(object, name))
		if err != nil {
			return err
		}
		return errors.Join(os.Remove(filepath.Join(object, name)), os.WriteFile(filepath.Join(object, name), content, 0o600))
	}
}

// Work that is under way is not taken for damage.
func TestHealthDuringWork(t *testing.T) {
	testenv.RequireRoot(t)
	root := testenv.TempDir(t)
	during := func(string) {}
	b := opened(t, root, hostpath.Options{Step: func(name string) { during(name) }})
	id := create(t, b, spec("block", "volume"))
	attached(t, b, id)
	steps := 0
	during = func(string) {
		steps++
		checkVolumeHealth(t, b, id)
		checkStorageHealth(t, b)
	}
	if _, err := b.ExpandVolume(t.Context(), id, 2<<20); err != nil {
		t.Fatal(err)
	}
	cut, err := snapshot(b, "snapshot", id)
	if err == nil {
		err = b.DeleteSnapshot(t.Context(), cut)
	}
	if err != nil {
		t.Fatal(err)
	}
	during = func(string) {
		steps++
		conditions, err := b.VolumeHealth(t.Context(), id)
		if len(conditions) > 0 || err != nil && !errors.Is(err, backend.ErrNotFound) {
			t.Errorf("VolumeHealth during a deletion: %+v, %v", conditions, err)
		}
	}
	deleteAll(t, b, root, id)
	if steps < 10 {
		t.Errorf("asked at %d steps only", steps)
	}
}

// A volume that was set aside is known for as long as it lies there.
func TestHealthOfSetAside(t *testing.T) {
	root := t.TempDir()
	b := opened(t, root, hostpath.Options{})
	lost, odd, newer := create(t, b, spec("directory", "lost")), create(t, b, spec("directory", "odd")), create(t, b, spec("directory", "newer"))
	good := create(t, b, spec("directory", "good"))
	for _, harm := range []error{
		os.Remove(filepath.Join(root, "volumes", lost.String(), "data")),
		os.Remove(filepath.Join(root, "volumes", odd.String(), "meta.json")),
		replace(`"version": 1`, `"version": 2`)(filepath.Join(root, "volumes", newer.String())),
	} {
		if harm != nil {
			t.Fatal(harm)
		}
	}
	expected := []backend.VolumeID{lost, odd, newer}
	for range 2 { // the second start finds them set aside by the first
		b.Crash()
		b = open(t, root, hostpath.Options{})
		found := recovered(t, b).DamagedVolumes
		compare := func(a, b backend.VolumeID) int { return strings.Compare(a.String(), b.String()) }
		slices.SortFunc(found, compare)
		slices.SortFunc(expected, compare)
		if !slices.Equal(found, expected) {
			t.Errorf("damaged volumes: %v, expected %v", found, expected)
		}
		checkVolumeHealth(t, b, lost, "DataLoss DataMissing", "Inaccessible SetAside")
		checkVolumeHealth(t, b, odd, "Inaccessible RecordUnusable", "Inaccessible SetAside")
		checkVolumeHealth(t, b, newer, "Inaccessible RecordUnusable")
		checkVolumeHealth(t, b, good)
	}
	if got := gauge(t, b, "damaged_objects"); got != 2 {
		t.Errorf("%v damaged objects, expected 2", got)
	}
	if err := errors.Join(os.RemoveAll(filepath.Join(root, "damaged")), os.Mkdir(filepath.Join(root, "damaged"), 0o700)); err != nil {
		t.Fatal(err)
	}
	if conditions, err := b.VolumeHealth(t.Context(), lost); !errors.Is(err, backend.ErrNotFound) {
		t.Errorf("taken away: %+v, %v; expected ErrNotFound", conditions, err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
}

func gauge(t *testing.T, b *hostpath.Backend, name string) float64 {
	t.Helper()
	gauges, err := b.Gauges(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range gauges {
		if g.Name == name {
			return g.Value
		}
	}
	t.Fatalf("there is no gauge %s", name)
	return 0
}
