package hostpath

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

// What is accepted as a record is written again as the same record.
func FuzzDecodeRecord(f *testing.F) {
	volume, snapshot := backend.NewVolumeID("node", "name"), backend.NewSnapshotID("node", "name")
	for _, record := range []any{
		volumeRecord{Version: recordVersion, Volume: backend.Volume{VolumeSpec: backend.VolumeSpec{ID: volume}}, Layout: layoutBlock},
		snapshotRecord{Version: recordVersion, Snapshot: backend.Snapshot{SnapshotSpec: backend.SnapshotSpec{
			ID: snapshot, Source: volume, Parameters: map[string]string{"format": "tar"}, ReadyAfter: time.Minute,
		}}, Layout: layoutDirectory, Format: formatTar},
	} {
		seed, err := json.Marshal(record)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(seed)
	}
	f.Add([]byte(`{"version":2}`))
	f.Add([]byte(`{"version":1}{}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		checkRecord(t, text, new(volumeRecord), new(volumeRecord))
		checkRecord(t, text, new(snapshotRecord), new(snapshotRecord))
	})
}

func checkRecord(t *testing.T, text []byte, first, second versioned) {
	t.Helper()
	if decodeRecord(text, first) != nil {
		return
	}
	if !json.Valid(text) {
		t.Fatalf("%q was accepted, which is not JSON", text)
	}
	once, err := json.Marshal(first)
	if err != nil {
		t.Fatalf("%q was accepted and cannot be written: %v", text, err)
	}
	if err := decodeRecord(once, second); err != nil {
		t.Fatalf("%q became %s, which is refused: %v", text, once, err)
	}
	if twice, err := json.Marshal(second); err != nil || !bytes.Equal(once, twice) {
		t.Fatalf("%q became %s and then %s (%v)", text, once, twice, err)
	}
}

// FuzzObject puts any record beside the data of an object. Whether it is served
// or not, nothing beside it is touched, and the start goes on.
func FuzzObject(f *testing.F) {
	volume := backend.NewVolumeID("node", "name")
	id, err := json.Marshal(volume)
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(`{"version":1,"volume":{"id":` + string(id) + `,"mode":"filesystem","capacityBytes":1},"layout":"directory"}`))
	f.Add([]byte(`{"version":1,"volume":{"id":` + string(id) + `,"mode":"block"},"layout":"block"}`))
	f.Add([]byte(`{"version":1,"volume":{"id":` + string(id) + `},"layout":"../../other"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		dir := t.TempDir()
		root, other := filepath.Join(dir, "root"), filepath.Join(dir, "other")
		object := filepath.Join(root, volumePath(volume))
		for _, err := range []error{
			os.MkdirAll(filepath.Join(object, dataDir), 0o700), os.WriteFile(filepath.Join(object, recordFile), text, 0o600),
			os.WriteFile(other, []byte("as before"), 0o600),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		b, err := Open(root, Options{})
		if err != nil {
			t.Fatal(err)
		}
		inventory, err := b.Recover(t.Context())
		if err != nil || len(inventory.Volumes)+len(inventory.Damaged) != 1 {
			t.Errorf("%q: %+v, %v", text, inventory, err)
		}
		for _, v := range inventory.Volumes {
			if mount, _, err := b.Attached(t.Context(), v.ID); err == nil && mount.Source != "" && mount.Source != filepath.Join(object, dataDir) {
				t.Errorf("%q: it is mounted from %s", text, mount.Source)
			}
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		if content, err := os.ReadFile(other); err != nil || string(content) != "as before" {
			t.Errorf("%q: %q, %v", text, content, err)
		}
	})
}

func BenchmarkRecord(b *testing.B) {
	record := volumeRecord{
		Version: recordVersion,
		Volume: backend.Volume{
			VolumeSpec: backend.VolumeSpec{
				ID: backend.NewVolumeID("node", "name"), Name: "pvc-9a7b8c6d-5e4f-3210-9a7b-8c6d5e4f3210",
				Profile:     backend.Profile{Mode: backend.Filesystem},
				AccessModes: []backend.AccessMode{backend.SingleNodeWriter}, Capacity: 1 << 30,
			},
			CreatedAt: now(),
		},
		Layout: layoutDirectory,
	}
	text, err := encodeRecord(record)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("encode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := encodeRecord(record); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var found volumeRecord
			if err := decodeRecord(text, &found); err != nil {
				b.Fatal(err)
			}
		}
	})
}
