package faults_test

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/snapdriver/snapdriver/internal/testdriver"
	"github.com/snapdriver/snapdriver/internal/testenv"
)

// bed is the built driver, with a volume "source" to snapshot.
type bed struct {
	*testing.T
	*testdriver.Driver
	source string
}

func newBed(t *testing.T, flags ...string) *bed {
	d := testdriver.New(t, filepath.Join(testenv.TempDir(t), "root"))
	d.Flags = flags
	d.Start()
	b := &bed{T: t, Driver: d}
	b.source = b.create("source", "").id
	return b
}

// object is a volume or a snapshot, as the answer to its creation says.
type object struct {
	id       string
	snapshot *csi.Snapshot
}

// creation creates an object called name, with a fault unless it is empty.
type creation func(ctx context.Context, name, fault string) (object, error)

// creations are what faults act on.
func (b *bed) creations() map[string]creation {
	return map[string]creation{"volume": b.tryVolume, "snapshot": b.trySnapshot}
}

func (b *bed) tryVolume(ctx context.Context, name, fault string) (object, error) {
	response, err := b.Controller.CreateVolume(ctx, &csi.CreateVolumeRequest{Name: name, VolumeCapabilities: capabilities(), Parameters: parameters(fault)})
	return object{id: response.GetVolume().GetVolumeId()}, err
}

func (b *bed) trySnapshot(ctx context.Context, name, fault string) (object, error) {
	response, err := b.Controller.CreateSnapshot(ctx, &csi.CreateSnapshotRequest{Name: name, SourceVolumeId: b.source, Parameters: parameters(fault)})
	return object{response.GetSnapshot().GetSnapshotId(), response.GetSnapshot()}, err
}

func capabilities() []*csi.VolumeCapability {
	return []*csi.VolumeCapability{{
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
	}}
}

func parameters(fault string) map[string]string {
	if fault == "" {
		return nil
	}
	return map[string]string{"fault": fault}
}

func (b *bed) create(name, fault string) object {
	b.Helper()
	o, err := b.tryVolume(b.Context(), name, fault)
	b.want(err, codes.OK)
	return o
}

func (b *bed) want(err error, anyOf ...codes.Code) {
	b.Helper()
	if !slices.Contains(anyOf, status.Code(err)) {
		b.Fatalf("%v, want %v", err, anyOf)
	}
}

// soon is a deadline that a sidecar might have. The driver answers just before
// it, with ABORTED; on a busy machine the client may have given up by then.
func (b *bed) soon() context.Context {
	ctx, cancel := context.WithTimeout(b.Context(), 500*time.Millisecond)
	b.Cleanup(cancel)
	return ctx
}

// ids returns the IDs of all objects.
func (b *bed) ids() map[string]bool {
	b.Helper()
	volumes, err := b.Controller.ListVolumes(b.Context(), &csi.ListVolumesRequest{})
	b.want(err, codes.OK)
	snapshots, err := b.Controller.ListSnapshots(b.Context(), &csi.ListSnapshotsRequest{})
	b.want(err, codes.OK)
	found := map[string]bool{}
	for _, entry := range volumes.GetEntries() {
		found[entry.GetVolume().GetVolumeId()] = true
	}
	for _, entry := range snapshots.GetEntries() {
		found[entry.GetSnapshot().GetSnapshotId()] = true
	}
	return found
}

func (b *bed) restart(flags ...string) {
	b.Helper()
	b.Stop()
	b.Flags = flags
	b.Start()
}

const enabled = "--enable-faults"

