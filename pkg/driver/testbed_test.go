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
	"google.golang.org/grpc/codes"

	"github.com/snapdriver/snapdriver/internal/testenv"
	"github.com/snapdriver/snapdriver/pkg/backend/hostpath"
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
	t.Cleanup(func() { testenv.ExpectNoLeaks(t, base) })
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
