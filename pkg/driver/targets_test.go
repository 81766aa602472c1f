package driver

import (
	"slices"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/snapdriver/snapdriver/internal/loop"
	"github.com/snapdriver/snapdriver/internal/testenv"
	"github.com/snapdriver/snapdriver/pkg/backend"
	"github.com/snapdriver/snapdriver/pkg/driver/mounts"
)

// TestReadOnly: who may not write cannot, whatever made the target read-only,
// while others go on writing.
func TestReadOnly(t *testing.T) {
	forLayouts(t, func(t *testing.T, _ *testbed, v *testVolume) {
		v.stage(codes.OK)
		writable := v.publish("writer", codes.OK, accessMode(manyWriters))
		if err := write(v.payload(writable), "hello"); err != nil {
			t.Fatal(err)
		}
		for name, change := range map[string]func(*csi.NodePublishVolumeRequest){
			"readonly": func(r *csi.NodePublishVolumeRequest) { accessMode(manyWriters)(r); r.Readonly = true },
			"readers":  accessMode(readers),
		} {
			var target string
			for range 2 {
				target = v.publish(name, codes.OK, change)
			}
			v.wantContent(target, "hello")
			if err := write(v.payload(target), "HELLO"); err == nil {
				t.Errorf("%s: it can be written", name)
			}
			v.publish(name, codes.AlreadyExists, accessMode(manyWriters))
			v.stats(target, v.path, codes.OK)
		}
		v.publish("writer", codes.AlreadyExists, readOnly, accessMode(manyWriters))
		v.wantContent(writable, "hello")
		if err := write(v.payload(writable), "still"); err != nil {
			t.Errorf("the writer: %v", err)
		}
		v.unpublish("readers", codes.OK)
		v.unpublish("readonly", codes.OK)
		v.unpublish("writer", codes.OK)
	})
}

// TestSecondTarget follows CSI's table of second NodePublishVolume calls.
func TestSecondTarget(t *testing.T) {
	forLayouts(t, func(t *testing.T, _ *testbed, v *testVolume) {
		v.stage(codes.OK)
		for mode, want := range map[csi.VolumeCapability_AccessMode_Mode]codes.Code{
			oneWriter: codes.FailedPrecondition, writer: codes.FailedPrecondition, oneReader: codes.FailedPrecondition,
			manyWriters: codes.OK, readers: codes.OK,
		} {
			v.publish("one", codes.OK, accessMode(mode))
			v.publish("one", codes.OK, accessMode(mode))
			v.publish("two", want, accessMode(mode))
			v.unpublish("two", codes.OK)
			v.unpublish("one", codes.OK)
		}
	})
}

// TestMadeForOneWriter: no second target, whatever a later request says.
func TestMadeForOneWriter(t *testing.T) {
	forLayouts(t, func(t *testing.T, b *testbed, like *testVolume) {
		v := b.volume("one", func(r *csi.CreateVolumeRequest) {
			r.VolumeCapabilities[0] = &csi.VolumeCapability{AccessType: like.how.AccessType, AccessMode: &csi.VolumeCapability_AccessMode{Mode: oneWriter}}
			r.CapacityRange.RequiredBytes = like.CapacityBytes
			if like.how.GetMount().GetFsType() != "" {
				r.Parameters = map[string]string{"layout": "image"}
			}
		})
		v.stage(codes.OK)
		v.publish("a", codes.OK)
		for _, mode := range []csi.VolumeCapability_AccessMode_Mode{oneWriter, manyWriters, readers} {
			v.publish("b", codes.FailedPrecondition, accessMode(mode))
		}
		v.publish("a", codes.OK)
		v.unpublish("a", codes.OK)
		v.publish("b", codes.OK, accessMode(manyWriters))
	})
}

// TestReaderOfDeadNamespace: a read-only target stays known when the container
// that made it is gone, and with it the path at which that saw the device.
func TestReaderOfDeadNamespace(t *testing.T) {
	testenv.RequireRoot(t)
	v := newTestbed(t).volume("v", layouts["block"])
	v.stage(codes.OK)
	id, err := backend.ParseVolumeID(v.VolumeId)
	if err != nil {
		t.Fatal(err)
	}
	mount, _, err := v.server.core().Attached(background, id)
	if err != nil {
		t.Fatal(err)
	}
	testenv.Run(t, "unshare", "--mount", "losetup", "--read-only", "--find", mount.Source)
	target := v.publish("readonly", codes.OK, accessMode(oneReader))
	if left, err := mounts.Elsewhere(mount); err != nil || !slices.Equal(left, []string{target}) {
		t.Errorf("published at %q %v", left, err)
	}
	v.publish("readonly", codes.OK, accessMode(oneReader))
	v.stats(target, v.path, codes.OK)
	v.publish("writer", codes.FailedPrecondition, accessMode(oneWriter))
	_, err = v.DeleteVolume(background, &csi.DeleteVolumeRequest{VolumeId: v.VolumeId})
	wantCode(t, err, codes.FailedPrecondition)
	var stat unix.Stat_t
	if err := unix.Stat(target, &stat); err != nil {
		t.Fatal(err)
	}
	if of := loop.BackingFile(int(unix.Minor(stat.Rdev))); of == mount.Source || of == "" {
		t.Errorf("the target is not on the device of the dead namespace: that is over %q", of)
	}
}
