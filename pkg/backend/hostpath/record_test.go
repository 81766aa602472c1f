package hostpath

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

// What is accepted as a record is written again as the same record.
func FuzzDecodeRecord(f *testing.F) {
	id := backend.NewVolumeID("node", "name")
	seed, err := json.Marshal(volumeRecord{Version: recordVersion, Volume: backend.Volume{VolumeSpec: backend.VolumeSpec{ID: id}}, Layout: layoutBlock})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add([]byte(`{"version":2}`))
	f.Add([]byte(`{"version":1}{}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var first, second volumeRecord
		if decodeRecord(text, &first) != nil {
			return
		}
		once, err := json.Marshal(first)
		if err != nil {
			t.Fatalf("%q was accepted and cannot be written: %v", text, err)
		}
		if err := decodeRecord(once, &second); err != nil {
			t.Fatalf("%q became %s, which is refused: %v", text, once, err)
		}
		if twice, err := json.Marshal(second); err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("%q became %s and then %s (%v)", text, once, twice, err)
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
