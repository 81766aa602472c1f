package driver

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

var (
	elsewhere = backend.NewVolumeID("node-b", "v").String()
	otherNode = &csi.Topology{Segments: map[string]string{"topology.csi.snapdriver.dev/node": "node-b"}}
	thisNode  = &csi.Topology{Segments: map[string]string{"topology.csi.snapdriver.dev/node": testNode}}
)

func TestCreateVolumeRefuses(t *testing.T) {
	c := startMemory(t)
	blockSource := c.create(t, &csi.CreateVolumeRequest{Name: "block", VolumeCapabilities: []*csi.VolumeCapability{blockCapability(writer)}})
	small := c.create(t, volumeRequest("small"))
	for name, test := range map[string]struct {
		change func(*csi.CreateVolumeRequest)
		code   codes.Code
	}{
		"no name":          {func(r *csi.CreateVolumeRequest) { r.Name = "" }, codes.InvalidArgument},
		"banned character": {func(r *csi.CreateVolumeRequest) { r.Name = "a\x00b" }, codes.InvalidArgument},
		"banned C1":        {func(r *csi.CreateVolumeRequest) { r.Name = "a\u0085b" }, codes.InvalidArgument},
		"long name":        {func(r *csi.CreateVolumeRequest) { r.Name = strings.Repeat("x", 129) }, codes.InvalidArgument},
		"no capabilities":  {func(r *csi.CreateVolumeRequest) { r.VolumeCapabilities = nil }, codes.InvalidArgument},
		"no access type":   {func(r *csi.CreateVolumeRequest) { r.VolumeCapabilities[0].AccessType = nil }, codes.InvalidArgument},
		"no access mode":   {func(r *csi.CreateVolumeRequest) { r.VolumeCapabilities[0].AccessMode = nil }, codes.InvalidArgument},
		"writers everywhere": {func(r *csi.CreateVolumeRequest) {
			r.VolumeCapabilities[0] = capability(csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER)
		}, codes.InvalidArgument},
		"block and mount": {func(r *csi.CreateVolumeRequest) {
			r.VolumeCapabilities = append(r.VolumeCapabilities, blockCapability(writer))
		}, codes.InvalidArgument},
		"two filesystems": {func(r *csi.CreateVolumeRequest) {
			r.VolumeCapabilities = append(r.VolumeCapabilities, capability(writer))
			r.VolumeCapabilities[0].GetMount().FsType, r.VolumeCapabilities[1].GetMount().FsType = "ext4", "xfs"
		}, codes.InvalidArgument},
		"unknown mount flag":  {func(r *csi.CreateVolumeRequest) { r.VolumeCapabilities[0] = capability(writer, "password=secret") }, codes.InvalidArgument},
		"mount group":         {func(r *csi.CreateVolumeRequest) { r.VolumeCapabilities[0].GetMount().VolumeMountGroup = "7" }, codes.InvalidArgument},
		"unknown parameter":   {func(r *csi.CreateVolumeRequest) { r.Parameters = map[string]string{"x": "y"} }, codes.InvalidArgument},
		"too many parameters": {func(r *csi.CreateVolumeRequest) { r.Parameters = map[string]string{"x": strings.Repeat("y", 4096)} }, codes.InvalidArgument},
		"mutable parameters":  {func(r *csi.CreateVolumeRequest) { r.MutableParameters = map[string]string{"x": "y"} }, codes.InvalidArgument},
		"negative size":       {func(r *csi.CreateVolumeRequest) { r.CapacityRange.RequiredBytes = -1 }, codes.InvalidArgument},
		"limit below":         {func(r *csi.CreateVolumeRequest) { r.CapacityRange.LimitBytes = mib }, codes.InvalidArgument},
		"too large a kind":    {func(r *csi.CreateVolumeRequest) { r.CapacityRange.RequiredBytes = 1 << 60 }, codes.OutOfRange},
		"no room":             {func(r *csi.CreateVolumeRequest) { r.CapacityRange.RequiredBytes = 200 * gib }, codes.ResourceExhausted},
		"empty source":        {func(r *csi.CreateVolumeRequest) { r.VolumeContentSource = &csi.VolumeContentSource{} }, codes.InvalidArgument},
		"source without ID":   {func(r *csi.CreateVolumeRequest) { r.VolumeContentSource = fromSnapshot("") }, codes.InvalidArgument},
		"absent snapshot": {func(r *csi.CreateVolumeRequest) {
			r.VolumeContentSource = fromSnapshot(backend.NewSnapshotID(testNode, "no").String())
		}, codes.NotFound},
		"absent volume": {func(r *csi.CreateVolumeRequest) {
			r.VolumeContentSource = fromVolume(backend.NewVolumeID(testNode, "no").String())
		}, codes.NotFound},
		"no such form of ID": {func(r *csi.CreateVolumeRequest) { r.VolumeContentSource = fromVolume("../../etc") }, codes.NotFound},
		"source elsewhere":   {func(r *csi.CreateVolumeRequest) { r.VolumeContentSource = fromVolume(elsewhere) }, codes.ResourceExhausted},
		"source of block":    {func(r *csi.CreateVolumeRequest) { r.VolumeContentSource = fromVolume(blockSource.VolumeId) }, codes.InvalidArgument},
		"smaller than source": {func(r *csi.CreateVolumeRequest) {
			r.VolumeContentSource, r.CapacityRange.RequiredBytes = fromVolume(small.VolumeId), mib
		}, codes.OutOfRange},
		"other node": {func(r *csi.CreateVolumeRequest) {
			r.AccessibilityRequirements = &csi.TopologyRequirement{Requisite: []*csi.Topology{otherNode}}
		}, codes.ResourceExhausted},
	} {
		t.Run(name, func(t *testing.T) {
			request := volumeRequest("new")
			test.change(request)
			_, err := c.CreateVolume(t.Context(), request)
			wantCode(t, err, test.code)
			if strings.Contains(fmt.Sprint(err), "secret") {
				t.Errorf("the error tells the value of a mount flag: %v", err)
			}
		})
	}
	if entries := must[*csi.ListVolumesResponse](t)(c.ListVolumes(t.Context(), &csi.ListVolumesRequest{})).Entries; len(entries) != 2 {
		t.Errorf("%d volumes exist after refusals only, want the 2 from before", len(entries))
	}
}

