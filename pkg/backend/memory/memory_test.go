package memory_test

import (
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/snapdriver/snapdriver/pkg/backend"
	"github.com/snapdriver/snapdriver/pkg/backend/backendtest"
	"github.com/snapdriver/snapdriver/pkg/backend/memory"
)

func TestConformance(t *testing.T) {
	for _, mode := range []backend.Mode{backend.Filesystem, backend.Block} {
		t.Run(string(mode), func(t *testing.T) {
			backendtest.Run(t, backendtest.Config{
				New:     func(testing.TB) backendtest.Storage { return storage{memory.NewDisk(1 << 40)} },
				Profile: backend.Profile{Mode: mode},
				Size:    1 << 20,
			})
		})
	}
}

// storage gives the suite a disk in memory.
type storage struct{ *memory.Disk }

func (s storage) Open(t testing.TB, step backend.StepFunc) backend.Backend {
	b, err := memory.Open(s.Disk, step)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Crash unlocks the disk, which is all that Close does.
func (s storage) Crash(t testing.TB, b backend.Backend) {
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
}

func (s storage) Write(t testing.TB, b backend.Backend, id backend.VolumeID, text string) {
	if err := b.(*memory.Backend).SetContent(id, text); err != nil {
		t.Fatal(err)
	}
}

func (s storage) Read(t testing.TB, b backend.Backend, id backend.VolumeID) string {
	text, err := b.(*memory.Backend).Content(id)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func (s storage) Check(t testing.TB) {
	if n := s.Uncommitted(); n != 0 {
		t.Errorf("%d objects lie about half built", n)
	}
}

// TestTwoAtOnce: what two operations build at once has to fit together.
func TestTwoAtOnce(t *testing.T) {
	var building sync.WaitGroup
	building.Add(2)
	b, err := memory.Open(memory.NewDisk(1000), func(step string) {
		if strings.HasPrefix(step, "commit ") {
			building.Done()
			building.Wait()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	results := make(chan error)
	for _, name := range []string{"a", "b"} {
		spec := backend.VolumeSpec{ID: backend.NewVolumeID("node", name), Name: name, Profile: backend.Profile{Mode: backend.Filesystem}, Capacity: 600}
		go func() {
			_, err := b.CreateVolume(t.Context(), spec, nil)
			results <- err
		}()
	}
	if one, other := <-results, <-results; (one == nil) == (other == nil) || !errors.Is(errors.Join(one, other), backend.ErrExhausted) {
		t.Errorf("%v, %v", one, other)
	}
}
