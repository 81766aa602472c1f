package torture

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/snapdriver/snapdriver/internal/testdriver"
	"github.com/snapdriver/snapdriver/internal/testenv"
)

var background = context.Background()

// testbed is the driver on a storage of its own, and a place for pods. When the
// test ends everything is deleted through the driver, and nothing may be left.
type testbed struct {
	*testing.T
	*testdriver.Driver
	storage
	place

	pods  string // a directory
	empty int64  // how much of the storage was used in the beginning
}

// newTestbed does not start the driver yet.
func newTestbed(t *testing.T, s storage, size int64) *testbed {
	t.Helper()
	requireDriver(t)
	b := &testbed{T: t, storage: s, place: s.make(t, size)}
	b.Driver = testdriver.New(t, b.root)
	b.Flags = b.flags
	b.pods = testenv.TempDir(t)
	b.empty = b.used()
	t.Cleanup(b.close)
	return b
}

// started is newTestbed with the driver started.
func started(t *testing.T, s storage, size int64) *testbed {
	t.Helper()
	b := newTestbed(t, s, size)
	b.Start()
	return b
}

// sub runs a subtest on the same driver.
func (b *testbed) sub(name string, run func(b *testbed)) {
	b.Run(name, func(t *testing.T) {
		its := *b
		its.T = t
		run(&its)
	})
}

// supervise starts the driver again whenever it has died, as the kubelet does,
// until it is told to end; then it says how often that was.
func (b *testbed) supervise() (end func() (died int)) {
	b.Helper()
	enough, died, ended := make(chan struct{}), 0, make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-enough:
				return
			case <-b.Ended():
				died++
				b.Kill()
				b.Launch()
				if err := b.AwaitReady(); err != nil && b.Context().Err() == nil {
					b.Logf("%v\n%s", err, b.Logged())
				}
			}
		}
	}()
	return func() int {
		close(enough)
		<-ended
		return died
	}
}

// close takes volumes from pods, deletes everything, and looks for what is left.
// Of a test that failed it takes away only what others would stumble over.
func (b *testbed) close() {
	if !b.Running() && !b.Failed() {
		b.Start()
	}
	if !b.Failed() {
		b.deleteAll()
		b.expectObjects()
		b.awaitSpace()
		b.Stop()
	}
	b.sweep()
}

// deleteAll deletes every object. No volume is in use.
func (b *testbed) deleteAll() {
	b.Helper()
	volumes, snapshots := b.list()
	for _, id := range snapshots {
		if err := b.deleteSnapshot(id); err != nil {
			b.Errorf("delete %s: %v", id, err)
		}
	}
	for _, id := range volumes {
		if err := b.deleteVolume(id); err != nil {
			b.Errorf("delete %s: %v", id, err)
		}
	}
}

func (b *testbed) deleteVolume(id string) error {
	_, err := b.Controller.DeleteVolume(background, &csi.DeleteVolumeRequest{VolumeId: id})
	return err
}

func (b *testbed) deleteSnapshot(id string) error {
	_, err := b.Controller.DeleteSnapshot(background, &csi.DeleteSnapshotRequest{SnapshotId: id})
	return err
}

// list returns the IDs of all objects.
func (b *testbed) list() (volumes, snapshots []string) {
	b.Helper()
	listedVolumes, err := b.Controller.ListVolumes(background, &csi.ListVolumesRequest{})
	if err != nil {
		b.Fatal(err)
	}
	for _, entry := range listedVolumes.GetEntries() {
		volumes = append(volumes, entry.GetVolume().GetVolumeId())
	}
	listedSnapshots, err := b.Controller.ListSnapshots(background, &csi.ListSnapshotsRequest{})
	if err != nil {
		b.Fatal(err)
	}
	for _, entry := range listedSnapshots.GetEntries() {
		snapshots = append(snapshots, entry.GetSnapshot().GetSnapshotId())
	}
	return volumes, snapshots
}

// expectObjects checks that these are all the objects that the driver lists and
// that the storage has, and that nothing else is there. No volume is in use.
func (b *testbed) expectObjects(ids ...string) {
	b.Helper()
	slices.Sort(ids)
	volumes, snapshots := b.list()
	listed := slices.Sorted(slices.Values(append(volumes, snapshots...)))
	if diff := cmp.Diff(ids, listed, cmpopts.EquateEmpty()); diff != "" {
		b.Errorf("listed (+) and expected (-):\n%s", diff)
	}
	found := b.census()
	// Whoever looks at all loop devices, as another driver does when it starts,
	// has one open for a moment, and with it what was detached.
	for deadline := time.Now().Add(5 * time.Second); len(found.strange) > 0 && time.Now().Before(deadline); found = b.census() {
		time.Sleep(10 * time.Millisecond)
	}
	if diff := cmp.Diff(ids, found.objects, cmpopts.EquateEmpty()); diff != "" {
		b.Errorf("in the storage (+) and expected (-):\n%s", diff)
	}
	if len(found.strange) > 0 {
		b.Errorf("in the storage and not an object: %q", found.strange)
	}
}

