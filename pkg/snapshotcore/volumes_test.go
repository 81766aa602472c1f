package snapshotcore

import (
	"errors"
	"testing"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

func TestCreateVolumeAgain(t *testing.T) {
	c := newCore(t)
	source := mustCreateVolume(t, c, volumeRequest("source"))
	first := mustCreateVolume(t, c, volumeRequest("volume"))
	for _, test := range []struct {
		name   string
		change func(*VolumeRequest)
		class  error // nil: the same volume
	}{
		{"same", func(*VolumeRequest) {}, nil},
		{"range that holds its size", func(r *VolumeRequest) { r.Required, r.Limit = 1, 2*mib }, nil},
		{"access modes repeated", func(r *VolumeRequest) { r.AccessModes = append(r.AccessModes, r.AccessModes...) }, nil},
		{"larger", func(r *VolumeRequest) { r.Required = 2 * mib }, backend.ErrExists},
		{"limit below its size", func(r *VolumeRequest) { r.Required, r.Limit = 1, mib-1 }, backend.ErrExists},
		{"other mode", func(r *VolumeRequest) { r.Profile.Mode = backend.Block }, backend.ErrExists},
		{"other access modes", func(r *VolumeRequest) { r.AccessModes = []backend.AccessMode{backend.SingleNodeReaderOnly} }, backend.ErrExists},
		{"other source", func(r *VolumeRequest) { r.Source.Volume = source.ID }, backend.ErrExists},
		{"other topology", func(r *VolumeRequest) { r.Elsewhere = true }, backend.ErrExists},
		{"unknown parameter", func(r *VolumeRequest) { r.Profile.Parameters = map[string]string{"a": "b"} }, backend.ErrInvalid},
		{"negative size", func(r *VolumeRequest) { r.Required = -1 }, backend.ErrInvalid},
	} {
		t.Run(test.name, func(t *testing.T) {
			request := volumeRequest("volume")
			test.change(&request)
			again, err := c.CreateVolume(t.Context(), request)
			if test.class != nil {
				expectError(t, err, test.class)
			} else if err != nil || again.ID != first.ID || !again.CreatedAt.Equal(first.CreatedAt) {
				t.Errorf("got %+v, %v, expected the first volume", again, err)
			}
		})
	}
}

func TestCreateVolumeFromSource(t *testing.T) {
	c := newCore(t)
	source := mustCreateVolume(t, c, volumeRequest("source"))
	snapshot := mustCreateSnapshot(t, c, "snapshot", source.ID)
	for _, test := range []struct {
		name   string
		change func(*VolumeRequest)
		class  error
		size   int64
	}{
		{"same size", func(*VolumeRequest) {}, nil, mib},
		{"no size: the source's", func(r *VolumeRequest) { r.Required = 0 }, nil, mib},
		{"larger", func(r *VolumeRequest) { r.Required = 3 * mib }, nil, 3 * mib},
		{"smaller", func(r *VolumeRequest) { r.Required = mib / 2 }, backend.ErrOutOfRange, 0},
		{"limit below the source", func(r *VolumeRequest) { r.Required, r.Limit = 0, mib/2 }, backend.ErrOutOfRange, 0},
		{"other mode", func(r *VolumeRequest) { r.Profile.Mode = backend.Block }, backend.ErrInvalid, 0},
		{"absent snapshot", func(r *VolumeRequest) { r.Source = backend.Source{Snapshot: backend.NewSnapshotID("node", "none")} }, backend.ErrNotFound, 0},
		{"absent volume", func(r *VolumeRequest) { r.Source = backend.Source{Volume: backend.NewVolumeID("node", "none")} }, backend.ErrNotFound, 0},
		{"snapshot of another node", func(r *VolumeRequest) { r.Source = backend.Source{Snapshot: backend.NewSnapshotID("other", "x")} }, backend.ErrExhausted, 0},
		{"volume of another node", func(r *VolumeRequest) { r.Source = backend.Source{Volume: backend.NewVolumeID("other", "x")} }, backend.ErrExhausted, 0},
		{"elsewhere", func(r *VolumeRequest) { r.Elsewhere = true }, backend.ErrExhausted, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			request := volumeRequest("made with " + test.name)
			request.Source.Snapshot = snapshot.ID
			test.change(&request)
			volume, err := c.CreateVolume(t.Context(), request)
			if test.class != nil {
				expectError(t, err, test.class)
			} else if err != nil || volume.Capacity != test.size {
				t.Errorf("got %d bytes, %v, expected %d", volume.Capacity, err, test.size)
			}
		})
	}
}

func TestExpandVolume(t *testing.T) {
	c := newCore(t)
	mustCreateVolume(t, c, volumeRequest("takes some room"))
	volume := mustCreateVolume(t, c, volumeRequest("volume"))
	for _, test := range []struct {
		name            string
		required, limit int64
		size            int64
		class           error
	}{
		{"nothing asked", 0, 0, 0, backend.ErrInvalid},
		{"negative", -1, 0, 0, backend.ErrInvalid},
		{"limit only", 0, 5 * mib, mib, nil},
		{"smaller", mib / 2, 0, mib, nil},
		{"limit below present", 0, mib / 2, 0, backend.ErrOutOfRange},
		{"larger", 2 * mib, 0, 2 * mib, nil},
		{"again", 2 * mib, 0, 2 * mib, nil},
		{"rounded up", 2*mib + 1, 0, 2*mib + 1024, nil},
		{"rounded above the limit", 3*mib + 1, 3*mib + 2, 0, backend.ErrOutOfRange},
		{"too large", 1 << 50, 0, 0, backend.ErrOutOfRange},
		{"more than there is", 1 << 40, 0, 0, backend.ErrOutOfRange},
	} {
		grown, err := c.ExpandVolume(t.Context(), volume.ID, test.required, test.limit)
		if !errors.Is(err, test.class) || grown.Capacity != test.size {
			t.Errorf("%s: %d bytes, %v; expected %d, %v", test.name, grown.Capacity, err, test.size, test.class)
		}
	}
	_, err := c.ExpandVolume(t.Context(), backend.NewVolumeID("node", "none"), mib, 0)
	expectError(t, err, backend.ErrNotFound)
}

func TestDeleteVolumeInUse(t *testing.T) {
	c := newCore(t)
	volume := mustCreateVolume(t, c, volumeRequest("volume"))
	var answer error
	used := true
	c.options.InUse = func(backend.Mount) (bool, error) { return used, answer }
	expectError(t, c.DeleteVolume(t.Context(), volume.ID), backend.ErrPrecondition)
	answer = errors.New("no mount table")
	expectError(t, c.DeleteVolume(t.Context(), volume.ID), answer)
	if _, err := c.Volume(volume.ID); err != nil {
		t.Errorf("refused, and yet: %v", err)
	}
	used, answer = false, nil
	for range 2 {
		if err := c.DeleteVolume(t.Context(), volume.ID); err != nil {
			t.Error(err)
		}
	}
}
