package dm

import (
	"testing"

	"golang.org/x/sys/unix"
)

// FuzzTargets: whatever is answered, reading it ends, without a panic.
func FuzzTargets(f *testing.F) {
	f.Add(uint32(1), make([]byte, 48))
	f.Add(uint32(3), []byte("short"))
	f.Fuzz(func(t *testing.T, count uint32, data []byte) {
		count %= 1000
		targets, err := reply{unix.DmIoctl{Target_count: count}, data}.targets()
		if err == nil && len(targets) != int(count) {
			t.Errorf("%d targets of %d, and no error", len(targets), count)
		}
	})
}