// slack is by how much an empty storage may be fuller than a new one: its own
// structures do not shrink.
const slack = 2 * mib

// awaitSpace waits until what was deleted takes no more space.
func (b *testbed) awaitSpace() {
	b.Helper()
	for deadline := time.Now().Add(time.Minute); b.used() > b.empty+slack; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			b.Errorf("everything is deleted, and %d bytes are used, %d were in the beginning", b.used(), b.empty)
			return
		}
	}
}

// sweep takes away the mounts and devices that a test has left.
func (b *testbed) sweep() {
	if b.Running() {
		b.Kill()
	}
	for range 3 { // a device may have been in use by a mount
		for _, dir := range []string{b.pods, b.root} {
			leaks, err := testenv.Leaks(dir)
			if err != nil {
				b.Error(err)
			}
			for _, leak := range leaks {
				b.Logf("left: %s", leak)
				if path, is := strings.CutPrefix(leak, "mount "); is {
					_ = unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
				} else if device, _, is := strings.Cut(strings.TrimPrefix(leak, "loop device "), " of "); is {
					testenv.Run(b, "losetup", "--detach", "/dev/"+device)
				}
			}
		}
	}
}

// mkdir makes a directory for a pod.
func (b *testbed) mkdir(name string) string {
	b.Helper()
	path := filepath.Join(b.pods, name)
	if err := os.MkdirAll(path, 0o755); err != nil {
		b.Fatal(err)
	}
	return path
}

// volume is one that pods may use.
type volume struct {
	*testbed
	kind
	id, name string
}

func (b *testbed) create(of kind, name string, source *csi.VolumeContentSource) (*volume, error) {
	request := createRequest(of, name, source)
	response, err := b.Controller.CreateVolume(background, request)
	return &volume{testbed: b, kind: of, id: response.GetVolume().GetVolumeId(), name: name}, err
}

// mustCreate creates an empty volume.
func (b *testbed) mustCreate(of kind, name string) *volume {
	b.Helper()
	v, err := b.create(of, name, nil)
	if err != nil {
		b.Fatal(err)
	}
	return v
}

func createRequest(of kind, name string, source *csi.VolumeContentSource) *csi.CreateVolumeRequest {
	request := &csi.CreateVolumeRequest{
		Name: name, Parameters: of.parameters, VolumeContentSource: source,
		VolumeCapabilities: []*csi.VolumeCapability{of.how},
	}
	if source == nil {
		request.CapacityRange = &csi.CapacityRange{RequiredBytes: of.size}
	}
	return request
}

func fromSnapshot(id string) *csi.VolumeContentSource {
	return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
		Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: id},
	}}
}

func fromVolume(id string) *csi.VolumeContentSource {
	return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{
		Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: id},
	}}
}

func (v *volume) snapshot(name string) (string, error) {
	response, err := v.Controller.CreateSnapshot(background, &csi.CreateSnapshotRequest{Name: name, SourceVolumeId: v.id, Parameters: v.snapshotParameters})
	return response.GetSnapshot().GetSnapshotId(), err
}

func (v *volume) mustSnapshot(name string) string {
	v.Helper()
	id, err := v.snapshot(name)
	if err != nil {
		v.Fatal(err)
	}
	return id
}

func (v *volume) staging() string { return filepath.Join(v.pods, "staging-"+v.id) }
func (v *volume) target() string  { return filepath.Join(v.pods, v.id) }

// publish takes the volume to a pod, where it is at target.
func (v *volume) publish() error {
	if err := os.MkdirAll(v.staging(), 0o750); err != nil {
		return err
	}
	_, err := v.Node.NodeStageVolume(background, &csi.NodeStageVolumeRequest{
		VolumeId: v.id, StagingTargetPath: v.staging(), VolumeCapability: v.how,
	})
	if err == nil {
		_, err = v.Node.NodePublishVolume(background, &csi.NodePublishVolumeRequest{
			VolumeId: v.id, StagingTargetPath: v.staging(), TargetPath: v.target(), VolumeCapability: v.how,
		})
	}
	return err
}

func (v *volume) unpublish() error {
	_, err := v.Node.NodeUnpublishVolume(background, &csi.NodeUnpublishVolumeRequest{VolumeId: v.id, TargetPath: v.target()})
	if err == nil {
		_, err = v.Node.NodeUnstageVolume(background, &csi.NodeUnstageVolumeRequest{VolumeId: v.id, StagingTargetPath: v.staging()})
	}
	return err
}

// use runs do while the volume is at a path.
func (v *volume) use(do func(path string) error) {
	v.Helper()
	err := v.publish()
	if err == nil {
		err = do(v.target())
	}
	if err == nil {
		err = v.unpublish()
	}
	if err != nil {
		v.Fatalf("%s: %v", v.name, err)
	}
}

// expectCode fails a test unless an error has one of these codes.
func expectCode(t testing.TB, err error, want ...codes.Code) bool {
	t.Helper()
	has := slices.Contains(want, status.Code(err))
	if !has {
		t.Errorf("%v, expected %v", err, want)
	}
	return has
}
