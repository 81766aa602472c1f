package poolfull

import (
	"fmt"
	"slices"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/snapdriver/snapdriver/internal/testenv"
)

// TestMetadataFull: clones of a volume share its metadata until they are
// written to, so that many fit in where there is not room for all to change.
func TestMetadataFull(t *testing.T) {
	b := newTestbed(t, testenv.PoolOptions{Disk: 2 << 30, Data: 1 << 30, Metadata: 2 * mib, Format: "--physicalextentsize 1m"})
	bystander := b.use("bystander", "ext4", 64*mib, nil)
	bystander.writePrecious("before")
	const size = 512 * mib
	original := b.use("original", "", size, nil)
	_ = original.fill() // up to its end
	var clones []*volume
	for i := range 14 {
		clones = append(clones, b.use(fmt.Sprint("clone", i), "", size, &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{
			Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: original.id},
		}}))
	}
	b.expectHealth(clones[0])
	// Refused first is what is new.
	for b.Metric("snapdriver_storage_pool_metadata_used_ratio") < 0.75 {
		if err := clones[0].touch(size); err != nil {
			t.Fatal(err)
		}
		clones = clones[1:]
	}
	b.expectHealth(clones[0], "STORAGE_DEGRADED PoolMetadataLow")
	_, err := b.create("refused", "ext4", 64*mib, nil)
	expectCode(t, err, codes.ResourceExhausted, "of its 2.0 MiB of metadata are used", "75%", "lvextend --poolmetadatasize")

	at := slices.IndexFunc(clones, func(clone *volume) bool { return clone.touch(size) != nil })
	if at < 0 {
		t.Fatalf("%d clones have not filled the metadata", len(clones))
	}
	full := clones[at]

	b.expectHealth(full, "STORAGE_UNREACHABLE PoolReadOnly", "STORAGE_DEGRADED PoolMetadataLow")
	b.expectMetrics(map[string]float64{
		"snapdriver_storage_pool_writable": 0, "snapdriver_storage_pool_metadata_used_ratio": 1,
	})
	if got := b.capacity(); got != 0 {
		t.Errorf("GetCapacity: %d", got)
	}
	_, err = b.create("refused", "ext4", 64*mib, nil)
	expectCode(t, err, codes.ResourceExhausted, "read-only", "lvextend --poolmetadatasize")
	_, err = b.snapshot("refused", bystander)
	expectCode(t, err, codes.ResourceExhausted, "read-only", "lvextend --poolmetadatasize")
	bystander.expectPrecious("before")
	// A pod can go all the same, and a volume. LVM remembers what the pool is yet
	// to be told.
	clones[0].unpublish()
	b.delete(clones[0])
	b.pool.LVM(t, "lvextend", "--poolmetadatasize", "+8m", b.name())
	b.expectHealth(full)
	if err := full.touch(size); err != nil {
		t.Errorf("there is space now: %v", err)
	}
	bystander.unpublish()
	bystander.publish()
	bystander.expectPrecious("before")
	bystander.writePrecious("after")
	bystander.expectPrecious("after")
	if _, err := b.create("admitted", "ext4", 64*mib, nil); err != nil {
		t.Error(err)
	}
}
