package loop_test

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/snapdriver/snapdriver/internal/loop"
	"github.com/snapdriver/snapdriver/internal/testenv"
)

// TestFreedWhileLookedAt: who looks whether a device holds a file learns that it
// does, or that it does not, also while the kernel is freeing it.
func TestFreedWhileLookedAt(t *testing.T) {
	testenv.RequireRoot(t)
	file, err := os.Create(filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := file.Truncate(1 << 20); err != nil {
		t.Fatal(err)
	}
	for range 200 {
		device, err := loop.Bind(file, false)
		if err != nil {
			t.Fatal(err)
		}
		var lookers sync.WaitGroup
		for range 4 {
			lookers.Go(func() {
				for range 50 {
					found, err := loop.OpenIfHolds(device.Number, file)
					found.Close()
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		if err := device.Detach(); err != nil {
			t.Error(err)
		}
		device.Close()
		lookers.Wait()
	}
}
