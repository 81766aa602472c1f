package backend_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

func TestIDsAreDerivedFromNames(t *testing.T) {
	volume := backend.NewVolumeID("node-1", "pvc-1")
	snapshot := backend.NewSnapshotID("node-1", "pvc-1")
	for _, test := range []struct{ name, got, want string }{
		{"volume", volume.String(), "vol-35971be6-f2868e1aa7cab669517cd9f5ab1b7957"},
		{"snapshot", snapshot.String(), "snap-35971be6-f2868e1aa7cab669517cd9f5ab1b7957"},
		{"node of volume", volume.NodeHash(), backend.NodeHash("node-1")},
		{"node of snapshot", snapshot.NodeHash(), backend.NodeHash("node-1")},
		{"same again", backend.NewVolumeID("node-1", "pvc-1").String(), volume.String()},
	} {
		if !strings.HasPrefix(test.got, test.want) {
			t.Errorf("%s: %q, expected %q", test.name, test.got, test.want)
		}
	}
	if volume == backend.NewVolumeID("node-1", "pvc-2") || volume == backend.NewVolumeID("node-2", "pvc-1") {
		t.Error("another name or node gave the same ID")
	}
	hostile := backend.NewVolumeID("node", "../../etc/\x00\n").String()
	if strings.ContainsAny(hostile, "./\x00\n") {
		t.Errorf("a name shows in the ID %q", hostile)
	}
}

func TestParseAcceptsExactlyWhatIsGivenOut(t *testing.T) {
	good := backend.NewVolumeID("node", "name").String()
	if id, err := backend.ParseVolumeID(good); err != nil || id.String() != good {
		t.Errorf("ParseVolumeID(%q): %v, %v", good, id, err)
	}
	for _, bad := range []string{
		"", "vol-", good + "0", good[:len(good)-1], strings.ToUpper(good), " " + good, good + "\n",
		strings.Replace(good, "vol-", "snap-", 1), strings.Replace(good, "-", "/", 2), "vol-../../../../../../../../../../etc/passwd..", "fake-vol-id",
	} {
		if id, err := backend.ParseVolumeID(bad); !errors.Is(err, backend.ErrNotFound) || !id.IsZero() {
			t.Errorf("ParseVolumeID(%q): %v, %v, expected ErrNotFound", bad, id, err)
		}
	}
	if _, err := backend.ParseSnapshotID(good); err == nil {
		t.Error("a volume's ID passed for a snapshot's")
	}
}

func TestIDsSurviveJSON(t *testing.T) {
	before := backend.Source{Snapshot: backend.NewSnapshotID("node", "name")}
	text, err := json.Marshal(before)
	if err != nil {
		t.Fatal(err)
	}
	var after backend.Source
	if err := json.Unmarshal(text, &after); err != nil || after != before {
		t.Errorf("%s became %+v (%v)", text, after, err)
	}
	if err := json.Unmarshal([]byte(`{"volume":"../etc"}`), &after); err == nil {
		t.Error("a hostile ID was read from a record")
	}
}

// FuzzParseIDs: what is accepted is an ID of one kind, written as we write it,
// and nothing that means something in a path.
func FuzzParseIDs(f *testing.F) {
	f.Add(backend.NewVolumeID("node", "name").String())
	f.Add(backend.NewSnapshotID("node", "name").String())
	f.Add("vol-00000000-00000000000000000000000000000000")
	f.Fuzz(func(t *testing.T, text string) {
		volume, volumeErr := backend.ParseVolumeID(text)
		if volumeErr == nil && volume.String() != text {
			t.Errorf("%q was taken for %q", text, volume)
		}
		snapshot, snapshotErr := backend.ParseSnapshotID(text)
		if snapshotErr == nil && snapshot.String() != text {
			t.Errorf("%q was taken for %q", text, snapshot)
		}
		if volumeErr == nil && snapshotErr == nil {
			t.Errorf("%q was accepted as both", text)
		}
		if (volumeErr == nil || snapshotErr == nil) && strings.ContainsAny(text, "/.\x00") {
			t.Errorf("%q was accepted", text)
		}
	})
}
