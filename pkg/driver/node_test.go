package driver

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/snapdriver/snapdriver/internal/loop"
	"github.com/snapdriver/snapdriver/internal/testenv"
	"github.com/snapdriver/snapdriver/pkg/backend"
	"github.com/snapdriver/snapdriver/pkg/backend/hostpath"
	"github.com/snapdriver/snapdriver/pkg/driver/mounts"
)

// testbed is a server over hostpath on a fresh filesystem, and directories as
// a kubelet has them, with a space and a line feed in their names.
type testbed struct {
	client
	t       *testing.T
	root    string
	staging string
	pods    string
}

// layouts are the kinds of volume that node RPCs treat differently.
var layouts = map[string]func(*csi.CreateVolumeRequest){
	"directory": func(*csi.CreateVolumeRequest) {},
	"ext4": func(r *csi.CreateVolumeRequest) {
		r.Parameters = map[string]string{"layout": "image"}
		r.VolumeCapabilities[0].GetMount().FsType = "ext4"
	},
	"xfs": func(r *csi.CreateVolumeRequest) {
		r.Parameters = map[string]string{"layout": "image"}
		r.VolumeCapabilities[0].GetMount().FsType = "xfs"
		r.CapacityRange.RequiredBytes = 512 * mib
	},
	"block": func(r *csi.CreateVolumeRequest) { r.VolumeCapabilities[0] = blockCapability(writer) },
}

func newTestbed(t *testing.T) *testbed {
	t.Helper()
	base := testenv.Filesystem(t, "ext4", 16*gib)
	b := &testbed{t: t, root: filepath.Join(base, "root"), staging: filepath.Join(base, "stage a\nb"), pods: filepath.Join(base, "pods a\nb")}
	opened, err := hostpath.Open(b.root, hostpath.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		leaks, err := testenv.Leaks(base)
		leaks = slices.DeleteFunc(leaks, func(leak string) bool { return leak == "mount "+base })
		if err != nil || len(leaks) > 0 {
			t.Errorf("left behind: %q %v", leaks, err)
		}
	})
	for _, dir := range []string{b.staging, b.pods} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	b.client = start(t, opened, func(c *Config) { c.PrivateDir, c.MaxVolumesPerNode = b.root, 7 })
	return b
}

// volume makes a volume that is taken down when the test ends, whatever
// became of it.
func (b *testbed) volume(name string, change func(*csi.CreateVolumeRequest)) *testVolume {
	b.t.Helper()
	request := volumeRequest(name)
	change(request)
	v := &testVolume{testbed: b, Volume: b.create(b.t, request), how: request.VolumeCapabilities[0], path: filepath.Join(b.staging, name)}
	if err := os.Mkdir(v.path, 0o755); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		for _, target := range v.targets {
			v.unpublish(target, codes.OK)
		}
		v.unstage(codes.OK)
		must[*csi.DeleteVolumeResponse](b.t)(b.DeleteVolume(background, &csi.DeleteVolumeRequest{VolumeId: v.VolumeId}))
	})
	return v
}

// testVolume is a volume with the paths that it is used at.
type testVolume struct {
	*testbed
	*csi.Volume
	how     *csi.VolumeCapability
	path    string // staging
	targets []string
}

func (v *testVolume) target(name string) string { return filepath.Join(v.pods, name) }

func (v *testVolume) stage(want codes.Code) {
	v.t.Helper()
	_, err := v.NodeStageVolume(background, &csi.NodeStageVolumeRequest{VolumeId: v.VolumeId, StagingTargetPath: v.path, VolumeCapability: v.how})
	wantCode(v.t, err, want)
}

func (v *testVolume) unstage(want codes.Code) {
	v.t.Helper()
	_, err := v.NodeUnstageVolume(background, &csi.NodeUnstageVolumeRequest{VolumeId: v.VolumeId, StagingTargetPath: v.path})
	wantCode(v.t, err, want)
}

// publish publishes at a target and returns its path. Changes apply to the
// request.
func (v *testVolume) publish(name string, want codes.Code, changes ...func(*csi.NodePublishVolumeRequest)) string {
	v.t.Helper()
	request := &csi.NodePublishVolumeRequest{VolumeId: v.VolumeId, StagingTargetPath: v.path, TargetPath: v.target(name), VolumeCapability: v.how}
	for _, change := range changes {
		change(request)
	}
	_, err := v.NodePublishVolume(background, request)
	wantCode(v.t, err, want)
	if err == nil && !slices.Contains(v.targets, name) {
		v.targets = append(v.targets, name)
	}
	return v.target(name)
}

func (v *testVolume) unpublish(name string, want codes.Code) {
	v.t.Helper()
	_, err := v.NodeUnpublishVolume(background, &csi.NodeUnpublishVolumeRequest{VolumeId: v.VolumeId, TargetPath: v.target(name)})
	wantCode(v.t, err, want)
	if _, statErr := os.Lstat(v.target(name)); err == nil && !errors.Is(statErr, fs.ErrNotExist) {
		v.t.Errorf("the target is there after NodeUnpublishVolume: %v", statErr)
	}
}

func (v *testVolume) stats(path, staging string, want codes.Code) []*csi.VolumeUsage {
	v.t.Helper()
	response, err := v.NodeGetVolumeStats(background, &csi.NodeGetVolumeStatsRequest{VolumeId: v.VolumeId, VolumePath: path, StagingTargetPath: staging})
	wantCode(v.t, err, want)
	return response.GetUsage()
}

func readOnly(r *csi.NodePublishVolumeRequest) { r.Readonly = true }

func accessMode(mode csi.VolumeCapability_AccessMode_Mode) func(*csi.NodePublishVolumeRequest) {
	return func(r *csi.NodePublishVolumeRequest) {
		r.VolumeCapability = &csi.VolumeCapability{AccessType: r.VolumeCapability.AccessType, AccessMode: &csi.VolumeCapability_AccessMode{Mode: mode}}
	}
}

// payload is where a pod writes: a file, or the device.
func (v *testVolume) payload(target string) string {
	if v.how.GetBlock() != nil {
		return target
	}
	return filepath.Join(target, "file")
}

// write writes as a pod does, past the cache.
func write(path, text string) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := file.WriteString(text); err != nil {
		return err
	}
	return file.Sync()
}

func (v *testVolume) wantContent(target, want string) {
	v.t.Helper()
	file, err := os.Open(v.payload(target))
	if err != nil {
		v.t.Fatal(err)
	}
	defer file.Close()
	got := make([]byte, len(want))
	if _, err := file.Read(got); err != nil || !bytes.Equal(got, []byte(want)) {
		v.t.Errorf("content %q %v, want %q", got, err, want)
	}
}

// forLayouts runs a test for each layout.
func forLayouts(t *testing.T, run func(t *testing.T, b *testbed, v *testVolume)) {
	testenv.RequireRoot(t)
	for layout, change := range layouts {
		t.Run(layout, func(t *testing.T) {
			b := newTestbed(t)
			run(t, b, b.volume("v", change))
		})
	}
}

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
		_, err := v.NodeUnpublishVolume(t.Context(), &csi.NodeUnpublishVolumeRequest{TargetPath: target})
		wantCode(t, err, codes.InvalidArgument)
	})
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
