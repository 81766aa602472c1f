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
