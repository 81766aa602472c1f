package poolfull

import (
	"bytes"
	"context"
	"crypto/sha256"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/snapdriver/snapdriver/internal/testdriver"
	"github.com/snapdriver/snapdriver/internal/testenv"
)

const mib = 1 << 20

// testbed is the driver on a thin pool, and a place for pods.
type testbed struct {
	*testdriver.Driver
	*testing.T
	pool testenv.Pool
	pods string

	wasFull bool // seen to be full at some time
}

func newTestbed(t *testing.T, options testenv.PoolOptions) *testbed {
	b := &testbed{T: t, pool: testenv.ThinPool(t, options), pods: testenv.TempDir(t)}
	// As "snapdriver lvm init" makes it.
	b.pool.LVM(t, "lvchange", "--errorwhenfull", "y", b.name())
	b.Driver = testdriver.New(t, t.TempDir())
	b.Flags = []string{
		"--backend=lvm", "--volume-group=" + b.pool.Group, "--thin-pool=" + b.pool.Name,
		"--lock-dir=" + t.TempDir(),
	}
	b.Start()
	return b
}

func (b *testbed) name() string { return b.pool.Group + "/" + b.pool.Name }

// volume is one that a pod uses.
type volume struct {
	*testbed
	id, name   string
	capability *csi.VolumeCapability
}

// create makes a volume, of a filesystem or, if fsType is empty, a raw one.
func (b *testbed) create(name, fsType string, size int64, source *csi.VolumeContentSource) (*volume, error) {
	v := &volume{testbed: b, name: name, capability: &csi.VolumeCapability{
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
		AccessType: &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}},
	}}
	if fsType != "" {
		v.capability.AccessType = &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: fsType}}
	}
	response, err := b.Controller.CreateVolume(b.Context(), &csi.CreateVolumeRequest{
		Name: name, CapacityRange: &csi.CapacityRange{RequiredBytes: size},
		VolumeCapabilities: []*csi.VolumeCapability{v.capability}, VolumeContentSource: source,
	})
	v.id = response.GetVolume().GetVolumeId()
	return v, err
}

// use makes a volume and takes it to a pod.
func (b *testbed) use(name, fsType string, size int64, source *csi.VolumeContentSource) *volume {
	b.Helper()
	v, err := b.create(name, fsType, size, source)
	if err != nil {
		b.Fatal(err)
	}
	v.publish()
	return v
}

func (v *volume) staging() string { return filepath.Join(v.pods, "staging-"+v.name) }
func (v *volume) target() string  { return filepath.Join(v.pods, v.name) }

func (v *volume) publish() {
	v.Helper()
	if err := os.MkdirAll(v.staging(), 0o750); err != nil {
		v.Fatal(err)
	}
	if _, err := v.Node.NodeStageVolume(v.Context(), &csi.NodeStageVolumeRequest{
		VolumeId: v.id, StagingTargetPath: v.staging(), VolumeCapability: v.capability,
	}); err != nil {
		v.Fatal(err)
	}
	if _, err := v.Node.NodePublishVolume(v.Context(), &csi.NodePublishVolumeRequest{
		VolumeId: v.id, StagingTargetPath: v.staging(), TargetPath: v.target(), VolumeCapability: v.capability,
	}); err != nil {
		v.Fatal(err)
	}
	v.Cleanup(v.cleanUp)
}

func (v *volume) unpublish() {
	v.Helper()
	ctx := context.WithoutCancel(v.Context())
	if _, err := v.Node.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: v.id, TargetPath: v.target()}); err != nil {
		v.Error(err)
	}
	if _, err := v.Node.NodeUnstageVolume(ctx, &csi.NodeUnstageVolumeRequest{VolumeId: v.id, StagingTargetPath: v.staging()}); err != nil {
		v.Error(err)
	}
}

func (b *testbed) delete(v *volume) {
	b.Helper()
	if _, err := b.Controller.DeleteVolume(b.Context(), &csi.DeleteVolumeRequest{VolumeId: v.id}); err != nil {
		b.Error(err)
	}
}

// cleanUp takes a volume from its pod, whatever became of the test.
func (v *volume) cleanUp() {
	if leaks, err := testenv.Leaks(v.pods); err == nil && len(leaks) > 0 {
		v.unpublish()
	}
}