func TestCreateVolumeAgain(t *testing.T) {
	c := startMemory(t)
	source := c.create(t, volumeRequest("source"))
	request := volumeRequest("näme with\ttab and 🐄")
	request.Parameters = map[string]string{"csi.storage.k8s.io/pvc/name": "claim"}
	request.AccessibilityRequirements = &csi.TopologyRequirement{Requisite: []*csi.Topology{otherNode, thisNode}, Preferred: []*csi.Topology{otherNode}}
	first := c.create(t, request)
	want := &csi.Volume{VolumeId: first.VolumeId, CapacityBytes: 16 * mib, AccessibleTopology: []*csi.Topology{thisNode}}
	if diff := cmp.Diff(want, first, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(first, c.create(t, request), protocmp.Transform()); diff != "" {
		t.Errorf("the second answer differs: %s", diff)
	}
	for name, change := range map[string]func(*csi.CreateVolumeRequest){
		"size":         func(r *csi.CreateVolumeRequest) { r.CapacityRange.RequiredBytes = 32 * mib },
		"limit":        func(r *csi.CreateVolumeRequest) { r.CapacityRange = &csi.CapacityRange{LimitBytes: mib} },
		"mode":         func(r *csi.CreateVolumeRequest) { r.VolumeCapabilities[0] = blockCapability(writer) },
		"access modes": func(r *csi.CreateVolumeRequest) { r.VolumeCapabilities[0] = capability(oneWriter) },
		"topology": func(r *csi.CreateVolumeRequest) {
			r.AccessibilityRequirements = &csi.TopologyRequirement{Requisite: []*csi.Topology{otherNode}}
		},
		"source": func(r *csi.CreateVolumeRequest) { r.VolumeContentSource = fromVolume(source.VolumeId) },
	} {
		t.Run(name, func(t *testing.T) {
			other := proto.CloneOf(request)
			change(other)
			_, err := c.CreateVolume(t.Context(), other)
			wantCode(t, err, codes.AlreadyExists)
		})
	}
}

func TestVolumeFromSource(t *testing.T) {
	c := startMemory(t)
	source := c.create(t, volumeRequest("source"))
	snapshot := c.snapshot(t, "s", source.VolumeId)
	for name, content := range map[string]*csi.VolumeContentSource{
		"snapshot": fromSnapshot(snapshot.SnapshotId),
		"volume":   fromVolume(source.VolumeId),
	} {
		request := volumeRequest("from " + name)
		request.VolumeContentSource, request.CapacityRange = content, nil
		volume := c.create(t, request)
		if volume.CapacityBytes != source.CapacityBytes {
			t.Errorf("%s: %d bytes without a capacity range, want the source's %d", name, volume.CapacityBytes, source.CapacityBytes)
		}
		if diff := cmp.Diff(content, volume.ContentSource, protocmp.Transform()); diff != "" {
			t.Errorf("%s: content_source is not echoed: %s", name, diff)
		}
		got := must[*csi.ControllerGetVolumeResponse](t)(c.ControllerGetVolume(t.Context(), &csi.ControllerGetVolumeRequest{VolumeId: volume.VolumeId}))
		if diff := cmp.Diff(volume, got.Volume, protocmp.Transform()); diff != "" {
			t.Errorf("%s: ControllerGetVolume differs from CreateVolume: %s", name, diff)
		}
		if got.Status == nil {
			t.Error("ControllerGetVolume: status is required")
		}
	}
}

func TestSnapshots(t *testing.T) {
	c := startMemory(t)
	ctx := t.Context()
	one, two := c.create(t, volumeRequest("one")), c.create(t, volumeRequest("two"))
	snapshot := c.snapshot(t, "s", one.VolumeId)
	if !snapshot.ReadyToUse || snapshot.SizeBytes != one.CapacityBytes || snapshot.CreationTime == nil {
		t.Errorf("snapshot: %v", snapshot)
	}
	if diff := cmp.Diff(snapshot, c.snapshot(t, "s", one.VolumeId), protocmp.Transform()); diff != "" {
		t.Errorf("the second answer differs: %s", diff)
	}
	_, err := c.CreateSnapshot(ctx, &csi.CreateSnapshotRequest{Name: "s", SourceVolumeId: two.VolumeId})
	wantCode(t, err, codes.AlreadyExists)
	for source, code := range map[string]codes.Code{
		"": codes.InvalidArgument, "no": codes.NotFound, elsewhere: codes.FailedPrecondition,
		backend.NewVolumeID(testNode, "no").String(): codes.NotFound,
	} {
		_, err = c.CreateSnapshot(ctx, &csi.CreateSnapshotRequest{Name: "new", SourceVolumeId: source})
		wantCode(t, err, code)
	}
	_, err = c.CreateSnapshot(ctx, &csi.CreateSnapshotRequest{SourceVolumeId: one.VolumeId})
	wantCode(t, err, codes.InvalidArgument)
	_, err = c.CreateSnapshot(ctx, &csi.CreateSnapshotRequest{Name: "x\x07", SourceVolumeId: one.VolumeId})
	wantCode(t, err, codes.InvalidArgument)
	_, err = c.CreateSnapshot(ctx, &csi.CreateSnapshotRequest{Name: "new", SourceVolumeId: one.VolumeId, Parameters: map[string]string{"x": "y"}})
	wantCode(t, err, codes.InvalidArgument)
	_, err = c.CreateSnapshot(ctx, &csi.CreateSnapshotRequest{
		Name: "new", SourceVolumeId: one.VolumeId,
		AccessibilityRequirements: &csi.TopologyRequirement{Requisite: []*csi.Topology{otherNode}},
	})
	wantCode(t, err, codes.ResourceExhausted)
	must[*csi.CreateSnapshotResponse](t)(c.CreateSnapshot(ctx, &csi.CreateSnapshotRequest{
		Name: "t", SourceVolumeId: one.VolumeId,
		Parameters:                map[string]string{"csi.storage.k8s.io/volumesnapshot/name": "t"},
		AccessibilityRequirements: &csi.TopologyRequirement{Preferred: []*csi.Topology{thisNode}},
	}))

	// Snapshots outlive their source.
	must[*csi.DeleteVolumeResponse](t)(c.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: one.VolumeId}))
	got := must[*csi.GetSnapshotResponse](t)(c.GetSnapshot(ctx, &csi.GetSnapshotRequest{SnapshotId: snapshot.SnapshotId}))
	if diff := cmp.Diff(snapshot, got.Snapshot, protocmp.Transform()); diff != "" {
		t.Errorf("GetSnapshot differs from CreateSnapshot: %s", diff)
	}
	restore := volumeRequest("restored")
	restore.VolumeContentSource = fromSnapshot(snapshot.SnapshotId)
	c.create(t, restore)
	for range 2 {
		must[*csi.DeleteSnapshotResponse](t)(c.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: snapshot.SnapshotId}))
	}
	_, err = c.GetSnapshot(ctx, &csi.GetSnapshotRequest{SnapshotId: snapshot.SnapshotId})
	wantCode(t, err, codes.NotFound)
}

