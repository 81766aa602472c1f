package driver

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/snapdriver/snapdriver/internal/testenv"
	"github.com/snapdriver/snapdriver/pkg/backend"
)

func TestNodeLife(t *testing.T) {
	forLayouts(t, func(t *testing.T, _ *testbed, v *testVolume) {
		v.unstage(codes.OK) // never staged
		v.publish("a", codes.FailedPrecondition)
		for range 2 {
			v.stage(codes.OK)
		}
		var target string
		for range 2 {
			target = v.publish("a", codes.OK)
		}
		if err := write(v.payload(target), "hello"); err != nil {
			t.Fatal(err)
		}
		_, err := v.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: v.VolumeId})
		wantCode(t, err, codes.FailedPrecondition)
		v.wantContent(target, "hello")
		for range 2 {
			v.unpublish("a", codes.OK)
		}
		_, err = v.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: v.VolumeId})
		if v.how.GetMount() != nil {
			wantCode(t, err, codes.FailedPrecondition) // still staged
		}
		for range 2 {
			v.unstage(codes.OK)
		}
		if v.how.GetMount() != nil {
			v.stage(codes.OK)
			v.wantContent(v.publish("b", codes.OK), "hello")
		}
	})
}

func TestMountFlags(t *testing.T) {
	forLayouts(t, func(t *testing.T, _ *testbed, v *testVolume) {
		if v.how.GetBlock() != nil {
			return // CSI gives block volumes none
		}
		v.how.GetMount().MountFlags = []string{"noexec", "noatime", "rw", "relatime"}
		v.stage(codes.OK)
		v.stage(codes.OK)
		target := v.publish("a", codes.OK)
		var stat unix.Statfs_t
		if err := unix.Statfs(target, &stat); err != nil {
			t.Fatal(err)
		}
		if stat.Flags&unix.ST_NOEXEC == 0 || stat.Flags&unix.ST_NOATIME == 0 || stat.Flags&unix.ST_NOSUID != 0 {
			t.Errorf("flags of the target: %x", stat.Flags)
		}
		v.publish("a", codes.OK)
		v.how.GetMount().MountFlags = []string{"nosuid"}
		v.publish("a", codes.AlreadyExists)
		v.stage(codes.AlreadyExists)
		v.how.GetMount().MountFlags = []string{"context=secret"}
		v.publish("b", codes.InvalidArgument)
		v.stage(codes.InvalidArgument)
	})
}

// TestRemountedBelow: what becomes of a filesystem after a volume was staged and
// published keeps neither from being acknowledged again.
func TestRemountedBelow(t *testing.T) {
	testenv.RequireRoot(t)
	for _, flags := range []string{"noatime", "nosuid,nodev", "ro"} {
		b := newTestbed(t)
		v := b.volume("directory", layouts["directory"])
		v.stage(codes.OK)
		v.publish("a", codes.OK)
		testenv.Run(t, "mount", "-o", "remount,bind,"+flags, filepath.Dir(b.root))
		v.stage(codes.OK)
		v.publish("a", codes.OK)
		testenv.Run(t, "mount", "-o", "remount,bind,rw", filepath.Dir(b.root))
	}
	b := newTestbed(t)
	v := b.volume("image", layouts["ext4"])
	v.stage(codes.OK)
	target := v.publish("a", codes.OK)
	testenv.Run(t, "mount", "-o", "remount,errors=remount-ro", v.path)
	testenv.FailExt4(t, v.path)
	v.stage(codes.OK)
	v.publish("a", codes.OK)
	if err := write(v.payload(target), "x"); err == nil {
		t.Error("it was not made read-only")
	}
	v.publish("a", codes.AlreadyExists, readOnly)
}

func TestOtherCapability(t *testing.T) {
	forLayouts(t, func(t *testing.T, _ *testbed, v *testVolume) {
		own, other := v.how, blockCapability(writer)
		if own.GetBlock() != nil {
			other = capability(writer)
		}
		v.how = other
		if v.stage(codes.FailedPrecondition); own.GetBlock() == nil {
			odd := capability(writer)
			odd.GetMount().FsType = "btrfs"
			v.how = odd
			v.stage(codes.FailedPrecondition)
		}
		v.how = own
		v.stage(codes.OK)
		v.publish("a", codes.OK)
		v.how = other
		v.stage(codes.AlreadyExists)
		v.publish("a", codes.AlreadyExists)
		v.publish("b", codes.FailedPrecondition)
		v.how = own
	})
}

// The filesystem may be named that the driver has chosen.
func TestFilesystemNamedLater(t *testing.T) {
	testenv.RequireRoot(t)
	v := newTestbed(t).volume("v", func(r *csi.CreateVolumeRequest) {
		r.Parameters = map[string]string{"layout": "image"}
	})
	for _, test := range []struct {
		fsType string
		want   codes.Code
	}{{"xfs", codes.FailedPrecondition}, {"ext4", codes.OK}} {
		v.how = capability(writer)
		v.how.GetMount().FsType = test.fsType
		v.stage(test.want)
	}
	response, err := v.ValidateVolumeCapabilities(background, &csi.ValidateVolumeCapabilitiesRequest{
		VolumeId: v.VolumeId, VolumeCapabilities: []*csi.VolumeCapability{v.how},
	})
	if err != nil || response.GetConfirmed() == nil {
		t.Errorf("not confirmed: %v, %v", response, err)
	}
}

