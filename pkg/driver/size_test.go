package driver

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/snapdriver/snapdriver/internal/testenv"
	"github.com/snapdriver/snapdriver/pkg/backend"
	"github.com/snapdriver/snapdriver/pkg/driver/mounts"
)

func TestNodeGetVolumeStats(t *testing.T) {
	forLayouts(t, func(t *testing.T, b *testbed, v *testVolume) {
		v.stats(v.path, v.path, codes.NotFound)
		v.stage(codes.OK)
		target := v.publish("a", codes.OK)
		for _, path := range []string{v.path, target} {
			usage := v.stats(path, v.path, codes.OK)
			for _, u := range usage {
				if u.Total <= 0 || u.Used < 0 || u.Available < 0 {
					t.Errorf("usage: %v", u)
				}
			}
			if v.how.GetBlock() != nil {
				if len(usage) != 1 || usage[0].Total != v.CapacityBytes {
					t.Errorf("usage of a block volume: %v, want its size %d", usage, v.CapacityBytes)
				}
			} else if len(usage) != 2 {
				t.Errorf("usage of a filesystem: %v, want bytes and inodes", usage)
			}
		}
		v.stats(b.root, v.path, codes.NotFound)
		link := v.target("link")
		if err := os.Symlink(target, link); err != nil {
			t.Fatal(err)
		}
		v.stats(link, "", codes.NotFound)
		v.stats(link+"/", "", codes.NotFound)
		v.stats(v.pods+"/x/../a", "", codes.NotFound)
		v.stats(target+"/", v.path+"//", codes.OK)
		v.stats("some/path", "", codes.NotFound)
		v.stats("", "", codes.InvalidArgument)
		_, err := v.NodeGetVolumeStats(t.Context(), &csi.NodeGetVolumeStatsRequest{VolumeId: "none", VolumePath: target})
		wantCode(t, err, codes.NotFound)
		_, err = v.NodeGetVolumeStats(t.Context(), &csi.NodeGetVolumeStatsRequest{VolumePath: "relative"})
		wantCode(t, err, codes.InvalidArgument)
	})
}

// TestExpand: growing works while pods use the volume, read-only ones too.
func TestExpand(t *testing.T) {
	forLayouts(t, func(t *testing.T, _ *testbed, v *testVolume) {
		v.stage(codes.OK)
		target := v.publish("a", codes.OK, accessMode(manyWriters))
		reader := v.publish("b", codes.OK, accessMode(readers))
		before := v.stats(target, v.path, codes.OK)[0].Total
		larger := 2 * v.CapacityBytes
		response := must[*csi.ControllerExpandVolumeResponse](t)(v.ControllerExpandVolume(t.Context(), &csi.ControllerExpandVolumeRequest{
			VolumeId: v.VolumeId, CapacityRange: &csi.CapacityRange{RequiredBytes: larger},
		}))
		expand := func(path, staging string, sizes *csi.CapacityRange, want codes.Code) {
			t.Helper()
			grown, err := v.NodeExpandVolume(t.Context(), &csi.NodeExpandVolumeRequest{VolumeId: v.VolumeId, VolumePath: path, StagingTargetPath: staging, CapacityRange: sizes})
			wantCode(t, err, want)
			if err == nil && grown.CapacityBytes != larger {
				t.Errorf("capacity %d, want %d", grown.CapacityBytes, larger)
			}
		}
		expand(v.pods, "", nil, codes.NotFound)
		expand("", "", nil, codes.InvalidArgument)
		expand(target, "", &csi.CapacityRange{RequiredBytes: 2 * larger}, codes.OutOfRange)
		expand(target, "", &csi.CapacityRange{LimitBytes: larger - 1}, codes.OutOfRange)
		expand(target, "", &csi.CapacityRange{RequiredBytes: 2, LimitBytes: 1}, codes.InvalidArgument)
		expand(target, "", &csi.CapacityRange{LimitBytes: -1}, codes.InvalidArgument)
		if v.how.GetMount().GetFsType() == "ext4" && !mounts.MayGrowMounted() {
			// Then it grows when it is mounted the next time.
			expand(target, v.path, nil, codes.FailedPrecondition)
			v.unpublish("a", codes.OK)
			v.unpublish("b", codes.OK)
			v.unstage(codes.OK)
			v.stage(codes.OK)
			v.publish("a", codes.OK, accessMode(manyWriters))
			v.publish("b", codes.OK, accessMode(readers))
		}
		expand(reader, v.path, &csi.CapacityRange{RequiredBytes: larger}, codes.OK)
		expand(target, "", nil, codes.OK)
		if !response.NodeExpansionRequired {
			return
		}
		for _, path := range []string{target, reader} {
			if after := v.stats(path, v.path, codes.OK)[0].Total; after < before+v.CapacityBytes/2 {
				t.Errorf("%s has %d bytes after, %d before", path, after, before)
			}
		}
		if v.how.GetBlock() != nil {
			wantDeviceSize(t, target, larger)
			wantDeviceSize(t, reader, larger)
		}
	})
}

