package torture

import (
	"slices"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/moby/sys/mountinfo"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/snapdriver/snapdriver/test/torture/content"
)

// method is an RPC of CSI.
type method struct {
	name     string // "/csi.v1.Node/NodeGetInfo"
	request  protoreflect.MessageDescriptor
	response protoreflect.MessageDescriptor
}

// methods are all RPCs of CSI, those that the driver does not serve included,
// but for those that answer with a stream.
func methods() (all []method) {
	services := csi.File_csi_proto.Services()
	for i := range services.Len() {
		for j := range services.Get(i).Methods().Len() {
			m := services.Get(i).Methods().Get(j)
			if !m.IsStreamingServer() {
				all = append(all, method{"/" + string(services.Get(i).FullName()) + "/" + string(m.Name()), m.Input(), m.Output()})
			}
		}
	}
	return all
}

func newMessage(t testing.TB, kind protoreflect.MessageDescriptor) proto.Message {
	t.Helper()
	found, err := protoregistry.GlobalTypes.FindMessageByName(kind.FullName())
	if err != nil {
		t.Fatal(err)
	}
	return found.New().Interface()
}

// patient is a volume that is at a pod, with a content, and a snapshot of it:
// what the requests below are about.
type patient struct {
	*volume
	tag      content.Tag
	snapshot string
}

func (b *testbed) newPatient(of kind) *patient {
	b.Helper()
	p := &patient{volume: b.mustCreate(of, "patient"), tag: 1}
	p.use(p.tag.Write)
	p.revive()
	return p
}

// revive puts right what a request may have changed.
func (p *patient) revive() {
	p.Helper()
	p.unpublishElsewhere()
	p.snapshot = p.mustSnapshot("of the patient")
	if err := p.publish(); err != nil {
		p.Fatal(err)
	}
}

// unpublishElsewhere takes the volume from every target but the usual one.
func (p *patient) unpublishElsewhere() {
	p.Helper()
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(p.pods))
	if err != nil {
		p.Fatal(err)
	}
	for _, mount := range slices.Backward(mounts) {
		if mount.Mountpoint == p.staging() || mount.Mountpoint == p.target() {
			continue
		}
		if _, err := p.Node.NodeUnpublishVolume(background, &csi.NodeUnpublishVolumeRequest{VolumeId: p.id, TargetPath: mount.Mountpoint}); err != nil {
			p.Error(err)
		}
	}
}

// dismiss takes the volume from its pod, with all that it held.
func (p *patient) dismiss() {
	p.Helper()
	if err := p.tag.Check(p.target()); err != nil {
		p.Error(err)
	}
	if err := p.unpublish(); err != nil {
		p.Error(err)
	}
}

// secrets, of each request that has any.
const secret = "hush-4711"

var secrets = map[string]string{"password": secret}

// requests returns a request that succeeds for each RPC that is served and has
// fields.
func (p *patient) requests() []proto.Message {
	how := proto.CloneOf(p.how)
	if mount := how.GetMount(); mount != nil {
		mount.MountFlags = []string{"noatime"}
	}
	here := &csi.Topology{Segments: map[string]string{"topology.csi.snapdriver.dev/node": "node"}}
	size := &csi.CapacityRange{RequiredBytes: p.size, LimitBytes: 4 * p.size}
	return []proto.Message{
		&csi.CreateVolumeRequest{
			Name: "another", CapacityRange: size, VolumeCapabilities: []*csi.VolumeCapability{how}, Parameters: p.parameters, Secrets: secrets,
			VolumeContentSource: fromSnapshot(p.snapshot), AccessibilityRequirements: &csi.TopologyRequirement{Requisite: []*csi.Topology{here}, Preferred: []*csi.Topology{here}},
		},
		&csi.DeleteVolumeRequest{VolumeId: otherNode, Secrets: secrets},
		&csi.ValidateVolumeCapabilitiesRequest{VolumeId: p.id, VolumeCapabilities: []*csi.VolumeCapability{how}, Parameters: p.parameters, Secrets: secrets},
		&csi.ListVolumesRequest{MaxEntries: 1, StartingToken: p.id},
		&csi.ControllerListVolumeHealthRequest{MaxEntries: 1, StartingToken: p.id},
		&csi.ControllerGetVolumeHealthRequest{VolumeId: p.id},
		&csi.GetCapacityRequest{VolumeCapabilities: []*csi.VolumeCapability{how}, Parameters: p.parameters, AccessibleTopology: here},
		&csi.CreateSnapshotRequest{SourceVolumeId: p.id, Name: "another", Parameters: p.snapshotParameters, Secrets: secrets},
		&csi.DeleteSnapshotRequest{SnapshotId: p.snapshot, Secrets: secrets},
		&csi.ListSnapshotsRequest{MaxEntries: 1, StartingToken: p.snapshot, SourceVolumeId: p.id, SnapshotId: p.snapshot, Secrets: secrets},
		&csi.GetSnapshotRequest{SnapshotId: p.snapshot, Secrets: secrets},
		&csi.ControllerExpandVolumeRequest{VolumeId: p.id, CapacityRange: size, VolumeCapability: how, Secrets: secrets},
		&csi.ControllerGetVolumeRequest{VolumeId: p.id},
		&csi.NodeStageVolumeRequest{VolumeId: p.id, StagingTargetPath: p.staging(), VolumeCapability: proto.CloneOf(p.how), Secrets: secrets, VolumeContext: map[string]string{"a": "b"}},
		&csi.NodeUnstageVolumeRequest{VolumeId: p.id, StagingTargetPath: p.staging()},
		&csi.NodePublishVolumeRequest{VolumeId: p.id, StagingTargetPath: p.staging(), TargetPath: p.target(), VolumeCapability: proto.CloneOf(p.how), Secrets: secrets},
		&csi.NodeUnpublishVolumeRequest{VolumeId: p.id, TargetPath: p.target()},
		&csi.NodeGetVolumeStatsRequest{VolumeId: p.id, VolumePath: p.target(), StagingTargetPath: p.staging()},
		&csi.NodeGetVolumeHealthRequest{VolumeId: p.id, VolumePublishPath: p.target(), StagingTargetPath: p.staging()},
		&csi.NodeExpandVolumeRequest{VolumeId: p.id, VolumePath: p.target(), CapacityRange: size, StagingTargetPath: p.staging(), VolumeCapability: proto.CloneOf(p.how), Secrets: secrets},
	}
}

// otherNode is the ID of a volume of another node.
const otherNode = "vol-00000000-00000000000000000000000000000000"

// requestOf returns the request of requests for an RPC, or an empty one.
func (p *patient) requestOf(m method) proto.Message {
	p.Helper()
	all := p.requests()
	if i := slices.IndexFunc(all, func(r proto.Message) bool { return r.ProtoReflect().Descriptor().FullName() == m.request.FullName() }); i >= 0 {
		return all[i]
	}
	return newMessage(p.T, m.request)
}

// call makes a call with a request, or with bytes that stand for one.
func (b *testbed) call(m method, request any) error {
	if bytes, are := request.([]byte); are {
		return b.Connection.Invoke(background, m.name, bytes, nil, forceBytes)
	}
	return b.Connection.Invoke(background, m.name, request, newMessage(b.T, m.response))
}