// Node RPCs on one volume exclude each other, and its deletion; those on
// another volume do not notice.
func TestNodeCallsAtOnce(t *testing.T) {
	testenv.RequireRoot(t)
	b := newTestbed(t)
	v, other := b.volume("v", layouts["directory"]), b.volume("other", layouts["directory"])
	id, err := backend.ParseVolumeID(v.VolumeId)
	if err != nil {
		t.Fatal(err)
	}
	release, err := b.server.core().LockNode(id)
	if err != nil {
		t.Fatal(err)
	}
	v.stage(codes.Aborted)
	v.publish("a", codes.Aborted)
	v.unpublish("a", codes.Aborted)
	v.unstage(codes.Aborted)
	_, err = v.DeleteVolume(background, &csi.DeleteVolumeRequest{VolumeId: v.VolumeId})
	wantCode(t, err, codes.Aborted)
	other.stage(codes.OK)
	release()
	v.stage(codes.OK)
}

// TestPaths: paths that would hide, lose or reveal something are refused.
func TestPaths(t *testing.T) {
	forLayouts(t, func(t *testing.T, b *testbed, v *testVolume) {
		own := v.path
		full, link, file := filepath.Join(b.pods, "full"), filepath.Join(b.pods, "link"), filepath.Join(b.pods, "file")
		if err := errors.Join(os.Mkdir(full, 0o755), os.WriteFile(filepath.Join(full, "precious"), nil, 0o600), os.Symlink(own, link), os.WriteFile(file, []byte("x"), 0o600)); err != nil {
			t.Fatal(err)
		}
		refused := []string{"", "relative", own + "/../x", b.root, filepath.Join(b.root, "volumes"), filepath.Dir(b.root), link}
		staging := refused
		if v.how.GetMount() != nil {
			staging = append(staging, full, filepath.Join(b.pods, "none"))
		}
		for _, v.path = range staging {
			v.stage(codes.InvalidArgument)
		}
		v.path = own
		v.stage(codes.OK)
		for _, path := range append(refused, full, file, filepath.Join(b.pods, "no parent", "x")) {
			v.publish("", codes.InvalidArgument, func(r *csi.NodePublishVolumeRequest) { r.TargetPath = path })
		}
		v.publish("a", codes.FailedPrecondition, func(r *csi.NodePublishVolumeRequest) { r.StagingTargetPath = "" })
		for _, path := range refused {
			_, err := v.NodeUnpublishVolume(t.Context(), &csi.NodeUnpublishVolumeRequest{VolumeId: v.VolumeId, TargetPath: path})
			wantCode(t, err, codes.InvalidArgument)
			_, err = v.NodeUnstageVolume(t.Context(), &csi.NodeUnstageVolumeRequest{VolumeId: v.VolumeId, StagingTargetPath: path})
			wantCode(t, err, codes.InvalidArgument)
		}
		for _, path := range []string{full, file} {
			_, err := v.NodeUnpublishVolume(t.Context(), &csi.NodeUnpublishVolumeRequest{VolumeId: v.VolumeId, TargetPath: path})
			wantCode(t, err, codes.FailedPrecondition)
		}
		for _, path := range []string{filepath.Join(full, "precious"), file, link} {
			if _, err := os.Lstat(path); err != nil {
				t.Error(err)
			}
		}
	})
}

// TestForeignMount: what somebody else has mounted is neither taken for the
// volume nor covered.
func TestForeignMount(t *testing.T) {
	forLayouts(t, func(t *testing.T, b *testbed, v *testVolume) {
		if v.how.GetMount() != nil {
			testenv.Run(t, "mount", "-t", "tmpfs", "tmpfs", v.path)
			v.stage(codes.FailedPrecondition)
			v.publish("a", codes.FailedPrecondition)
			testenv.Run(t, "umount", v.path)
		}
		v.stage(codes.OK)
		target := v.target("a")
		if err := os.Mkdir(target, 0o755); err != nil {
			t.Fatal(err)
		}
		testenv.Run(t, "mount", "-t", "tmpfs", "tmpfs", target)
		v.publish("a", codes.FailedPrecondition)
		testenv.Run(t, "umount", target)
		if err := os.Remove(target); err != nil {
			t.Fatal(err)
		}
		other := b.volume("other", layouts["directory"])
		other.stage(codes.OK)
		if v.how.GetMount() != nil {
			v.publish("a", codes.FailedPrecondition, func(r *csi.NodePublishVolumeRequest) { r.StagingTargetPath = other.path })
		}
	})
}