func TestLists(t *testing.T) {
	c := startMemory(t)
	ctx := t.Context()
	var volumes, snapshots []string
	for i := range 5 {
		volume := c.create(t, volumeRequest(fmt.Sprint("v", i)))
		volumes = append(volumes, volume.VolumeId)
		snapshots = append(snapshots, c.snapshot(t, fmt.Sprint("s", i), volume.VolumeId).SnapshotId)
	}
	seen := map[string]bool{}
	for token, pages := "", 0; ; pages++ {
		page := must[*csi.ListVolumesResponse](t)(c.ListVolumes(ctx, &csi.ListVolumesRequest{MaxEntries: 2, StartingToken: token}))
		for _, entry := range page.Entries {
			seen[entry.Volume.VolumeId] = true
		}
		if token = page.NextToken; token == "" {
			if len(seen) != 5 || pages != 2 {
				t.Errorf("%d volumes on %d pages, want 5 on 3", len(seen), pages+1)
			}
			break
		}
	}
	for name, test := range map[string]struct {
		request *csi.ListSnapshotsRequest
		want    int
	}{
		"all":                {&csi.ListSnapshotsRequest{}, 5},
		"by ID":              {&csi.ListSnapshotsRequest{SnapshotId: snapshots[1]}, 1},
		"by source":          {&csi.ListSnapshotsRequest{SourceVolumeId: volumes[1]}, 1},
		"by both":            {&csi.ListSnapshotsRequest{SnapshotId: snapshots[1], SourceVolumeId: volumes[1]}, 1},
		"by both, no match":  {&csi.ListSnapshotsRequest{SnapshotId: snapshots[1], SourceVolumeId: volumes[2]}, 0},
		"unknown ID":         {&csi.ListSnapshotsRequest{SnapshotId: "none"}, 0},
		"unknown source":     {&csi.ListSnapshotsRequest{SourceVolumeId: "none"}, 0},
		"ID of another node": {&csi.ListSnapshotsRequest{SourceVolumeId: elsewhere}, 0},
	} {
		if got := must[*csi.ListSnapshotsResponse](t)(c.ListSnapshots(ctx, test.request)); len(got.Entries) != test.want {
			t.Errorf("%s: %d entries, want %d", name, len(got.Entries), test.want)
		}
	}
	_, err := c.ListVolumes(ctx, &csi.ListVolumesRequest{MaxEntries: -1})
	wantCode(t, err, codes.InvalidArgument)
	_, err = c.ListSnapshots(ctx, &csi.ListSnapshotsRequest{MaxEntries: -1})
	wantCode(t, err, codes.InvalidArgument)
	_, err = c.ListVolumes(ctx, &csi.ListVolumesRequest{StartingToken: "bad"})
	wantCode(t, err, codes.Aborted)
	_, err = c.ListSnapshots(ctx, &csi.ListSnapshotsRequest{StartingToken: "bad"})
	wantCode(t, err, codes.Aborted)
}

