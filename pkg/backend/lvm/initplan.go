package lvm

const (
	// minInitSize is the smallest device that Init takes.
	minInitSize = 128 << 20

	// extentSize is what LVM itself takes; volumes are multiples of it.
	extentSize = 4 << 20

	smallestArea, largestArea = 1 << 20, 64 << 20

	// smallestChunk is LVM's. Small chunks make small snapshots: to change one
	// byte takes a chunk.
	smallestChunk = 64 << 10

	// maxChunks is how many chunks a pool may have before they are made larger,
	// for the sake of its metadata: 1 TiB of the smallest.
	maxChunks = 1 << 24

	// metadataPerChunk is twice what LVM reckons with, which is about 20 bytes
	// for each time that a chunk is mapped, three times over. Snapshots whose
	// volume has changed everywhere map each chunk once more.
	metadataPerChunk = 128

	smallestMetadata = 8 << 20
)

// poolPlan are the sizes of a new pool, in bytes.
type poolPlan struct {
	// area is the metadata area of the volume group. LVM's own choice, 1 MiB,
	// is full after some 800 objects (about 650 bytes each, and room for two
	// versions of them all). 64 MiB serve 50,000.
	area     int64
	chunk    int64
	metadata int64 // of the pool
}

// planPool returns the sizes of a pool on a device of that size.
func planPool(device int64) poolPlan {
	plan := poolPlan{area: min(max(device/128, smallestArea), largestArea), chunk: smallestChunk}
	plan.area -= plan.area % smallestArea
	for device/plan.chunk > maxChunks {
		plan.chunk *= 2
	}
	plan.metadata = max(device/plan.chunk*metadataPerChunk, smallestMetadata)
	plan.metadata += -plan.metadata & (extentSize - 1)
	return plan
}

// data returns the size of the pool itself, in a volume group that has so much
// free. Beside the metadata lies the spare that LVM repairs them with, and as
// much as both is left free, so that the metadata can be doubled.
func (p poolPlan) data(free int64) int64 {
	data := free - 4*p.metadata
	return data - data%extentSize
}
