package poolfull

import (
	"errors"
	"sync"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/snapdriver/snapdriver/internal/testenv"
)

func fromSnapshot(id string) *csi.VolumeContentSource {
	return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
		Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: id},
	}}
}

func (b *testbed) snapshot(name string, of *volume) (string, error) {
	response, err := b.Controller.CreateSnapshot(b.Context(), &csi.CreateSnapshotRequest{Name: name, SourceVolumeId: of.id})
	return response.GetSnapshot().GetSnapshotId(), err
}

func (b *testbed) capacity() int64 {
	b.Helper()
	response, err := b.Controller.GetCapacity(b.Context(), &csi.GetCapacityRequest{})
	if err != nil {
		b.Fatal(err)
	}
	return response.GetAvailableCapacity()
}

func TestDataFull(t *testing.T) {
	b := newTestbed(t, testenv.PoolOptions{Disk: 2 << 30, Data: 192 * mib, Metadata: 8 * mib})
	ext4 := b.use("ext4", "ext4", 256*mib, nil)
	xfs := b.use("xfs", "xfs", 320*mib, nil)
	ext4.writePrecious("in ext4")
	xfs.writePrecious("in xfs")
	cut, err := b.snapshot("cut", ext4)
	if err != nil {
		t.Fatal(err)
	}
	b.expectHealth(ext4)
	b.expectMetrics(map[string]float64{"snapdriver_storage_pool_writable": 1})

	var writers sync.WaitGroup
	for _, v := range []*volume{ext4, xfs} {
		writers.Go(func() { t.Logf("%s: the writer ended: %v", v.name, v.fill()) })
	}
	writers.Wait()

	b.expectHealth(ext4, "STORAGE_UNREACHABLE PoolFull", "STORAGE_DEGRADED PoolDataLow")
	b.expectHealth(xfs, "STORAGE_UNREACHABLE PoolFull", "STORAGE_DEGRADED PoolDataLow")
	b.expectMetrics(map[string]float64{
		"snapdriver_storage_pool_writable": 0, "snapdriver_storage_pool_data_used_ratio": 1,
		`snapdriver_storage_condition{reason="PoolFull",severity="Inaccessible"}`: 1,
	})
	if got := b.capacity(); got != 0 {
		t.Errorf("GetCapacity: %d", got)
	}
	for what, attempt := range map[string]func() error{
		"a volume":   func() error { _, err := b.create("refused", "ext4", 64*mib, nil); return err },
		"a restore":  func() error { _, err := b.create("refused", "ext4", 256*mib, fromSnapshot(cut)); return err },
		"a snapshot": func() error { _, err := b.snapshot("refused", ext4); return err },
		"growth": func() error {
			_, err := b.Controller.ControllerExpandVolume(t.Context(), &csi.ControllerExpandVolumeRequest{
				VolumeId: ext4.id, CapacityRange: &csi.CapacityRange{RequiredBytes: 512 * mib},
			})
			return err
		},
	} {
		t.Run(what, func(t *testing.T) {
			want := codes.ResourceExhausted
			if what == "growth" {
				want = codes.OutOfRange
			}
			expectCode(t, attempt(), want, "100.0% of its 192 MiB", "90%", "lvextend")
		})
	}
	ext4.expectPrecious("in ext4")
	xfs.expectPrecious("in xfs")
	if _, err := b.snapshot("cut", ext4); err != nil {
		t.Errorf("what was acknowledged is no longer: %v", err)
	}

	b.pool.LVM(t, "lvextend", "--size", "+512m", b.name())
	for _, v := range []*volume{ext4, xfs} {
		// A filesystem that has met errors may want to be mounted anew.
		v.unpublish()
		v.publish()
		v.expectPrecious("in " + v.name)
		b.expectHealth(v)
		v.writePrecious("again")
		v.expectPrecious("again")
	}
	b.use("restored", "ext4", 256*mib, fromSnapshot(cut)).expectPrecious("in ext4")
	b.expectMetrics(map[string]float64{"snapdriver_storage_pool_writable": 1})
	if b.capacity() == 0 {
		t.Error("GetCapacity: 0")
	}
}

// TestDeletionMakesRoom: what is full is mended by deleting something, too.
func TestDeletionMakesRoom(t *testing.T) {
	b := newTestbed(t, testenv.PoolOptions{Disk: 1 << 30, Data: 64 * mib, Metadata: 8 * mib})
	kept, ballast := b.use("kept", "", 64*mib, nil), b.use("ballast", "", 32*mib, nil)
	for _, v := range []*volume{ballast, kept} {
		t.Logf("%s: the writer ended: %v", v.name, v.fill())
	}
	b.expectHealth(kept, "STORAGE_UNREACHABLE PoolFull", "STORAGE_DEGRADED PoolDataLow")
	ballast.unpublish()
	b.delete(ballast)
	b.expectHealth(kept)
	if err := kept.touch(64 * mib); err != nil {
		t.Errorf("there is space now: %v", err)
	}
	if b.capacity() == 0 {
		t.Error("GetCapacity: 0")
	}
}

// TestWaitingWriters: where a full pool makes its writers wait, which is what
// LVM makes of one by itself, they go on when something is deleted.
func TestWaitingWriters(t *testing.T) {
	b := newTestbed(t, testenv.PoolOptions{Disk: 1 << 30, Data: 64 * mib, Metadata: 8 * mib})
	b.pool.LVM(t, "lvchange", "--errorwhenfull", "n", b.name())
	ballast, waiting := b.use("ballast", "", 32*mib, nil), b.use("waiting", "", 48*mib, nil)
	_ = ballast.fill() // up to its end
	written := make(chan error)
	go func() { written <- waiting.fill() }()
	for b.Metric("snapdriver_storage_pool_writable") == 1 {
		select {
		case err := <-written:
			t.Fatalf("the writer ended: %v", err)
		default:
		}
	}
	b.expectHealth(waiting, "STORAGE_UNREACHABLE PoolFull", "STORAGE_DEGRADED PoolDataLow")
	ballast.unpublish()
	b.delete(ballast)
	if err := <-written; !errors.Is(err, unix.ENOSPC) { // the end of the volume
		t.Errorf("the writer ended: %v", err)
	}
	if err := waiting.touch(48 * mib); err != nil {
		t.Errorf("there is space now: %v", err)
	}
	b.expectHealth(waiting)
}