func TestRefusedUnlessEnabled(t *testing.T) {
	b := newBed(t)
	for kind, create := range b.creations() {
		_, err := create(t.Context(), kind, "slow=1s")
		b.want(err, codes.InvalidArgument)
		if !strings.Contains(err.Error(), enabled) {
			t.Errorf("%v: the flag is not named", err)
		}
	}
	if strings.Contains(b.Logged(), "FAULTS") {
		t.Errorf("it says that faults are enabled:\n%s", b.Logged())
	}
	b.restart(enabled)
	if !strings.Contains(b.Logged(), "FAULTS ARE ENABLED") {
		t.Errorf("it does not say that faults are enabled:\n%s", b.Logged())
	}
	for kind, create := range b.creations() {
		_, err := create(t.Context(), kind, "slow=for ever")
		b.want(err, codes.InvalidArgument)
	}
	b.Stop()
}

// TestSlow: the caller is told in time that it takes longer, nobody else may
// have the object meanwhile, and the repeated call joins.
func TestSlow(t *testing.T) {
	b := newBed(t, enabled)
	for kind, create := range b.creations() {
		_, err := create(b.soon(), kind, "slow=3s")
		b.want(err, codes.Aborted, codes.DeadlineExceeded)
		_, err = create(t.Context(), kind, "slow=3s")
		b.want(err, codes.OK)
	}
	if n := strings.Count(b.Logged(), `"Fault" kind="slow"`); n != 2 {
		t.Errorf("%d creations were slow, want 2:\n%s", n, b.Logged())
	}
	_, err := b.tryVolume(b.soon(), "given up", "slow=24h")
	b.want(err, codes.Aborted, codes.DeadlineExceeded)
	before := len(b.ids())
	b.restart(enabled) // does not wait for it
	if after := len(b.ids()); after != before {
		t.Errorf("%d objects, then %d", before, after)
	}
	b.Stop()
}

// TestNotReady: every RPC says the same, also after a restart, with or without
// the flag.
func TestNotReady(t *testing.T) {
	b := newBed(t, enabled)
	made, err := b.trySnapshot(t.Context(), "s", "not-ready=24h")
	b.want(err, codes.OK)
	if made.snapshot.GetReadyToUse() {
		t.Error("it is ready")
	}
	for _, flags := range [][]string{{enabled}, {}, {enabled}} {
		b.expectNotReady(made, flags)
		b.restart(flags...)
	}
	_, err = b.Controller.DeleteSnapshot(t.Context(), &csi.DeleteSnapshotRequest{SnapshotId: made.id})
	b.want(err, codes.OK)
	_, err = b.tryVolume(t.Context(), "v", "not-ready=1s")
	b.want(err, codes.InvalidArgument)
	b.Stop()
}

// expectNotReady compares what is said of a snapshot with what was said when it
// was made.
func (b *bed) expectNotReady(made object, flags []string) {
	b.Helper()
	got, err := b.Controller.GetSnapshot(b.Context(), &csi.GetSnapshotRequest{SnapshotId: made.id})
	b.want(err, codes.OK)
	list, err := b.Controller.ListSnapshots(b.Context(), &csi.ListSnapshotsRequest{SnapshotId: made.id})
	b.want(err, codes.OK)
	again, err := b.trySnapshot(b.Context(), "s", "")
	b.want(err, codes.OK)
	for _, snapshot := range []*csi.Snapshot{got.GetSnapshot(), list.GetEntries()[0].GetSnapshot(), again.snapshot} {
		if diff := cmp.Diff(made.snapshot, snapshot, protocmp.Transform()); diff != "" {
			b.Errorf("with the flags %q (-made +now):\n%s", flags, diff)
		}
	}
	_, err = b.restore("too early", made.id)
	b.want(err, codes.FailedPrecondition)
	if !strings.Contains(err.Error(), "ready_to_use") {
		b.Errorf("%v: it does not say why", err)
	}
}

func (b *bed) restore(name, snapshot string) (*csi.CreateVolumeResponse, error) {
	return b.Controller.CreateVolume(b.Context(), &csi.CreateVolumeRequest{
		Name: name, VolumeCapabilities: capabilities(),
		VolumeContentSource: &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
			Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: snapshot},
		}},
	})
}

