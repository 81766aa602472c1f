package driver

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/snapdriver/snapdriver/internal/testenv"
	"github.com/snapdriver/snapdriver/pkg/backend"
	"github.com/snapdriver/snapdriver/pkg/driver/mounts"
)

// What a read-only target has used is in use until the volume is unstaged.
func TestDeleteStagedReadOnlyBlock(t *testing.T) {
	testenv.RequireRoot(t)
	v := newTestbed(t).volume("v", layouts["block"])
	v.stage(codes.OK)
	v.publish("readonly", codes.OK, readOnly)
	v.unpublish("readonly", codes.OK)
	_, err := v.DeleteVolume(background, &csi.DeleteVolumeRequest{VolumeId: v.VolumeId})
	wantCode(t, err, codes.FailedPrecondition)
}

// TestTakingDown works when all else is gone.
func TestTakingDown(t *testing.T) {
	forLayouts(t, func(t *testing.T, b *testbed, v *testVolume) {
		v.stage(codes.OK)
		target := v.publish("a", codes.OK)
		if v.how.GetBlock() != nil {
			v.unstage(codes.FailedPrecondition) // the device would go from under the target
		}
		testenv.Run(t, "umount", target) // by somebody else
		v.unpublish("a", codes.OK)
		v.publish("a", codes.OK)
		v.unpublish("a", codes.OK)
		if v.how.GetMount() != nil {
			testenv.Run(t, "umount", v.path)
		}
		v.unstage(codes.OK)
		must[*csi.DeleteVolumeResponse](t)(v.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: v.VolumeId}))
		v.stage(codes.NotFound)
		v.publish("a", codes.NotFound)
		for _, id := range []string{v.VolumeId, "nonsense", backend.NewVolumeID("other", "v").String()} {
			must[*csi.NodeUnpublishVolumeResponse](t)(v.NodeUnpublishVolume(t.Context(), &csi.NodeUnpublishVolumeRequest{VolumeId: id, TargetPath: target}))
			must[*csi.NodeUnstageVolumeResponse](t)(v.NodeUnstageVolume(t.Context(), &csi.NodeUnstageVolumeRequest{VolumeId: id, StagingTargetPath: v.path}))
		}
		below := filepath.Join(os.DevNull, "file") // which is no directory
		must[*csi.NodeUnpublishVolumeResponse](t)(v.NodeUnpublishVolume(t.Context(), &csi.NodeUnpublishVolumeRequest{VolumeId: v.VolumeId, TargetPath: below}))
		must[*csi.NodeUnstageVolumeResponse](t)(v.NodeUnstageVolume(t.Context(), &csi.NodeUnstageVolumeRequest{VolumeId: v.VolumeId, StagingTargetPath: below}))
		_, err := v.NodeUnpublishVolume(t.Context(), &csi.NodeUnpublishVolumeRequest{TargetPath: target})
		wantCode(t, err, codes.InvalidArgument)
	})
}

// TestTakingDownShutDown: a filesystem that answers everything with an error is
// taken down like any other.
func TestTakingDownShutDown(t *testing.T) {
	testenv.RequireRoot(t)
	b := newTestbed(t)
	for _, kind := range []string{"ext4", "xfs"} {
		v := b.volume(kind, layouts[kind])
		v.stage(codes.OK)
		testenv.ShutDown(t, v.publish(kind, codes.OK))
		for range 2 {
			v.unpublish(kind, codes.OK)
		}
		for range 2 {
			v.unstage(codes.OK)
		}
		v.stage(codes.OK)
	}
}

// TestUnstageWithoutRecord: a volume whose record is damaged is taken down, and
// leaves no device behind. But a raw device is not taken from under a target
// that may be there.
func TestUnstageWithoutRecord(t *testing.T) {
	forLayouts(t, func(t *testing.T, b *testbed, v *testVolume) {
		v.stage(codes.OK)
		record, aside := filepath.Join(b.root, "volumes", v.VolumeId, "meta.json"), filepath.Join(b.pods, "record")
		if err := os.Rename(record, aside); err != nil {
			t.Fatal(err)
		}
		want, devices := codes.OK, 0
		if v.how.GetBlock() != nil {
			want, devices = codes.Internal, 1
		}
		for range 2 {
			v.unstage(want)
		}
		if left, err := testenv.Leaks(b.root); err != nil || len(left) != devices {
			t.Errorf("left behind: %q %v", left, err)
		}
		if mounted, err := mounts.Mounted(v.path); err != nil || mounted {
			t.Errorf("still mounted: %v", err)
		}
		if err := os.Rename(aside, record); err != nil {
			t.Fatal(err)
		}
	})
}

// TestDeleteWithoutData: a volume whose data are lost, and which no device holds,
// is deleted like any other.
func TestDeleteWithoutData(t *testing.T) {
	forLayouts(t, func(t *testing.T, b *testbed, v *testVolume) {
		for _, data := range []string{"data", "image"} {
			if err := os.RemoveAll(filepath.Join(b.root, "volumes", v.VolumeId, data)); err != nil {
				t.Fatal(err)
			}
		}
		v.unstage(codes.OK)
		must[*csi.DeleteVolumeResponse](t)(v.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: v.VolumeId}))
	})
}

// TestDeleteWithoutImage: a device that still holds the lost image is not
// forgotten.
func TestDeleteWithoutImage(t *testing.T) {
	testenv.RequireRoot(t)
	b := newTestbed(t)
	v := b.volume("v", layouts["ext4"])
	v.stage(codes.OK)
	image := filepath.Join(b.root, "volumes", v.VolumeId, "image")
	if err := errors.Join(os.Link(image, filepath.Join(b.root, "kept")), os.Remove(image)); err != nil {
		t.Fatal(err)
	}
	_, err := v.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: v.VolumeId})
	wantCode(t, err, codes.FailedPrecondition)
	if !strings.Contains(status.Convert(err).Message(), "losetup -d /dev/loop") {
		t.Errorf("it names no remedy: %v", err)
	}
	if err := os.Rename(filepath.Join(b.root, "kept"), image); err != nil {
		t.Fatal(err)
	}
}