// TestExpandOnNode: without ControllerExpandVolume, NodeExpandVolume does all of
// it, for what it finds where the caller says.
func TestExpandOnNode(t *testing.T) {
	forLayouts(t, func(t *testing.T, b *testbed, v *testVolume) {
		b.server.config.ExpandOnNode = true
		capabilities := must[*csi.ControllerGetCapabilitiesResponse](t)(v.ControllerGetCapabilities(t.Context(), &csi.ControllerGetCapabilitiesRequest{}))
		for _, capability := range capabilities.Capabilities {
			if capability.GetRpc().GetType() == csi.ControllerServiceCapability_RPC_EXPAND_VOLUME {
				t.Error("EXPAND_VOLUME is advertised")
			}
		}
		larger := &csi.CapacityRange{RequiredBytes: 2 * v.CapacityBytes}
		_, err := v.ControllerExpandVolume(t.Context(), &csi.ControllerExpandVolumeRequest{VolumeId: v.VolumeId, CapacityRange: larger})
		wantCode(t, err, codes.Unimplemented)
		v.stage(codes.OK)
		target := v.publish("a", codes.OK)
		expand := func(path string) (*csi.NodeExpandVolumeResponse, error) {
			return v.NodeExpandVolume(t.Context(), &csi.NodeExpandVolumeRequest{VolumeId: v.VolumeId, VolumePath: path, StagingTargetPath: v.path, CapacityRange: larger})
		}
		_, err = expand(v.pods)
		wantCode(t, err, codes.NotFound)
		if got := v.capacity(); got != v.CapacityBytes {
			t.Errorf("the volume has grown to %d although it is not where it was said to be", got)
		}
		if v.how.GetMount().GetFsType() == "ext4" && !mounts.MayGrowMounted() {
			_, err := expand(target)
			wantCode(t, err, codes.FailedPrecondition) // it grows when it is mounted the next time
		} else if grown := must[*csi.NodeExpandVolumeResponse](t)(expand(target)); grown.CapacityBytes != larger.RequiredBytes {
			t.Errorf("capacity %d, want %d", grown.CapacityBytes, larger.RequiredBytes)
		}
		if got := v.capacity(); got != larger.RequiredBytes {
			t.Errorf("the volume has %d bytes, want %d", got, larger.RequiredBytes)
		}
		if v.how.GetBlock() != nil {
			wantDeviceSize(t, target, larger.RequiredBytes)
		}
	})
}

// capacity is the size that the driver says the volume has.
func (v *testVolume) capacity() int64 {
	v.t.Helper()
	response := must[*csi.ControllerGetVolumeResponse](v.t)(v.ControllerGetVolume(background, &csi.ControllerGetVolumeRequest{VolumeId: v.VolumeId}))
	return response.Volume.CapacityBytes
}

func wantDeviceSize(t *testing.T, path string, want int64) {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if size, err := file.Seek(0, 2); err != nil || size != want {
		t.Errorf("device of %d bytes %v, want %d", size, err, want)
	}
}

func (v *testVolume) expand(size int64) {
	v.t.Helper()
	must[*csi.ControllerExpandVolumeResponse](v.t)(v.ControllerExpandVolume(background, &csi.ControllerExpandVolumeRequest{
		VolumeId: v.VolumeId, CapacityRange: &csi.CapacityRange{RequiredBytes: size},
	}))
}

// TestExpandElsewhere: what is not grown is not said to be.
func TestExpandElsewhere(t *testing.T) {
	forLayouts(t, func(t *testing.T, b *testbed, v *testVolume) {
		if v.how.GetBlock() != nil {
			return // nothing is to be seen at its staging path
		}
		other := b.volume("other", layouts["xfs"])
		other.stage(codes.OK)
		v.stage(codes.OK)
		target, link := v.publish("a", codes.OK), v.target("link")
		if err := os.Symlink(v.path, link); err != nil {
			t.Fatal(err)
		}
		for _, staging := range []string{other.path, link, link + "/", v.path + "/../v", v.pods, "relative"} {
			_, err := v.NodeExpandVolume(t.Context(), &csi.NodeExpandVolumeRequest{VolumeId: v.VolumeId, VolumePath: target, StagingTargetPath: staging})
			wantCode(t, err, codes.NotFound)
		}
	})
}

