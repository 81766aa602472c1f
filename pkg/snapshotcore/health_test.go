package snapshotcore

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/snapdriver/snapdriver/pkg/backend"
	"github.com/snapdriver/snapdriver/pkg/backend/memory"
)

// What is gone from the storage is lost, unless it is just being deleted.
func TestHealthOfMissingVolume(t *testing.T) {
	b, err := memory.Open(memory.NewDisk(1<<40), nil)
	if err != nil {
		t.Fatal(err)
	}
	var whileDeleted func()
	c, err := Open(t.Context(), b, Options{NodeID: "node", InUse: func(backend.Mount) (bool, error) {
		whileDeleted()
		return false, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	id := mustCreateVolume(t, c, volumeRequest("volume")).ID
	if err := b.DeleteVolume(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	conditions, err := c.VolumeHealth(t.Context(), id)
	if err != nil || len(conditions) != 1 || conditions[0].Severity != backend.DataLoss {
		t.Errorf("%+v, %v; expected that its data are lost", conditions, err)
	}

	id = mustCreateVolume(t, c, volumeRequest("another")).ID
	asked := false
	whileDeleted = func() {
		asked = true
		if err := b.DeleteVolume(context.Background(), id); err != nil {
			t.Error(err)
		}
		_, err := c.VolumeHealth(context.Background(), id)
		expectError(t, err, backend.ErrNotFound)
	}
	if err := c.DeleteVolume(t.Context(), id); err != nil || !asked {
		t.Errorf("DeleteVolume: %v, asked meanwhile: %v", err, asked)
	}
	_, err = c.VolumeHealth(t.Context(), id)
	expectError(t, err, backend.ErrNotFound)
	_, err = c.VolumeHealth(t.Context(), backend.NewVolumeID("another node", "volume"))
	expectError(t, err, backend.ErrPrecondition)
}

// What is deleted while a list is made, also on a node that was called otherwise
// when it was made, is left out; an answer that cannot be had is an error.
func TestUnhealthyVolumes(t *testing.T) {
	c := newCore(t)
	var ids []backend.VolumeID
	for _, name := range []string{"a", "b", "c"} {
		ids = append(ids, mustCreateVolume(t, c, volumeRequest(name)).ID)
	}
	slices.SortFunc(ids, compareIDs)
	broken := errors.New("broken")
	for _, test := range []struct {
		answer error
		want   int
		err    error
	}{
		{backend.ErrNotFound, 2, nil}, {backend.ErrPrecondition, 2, nil}, {broken, 0, broken}, {nil, 3, nil},
	} {
		found, next, err := c.UnhealthyVolumes(Page{}, func(id backend.VolumeID) ([]backend.Condition, error) {
			if id == ids[1] && test.answer != nil {
				return nil, test.answer
			}
			return []backend.Condition{{Severity: backend.Degraded, Reason: "Slow"}}, nil
		})
		if len(found) != test.want || next != "" || !errors.Is(err, test.err) {
			t.Errorf("%v: found %v, next %q, %v", test.answer, found, next, err)
		}
	}
}
