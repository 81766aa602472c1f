package hostpath

import (
	"testing"

	"github.com/snapdriver/snapdriver/internal/testenv"
	"github.com/snapdriver/snapdriver/pkg/backend"
)

// A volume whose device does not answer delays no other volume.
func TestLoopsLockOneVolume(t *testing.T) {
	testenv.RequireRoot(t)
	image, _ := attachImage(t, "ext4")
	var loops loops
	slow, other := backend.NewVolumeID("node", "slow"), backend.NewVolumeID("node", "volume")
	v := loops.lock(slow)
	device, err := loops.find(other, image) // would wait for ever
	if err != nil || device == nil {
		t.Errorf("find: %v, %v; expected the device", device, err)
	}
	device.Close()
	loops.unlock(slow, v)
	if _, known := loops.known[slow]; known || len(loops.known) != 1 {
		t.Errorf("known are %v, expected only the volume that has a device", loops.known)
	}
}