func TestDeleteIsIdempotent(t *testing.T) {
	c := startMemory(t)
	volume := c.create(t, volumeRequest("v"))
	for id, code := range map[string]codes.Code{
		volume.VolumeId: codes.OK, backend.NewVolumeID(testNode, "no").String(): codes.OK,
		"../..": codes.OK, "": codes.InvalidArgument, elsewhere: codes.FailedPrecondition,
	} {
		for range 2 {
			_, err := c.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: id})
			wantCode(t, err, code)
		}
	}
	for id, code := range map[string]codes.Code{
		backend.NewSnapshotID(testNode, "no").String(): codes.OK, "no": codes.OK, "": codes.InvalidArgument,
	} {
		_, err := c.DeleteSnapshot(t.Context(), &csi.DeleteSnapshotRequest{SnapshotId: id})
		wantCode(t, err, code)
	}
	_, err := c.GetSnapshot(t.Context(), &csi.GetSnapshotRequest{})
	wantCode(t, err, codes.InvalidArgument)
	_, err = c.ControllerGetVolume(t.Context(), &csi.ControllerGetVolumeRequest{})
	wantCode(t, err, codes.InvalidArgument)
	_, err = c.ControllerGetVolume(t.Context(), &csi.ControllerGetVolumeRequest{VolumeId: volume.VolumeId})
	wantCode(t, err, codes.NotFound)
}

