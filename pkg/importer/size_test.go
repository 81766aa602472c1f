package importer

import (
	"math"
	"testing"
)

// TestLargestDoesNotOverflow, whatever the headers of an archive say.
func TestLargestDoesNotOverflow(t *testing.T) {
	const inode = 16 << 10
	for _, bytes := range []int64{0, mib, maxBytes - 1, maxBytes, 1<<61 - 1, math.MaxInt64} {
		for _, entries := range []int64{0, 1, maxBytes/inode - 1, maxBytes / inode, math.MaxInt64 / 4 / inode, math.MaxInt64} {
			if most := largest(bytes, entries); most < bytes {
				t.Errorf("%d bytes in %d files: %d", bytes, entries, most)
			}
		}
	}
}