// TestLargerRestore: the first df of a pod shows the larger size, and original
// and copy are mounted on one node.
func TestLargerRestore(t *testing.T) {
	forLayouts(t, func(t *testing.T, b *testbed, v *testVolume) {
		v.stage(codes.OK)
		target := v.publish("a", codes.OK)
		if err := write(v.payload(target), "hello"); err != nil {
			t.Fatal(err)
		}
		snapshot := b.snapshot(t, "s", v.VolumeId)
		for name, source := range map[string]*csi.VolumeContentSource{"restored": fromSnapshot(snapshot.SnapshotId), "cloned": fromVolume(v.VolumeId)} {
			request := volumeRequest(name)
			for layout, change := range layouts {
				if strings.HasSuffix(t.Name(), "/"+layout) {
					change(request)
				}
			}
			copied := b.volume(name, func(r *csi.CreateVolumeRequest) {
				r.Parameters, r.VolumeCapabilities, r.VolumeContentSource = request.Parameters, request.VolumeCapabilities, source
				r.CapacityRange = &csi.CapacityRange{RequiredBytes: 2 * v.CapacityBytes}
			})
			copied.stage(codes.OK)
			place := copied.publish("of "+name, codes.OK)
			copied.wantContent(place, "hello")
			if got := copied.stats(place, "", codes.OK)[0].Total; got < 3*v.CapacityBytes/2 {
				t.Errorf("%s: %d bytes, want about %d", name, got, 2*v.CapacityBytes)
			}
		}
	})
}

// TestStageGoesOn where a crash came between mounting and growing.
func TestStageGoesOn(t *testing.T) {
	forLayouts(t, func(t *testing.T, _ *testbed, v *testVolume) {
		v.stage(codes.OK)
		before := v.stats(v.path, v.path, codes.OK)[0].Total
		v.expand(2 * v.CapacityBytes)
		v.stage(codes.OK)
		if v.how.GetMount().GetFsType() == "" || v.how.GetMount().GetFsType() == "ext4" && !mounts.MayGrowMounted() {
			return
		}
		if after := v.stats(v.path, v.path, codes.OK)[0].Total; after < before+v.CapacityBytes/2 {
			t.Errorf("%d bytes after, %d before", after, before)
		}
	})
}

// TestGrowFar: growth past the factor that mkfs.ext4 makes provisions for.
func TestGrowFar(t *testing.T) {
	testenv.RequireRoot(t)
	v := newTestbed(t).volume("v", func(r *csi.CreateVolumeRequest) {
		layouts["ext4"](r)
		r.CapacityRange.RequiredBytes = 8 * mib
	})
	v.stage(codes.OK)
	target := v.publish("a", codes.OK)
	if err := write(v.payload(target), "hello"); err != nil {
		t.Fatal(err)
	}
	v.unpublish("a", codes.OK)
	v.unstage(codes.OK)
	v.expand(10 * gib)
	v.stage(codes.OK)
	target = v.publish("a", codes.OK)
	v.wantContent(target, "hello")
	if got := v.stats(target, "", codes.OK)[0].Total; got < 9*gib {
		t.Errorf("%d bytes, want about 10 GiB", got)
	}
	v.unpublish("a", codes.OK)
	v.unstage(codes.OK)
	testenv.Run(t, "e2fsck", "-f", "-n", filepath.Join(v.root, "volumes", v.VolumeId, "image"))
}

// TestGrowUnmountedAlone: while a filesystem is written past its journal, no
// snapshot is taken. One that is running is waited for; one that grows mounted
// need not wait.
func TestGrowUnmountedAlone(t *testing.T) {
	testenv.RequireRoot(t)
	v := newTestbed(t).volume("v", layouts["ext4"])
	id, err := backend.ParseVolumeID(v.VolumeId)
	if err != nil {
		t.Fatal(err)
	}
	v.expand(2 * v.CapacityBytes)
	release, err := v.server.core().LockVolume(id)
	if err != nil {
		t.Fatal(err)
	}
	_, err = v.CreateSnapshot(background, &csi.CreateSnapshotRequest{Name: "s", SourceVolumeId: v.VolumeId})
	wantCode(t, err, codes.Aborted)
	if !mounts.MayGrowMounted() {
		v.stage(codes.Aborted)
	}
	release()
	v.stage(codes.OK)
}

// TestStatsWhileUnpublished: what is measured is the volume, or it is not there.
func TestStatsWhileUnpublished(t *testing.T) {
	forLayouts(t, func(t *testing.T, _ *testbed, v *testVolume) {
		v.stage(codes.OK)
		whole := v.stats(v.publish("a", codes.OK), v.path, codes.OK)[0].Total
		ctx, cancel := context.WithTimeout(background, 2*time.Second)
		defer cancel()
		var asking sync.WaitGroup
		for range 3 {
			asking.Go(func() {
				for ctx.Err() == nil {
					response, err := v.NodeGetVolumeStats(background, &csi.NodeGetVolumeStatsRequest{VolumeId: v.VolumeId, VolumePath: v.target("a")})
					if status.Code(err) != codes.NotFound && (err != nil || response.Usage[0].Total != whole) {
						t.Errorf("%v %v, want a total of %d or NotFound", response, err, whole)
					}
				}
			})
		}
		for ctx.Err() == nil {
			v.unpublish("a", codes.OK)
			v.publish("a", codes.OK)
		}
		asking.Wait()
	})
}