// fill writes to a volume until an error ends it.
func (v *volume) fill() error {
	path := v.target()
	if v.capability.GetMount() != nil {
		path = filepath.Join(path, "filler")
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_SYNC, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	block := bytes.Repeat([]byte("x"), mib)
	for {
		if _, err := file.Write(block); err != nil {
			return err
		}
	}
}

// touch writes a little in many places of a raw volume, until an error ends it.
func (v *volume) touch(size int64) error {
	device, err := os.OpenFile(v.target(), os.O_WRONLY|os.O_SYNC, 0)
	if err != nil {
		return err
	}
	defer device.Close()
	for at := int64(0); at < size; at += 8 * mib {
		if _, err := device.WriteAt(bytes.Repeat([]byte("y"), 4096), at); err != nil {
			return err
		}
	}
	return nil
}

// precious is 4 MiB that is to survive, other for each seed.
func precious(seed string) []byte {
	content := make([]byte, 0, 4*mib)
	for block := sha256.Sum256([]byte(seed)); len(content) < 4*mib; block = sha256.Sum256(block[:]) {
		content = append(content, block[:]...)
	}
	return content
}

func (v *volume) writePrecious(seed string) {
	v.Helper()
	file, err := os.Create(filepath.Join(v.target(), "precious"))
	if err != nil {
		v.Fatal(err)
	}
	defer file.Close()
	if _, err := file.Write(precious(seed)); err != nil {
		v.Fatal(err)
	}
	if err := file.Sync(); err != nil {
		v.Fatal(err)
	}
}

func (v *volume) expectPrecious(seed string) {
	v.Helper()
	content, err := os.ReadFile(filepath.Join(v.target(), "precious"))
	if err != nil || !bytes.Equal(content, precious(seed)) {
		v.Errorf("%s: what was written before is not there: %d bytes, %v", v.name, len(content), err)
	}
}

func expectCode(t *testing.T, err error, code codes.Code, parts ...string) {
	t.Helper()
	if status.Code(err) != code {
		t.Errorf("%v, expected %s", err, code)
		return
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error lacks %q: %v", part, err)
		}
	}
}

// expectHealth asks every health RPC: whether the storage has these conditions,
// and whether a volume has what makes the storage unreachable, if anything does.
func (b *testbed) expectHealth(v *volume, want ...string) {
	b.Helper()
	whole, err := b.Node.NodeGetStorageHealth(b.Context(), &csi.NodeGetStorageHealthRequest{})
	if err != nil {
		b.Fatal(err)
	}
	var got []string
	for _, entry := range whole.GetBackendHealth() {
		got = append(got, entry.GetStatus().String()+" "+entry.GetReason())
	}
	if !slices.Equal(got, want) {
		b.Errorf("NodeGetStorageHealth: %v, expected %q", whole, want)
	}
	asked := map[string]*csi.VolumeHealth{}
	atNode, err := b.Node.NodeGetVolumeHealth(b.Context(), &csi.NodeGetVolumeHealthRequest{
		VolumeId: v.id, StagingTargetPath: v.staging(), VolumePublishPath: v.target(),
	})
	if err != nil {
		b.Fatal(err)
	}
	asked["NodeGetVolumeHealth"] = atNode.GetVolumeHealth()
	one, err := b.Controller.ControllerGetVolumeHealth(b.Context(), &csi.ControllerGetVolumeHealthRequest{VolumeId: v.id})
	if err != nil {
		b.Fatal(err)
	}
	asked["ControllerGetVolumeHealth"] = one.GetVolumeHealth()
	list, err := b.Controller.ControllerListVolumeHealth(b.Context(), &csi.ControllerListVolumeHealthRequest{})
	if err != nil {
		b.Fatal(err)
	}
	asked["ControllerListVolumeHealth"] = nil
	for _, entry := range list.GetEntries() {
		if entry.GetVolumeId() == v.id {
			asked["ControllerListVolumeHealth"] = entry
		}
	}
	reason, unreachable := strings.CutPrefix(strings.Join(want[:min(len(want), 1)], ""), "STORAGE_UNREACHABLE ")
	b.wasFull = b.wasFull || unreachable
	for rpc, health := range asked {
		// An ext4 remembers the errors that it has met, until it is checked.
		statuses := slices.DeleteFunc(health.GetHealthStatuses(), func(e *csi.VolumeHealth_VolumeHealthEntry) bool {
			return b.wasFull && e.GetReason() == "FilesystemErrors"
		})
		has := slices.ContainsFunc(statuses, func(e *csi.VolumeHealth_VolumeHealthEntry) bool {
			return e.GetStatus() == csi.VolumeHealthErrorType_INACCESSIBLE && e.GetReason() == reason
		})
		if unreachable && !has || !unreachable && len(statuses) > 0 {
			b.Errorf("%s of %s: %v, expected what the pool has", rpc, v.name, health)
		}
	}
}

func (b *testbed) expectMetrics(want map[string]float64) {
	b.Helper()
	for name, value := range want {
		if got := b.Metric(name); got != value {
			b.Errorf("%s is %g, expected %g", name, got, value)
		}
	}
}