func TestControllerExpandVolume(t *testing.T) {
	c := startMemory(t)
	volume := c.create(t, volumeRequest("v"))
	block := c.create(t, &csi.CreateVolumeRequest{Name: "b", VolumeCapabilities: []*csi.VolumeCapability{blockCapability(writer)}})
	for _, test := range []struct {
		name     string
		id       string
		sizes    *csi.CapacityRange
		how      *csi.VolumeCapability
		code     codes.Code
		capacity int64
		onNode   bool
	}{
		{"no ID", "", &csi.CapacityRange{RequiredBytes: gib}, nil, codes.InvalidArgument, 0, false},
		{"absent", "no", &csi.CapacityRange{RequiredBytes: gib}, nil, codes.NotFound, 0, false},
		{"nothing given", volume.VolumeId, nil, nil, codes.InvalidArgument, 0, false},
		{"other mode", volume.VolumeId, &csi.CapacityRange{RequiredBytes: gib}, blockCapability(writer), codes.InvalidArgument, 0, false},
		{"grow", volume.VolumeId, &csi.CapacityRange{RequiredBytes: 32 * mib}, capability(writer), codes.OK, 32 * mib, false},
		{"again", volume.VolumeId, &csi.CapacityRange{RequiredBytes: 32 * mib}, nil, codes.OK, 32 * mib, false},
		{"smaller", volume.VolumeId, &csi.CapacityRange{RequiredBytes: mib}, nil, codes.OK, 32 * mib, false},
		{"limit below", volume.VolumeId, &csi.CapacityRange{LimitBytes: mib}, nil, codes.OutOfRange, 0, false},
		{"too large", volume.VolumeId, &csi.CapacityRange{RequiredBytes: 1 << 60}, nil, codes.OutOfRange, 0, false},
		{"block", block.VolumeId, &csi.CapacityRange{RequiredBytes: 2 * gib}, nil, codes.OK, 2 * gib, true},
	} {
		response, err := c.ControllerExpandVolume(t.Context(), &csi.ControllerExpandVolumeRequest{VolumeId: test.id, CapacityRange: test.sizes, VolumeCapability: test.how})
		t.Run(test.name, func(t *testing.T) { wantCode(t, err, test.code) })
		if response.GetCapacityBytes() != test.capacity || response.GetNodeExpansionRequired() != test.onNode {
			t.Errorf("%s: %v", test.name, response)
		}
	}
}

func TestGetCapacity(t *testing.T) {
	c := startMemory(t)
	whole := must[*csi.GetCapacityResponse](t)(c.GetCapacity(t.Context(), &csi.GetCapacityRequest{AccessibleTopology: thisNode}))
	if whole.AvailableCapacity != 100*gib || whole.MaximumVolumeSize.GetValue() != 100*gib || whole.MinimumVolumeSize.GetValue() <= 0 {
		t.Errorf("capacity: %v", whole)
	}
	c.create(t, &csi.CreateVolumeRequest{Name: "v", CapacityRange: &csi.CapacityRange{RequiredBytes: gib}, VolumeCapabilities: []*csi.VolumeCapability{capability(writer)}})
	less := must[*csi.GetCapacityResponse](t)(c.GetCapacity(t.Context(), &csi.GetCapacityRequest{VolumeCapabilities: []*csi.VolumeCapability{blockCapability(writer)}}))
	if less.AvailableCapacity != 99*gib {
		t.Errorf("capacity beside 1 GiB: %v", less)
	}
	there := must[*csi.GetCapacityResponse](t)(c.GetCapacity(t.Context(), &csi.GetCapacityRequest{AccessibleTopology: otherNode}))
	if there.AvailableCapacity != 0 {
		t.Errorf("capacity of another node: %v", there)
	}
	_, err := c.GetCapacity(t.Context(), &csi.GetCapacityRequest{Parameters: map[string]string{"x": "y"}})
	wantCode(t, err, codes.InvalidArgument)
	_, err = c.GetCapacity(t.Context(), &csi.GetCapacityRequest{VolumeCapabilities: []*csi.VolumeCapability{capability(csi.VolumeCapability_AccessMode_MULTI_NODE_SINGLE_WRITER)}})
	wantCode(t, err, codes.InvalidArgument)
}

