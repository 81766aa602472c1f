package driver

import (
	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

// volume renders a volume, for every RPC that returns one.
func (t topology) volume(v backend.Volume) *csi.Volume {
	return &csi.Volume{
		VolumeId:           v.ID.String(),
		CapacityBytes:      v.Capacity,
		ContentSource:      contentSource(v.Source),
		AccessibleTopology: []*csi.Topology{t.accessible()},
	}
}

func contentSource(source backend.Source) *csi.VolumeContentSource {
	switch {
	case !source.Snapshot.IsZero():
		return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
			Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: source.Snapshot.String()},
		}}
	case !source.Volume.IsZero():
		return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{
			Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: source.Volume.String()},
		}}
	}
	return nil
}

// snapshot renders a snapshot, for every RPC that returns one. A snapshot that
// is committed is ready: nothing is left to do after the cut.
func (t topology) snapshot(s backend.Snapshot) *csi.Snapshot {
	return &csi.Snapshot{
		SnapshotId:         s.ID.String(),
		SourceVolumeId:     s.Source.String(),
		SizeBytes:          s.Size,
		CreationTime:       timestamppb.New(s.CreatedAt),
		ReadyToUse:         true,
		AccessibleTopology: []*csi.Topology{t.accessible()},
	}
}