func TestNotReadyEnds(t *testing.T) {
	b := newBed(t, enabled)
	made, err := b.trySnapshot(t.Context(), "s", "not-ready=1s")
	b.want(err, codes.OK)
	for deadline := time.Now().Add(time.Minute); !made.snapshot.GetReadyToUse(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not become ready")
		}
		made, err = b.trySnapshot(t.Context(), "s", "not-ready=1s")
		b.want(err, codes.OK)
	}
	_, err = b.restore("restored", made.id)
	b.want(err, codes.OK)
	b.Stop()
}

// TestError: each object fails as often as its class says, and never again once
// it exists. A restart begins to count anew.
func TestError(t *testing.T) {
	b := newBed(t, enabled)
	for kind, create := range b.creations() {
		try := func(name, fault string, want ...codes.Code) {
			t.Helper()
			for _, code := range want {
				_, err := create(t.Context(), kind+name, fault)
				b.want(err, code)
			}
		}
		const twice = "error=RESOURCE_EXHAUSTED:2"
		try("a", twice, codes.ResourceExhausted)
		try("b", twice, codes.ResourceExhausted, codes.ResourceExhausted, codes.OK, codes.OK)
		try("a", twice, codes.ResourceExhausted, codes.OK)
		try("c", "error=UNAUTHENTICATED", codes.Unauthenticated, codes.Unauthenticated, codes.Unauthenticated)
		try("d", twice, codes.ResourceExhausted)
		b.restart(enabled)
		try("d", twice, codes.ResourceExhausted, codes.ResourceExhausted, codes.OK)
		try("a", twice, codes.OK)
		try("e", "error=ABORTED:5", codes.Aborted, codes.Aborted, codes.Aborted)
		try("e", twice, codes.OK)
	}
	b.Stop()
}

// TestHang: the call is answered by nobody, and the driver goes on.
func TestHang(t *testing.T) {
	b := newBed(t, enabled)
	before := len(b.ids())
	for kind, create := range b.creations() {
		_, err := create(b.soon(), kind, "hang")
		b.want(err, codes.DeadlineExceeded)
		if after := len(b.ids()); after != before {
			t.Errorf("%d objects, then %d", before, after)
		}
		_, err = create(t.Context(), kind+" without it", "")
		b.want(err, codes.OK)
		before++
	}
	b.Stop()
}

// TestCrashAfterCommit: the process ends, once, and what it was asked for is
// there.
func TestCrashAfterCommit(t *testing.T) {
	b := newBed(t, enabled)
	for kind, create := range b.creations() {
		before := len(b.ids())
		_, err := create(t.Context(), kind, "crash-after-commit")
		b.want(err, codes.Unavailable)
		b.Kill() // it has ended
		b.Start()
		if after := len(b.ids()); after != before+1 {
			t.Errorf("%d objects, then %d", before, after)
		}
		o, err := create(t.Context(), kind, "crash-after-commit")
		b.want(err, codes.OK)
		if !b.ids()[o.id] {
			t.Errorf("%s is not in the list", o.id)
		}
	}
	b.Stop()
}

// TestCapacityOfAClassWithAFault: the provisioner asks with the parameters of
// each class.
func TestCapacityOfAClassWithAFault(t *testing.T) {
	b := newBed(t, enabled)
	response, err := b.Controller.GetCapacity(t.Context(), &csi.GetCapacityRequest{Parameters: parameters("hang")})
	b.want(err, codes.OK)
	if response.GetAvailableCapacity() == 0 {
		t.Error("there is none")
	}
	valid, err := b.Controller.ValidateVolumeCapabilities(t.Context(), &csi.ValidateVolumeCapabilitiesRequest{
		VolumeId: b.source, VolumeCapabilities: capabilities(), Parameters: parameters("hang"),
	})
	b.want(err, codes.OK)
	if valid.GetConfirmed() == nil {
		t.Errorf("not confirmed: %s", valid.GetMessage())
	}
	b.Stop()
}