func TestValidateVolumeCapabilities(t *testing.T) {
	c := startMemory(t)
	volume := c.create(t, volumeRequest("v"))
	request := func(capabilities ...*csi.VolumeCapability) *csi.ValidateVolumeCapabilitiesRequest {
		return &csi.ValidateVolumeCapabilitiesRequest{VolumeId: volume.VolumeId, VolumeCapabilities: capabilities}
	}
	everywhere := capability(csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER)
	for name, test := range map[string]struct {
		request   *csi.ValidateVolumeCapabilitiesRequest
		confirmed bool
	}{
		"its own":         {request(capability(writer)), true},
		"several":         {request(capability(writer), capability(readers)), true},
		"block":           {request(blockCapability(writer)), false},
		"one too many":    {request(capability(writer), everywhere), false},
		"volume context":  {&csi.ValidateVolumeCapabilitiesRequest{VolumeId: volume.VolumeId, VolumeCapabilities: []*csi.VolumeCapability{capability(writer)}, VolumeContext: map[string]string{"never": "ours"}}, false},
		"other parameter": {&csi.ValidateVolumeCapabilitiesRequest{VolumeId: volume.VolumeId, VolumeCapabilities: []*csi.VolumeCapability{capability(writer)}, Parameters: map[string]string{"x": "y"}}, false},
	} {
		got := must[*csi.ValidateVolumeCapabilitiesResponse](t)(c.ValidateVolumeCapabilities(t.Context(), test.request))
		if (got.Confirmed != nil) != test.confirmed || (got.Message == "") != test.confirmed || len(got.Message) > maxString {
			t.Errorf("%s: %v", name, got)
		}
		if test.confirmed && len(got.Confirmed.VolumeCapabilities) != len(test.request.VolumeCapabilities) {
			t.Errorf("%s: not all capabilities are confirmed: %v", name, got)
		}
	}
	for name, test := range map[string]struct {
		request *csi.ValidateVolumeCapabilitiesRequest
		code    codes.Code
	}{
		"no ID":           {&csi.ValidateVolumeCapabilitiesRequest{VolumeCapabilities: []*csi.VolumeCapability{capability(writer)}}, codes.InvalidArgument},
		"no capabilities": {request(), codes.InvalidArgument},
		"no access mode":  {request(&csi.VolumeCapability{AccessType: &csi.VolumeCapability_Block{}}), codes.InvalidArgument},
		"absent":          {&csi.ValidateVolumeCapabilitiesRequest{VolumeId: "no", VolumeCapabilities: []*csi.VolumeCapability{capability(writer)}}, codes.NotFound},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := c.ValidateVolumeCapabilities(t.Context(), test.request)
			wantCode(t, err, test.code)
		})
	}
}

// TestUnimplemented: what is not advertised says so.
func TestUnimplemented(t *testing.T) {
	c := startMemory(t)
	for name, call := range map[string]func(context.Context) error{
		"ControllerPublishVolume": func(ctx context.Context) error {
			_, err := c.ControllerPublishVolume(ctx, &csi.ControllerPublishVolumeRequest{})
			return err
		},
		"ControllerUnpublishVolume": func(ctx context.Context) error {
			_, err := c.ControllerUnpublishVolume(ctx, &csi.ControllerUnpublishVolumeRequest{})
			return err
		},
		"ControllerModifyVolume": func(ctx context.Context) error {
			_, err := c.ControllerModifyVolume(ctx, &csi.ControllerModifyVolumeRequest{})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) { wantCode(t, call(t.Context()), codes.Unimplemented) })
	}
}
