package driver

import (
	"slices"
	"time"

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
// is committed is ready, for nothing is left to do after the cut; unless it was
// made to seem otherwise for a time.
func (t topology) snapshot(s backend.Snapshot) *csi.Snapshot {
	return &csi.Snapshot{
		SnapshotId:         s.ID.String(),
		SourceVolumeId:     s.Source.String(),
		SizeBytes:          s.Size,
		CreationTime:       timestamppb.New(s.CreatedAt),
		ReadyToUse:         s.ReadyIn(time.Now()) <= 0,
		AccessibleTopology: []*csi.Topology{t.accessible()},
	}
}

// volumeStatus and storageStatus are the severities as CSI has them. Storage
// knows two.
var (
	volumeStatus = map[backend.Severity]csi.VolumeHealthErrorType{
		backend.Degraded:     csi.VolumeHealthErrorType_DEGRADED,
		backend.Inaccessible: csi.VolumeHealthErrorType_INACCESSIBLE,
		backend.DataLoss:     csi.VolumeHealthErrorType_DATA_LOSS,
	}
	storageStatus = map[backend.Severity]csi.StorageHealthErrorType{
		backend.Degraded:     csi.StorageHealthErrorType_STORAGE_DEGRADED,
		backend.Inaccessible: csi.StorageHealthErrorType_STORAGE_UNREACHABLE,
	}
)

// renderVolumeHealth renders a volume's health, for every RPC that returns it.
func renderVolumeHealth(id backend.VolumeID, conditions []backend.Condition) *csi.VolumeHealth {
	health := &csi.VolumeHealth{VolumeId: id.String()}
	for _, c := range unique(conditions) {
		health.HealthStatuses = append(health.HealthStatuses, &csi.VolumeHealth_VolumeHealthEntry{
			Status: volumeStatus[c.Severity], Reason: c.Reason, Message: cut(c.Message),
		})
	}
	return health
}

func renderStorageHealth(conditions []backend.Condition) *csi.NodeGetStorageHealthResponse {
	response := &csi.NodeGetStorageHealthResponse{}
	for _, c := range unique(conditions) {
		response.BackendHealth = append(response.BackendHealth, &csi.NodeGetStorageHealthResponse_StorageBackendHealth{
			Status: storageStatus[c.Severity], Reason: c.Reason, Message: cut(c.Message),
		})
	}
	return response
}

// unique returns the first condition of each severity and reason, as CSI and
// Prometheus want them.
func unique(conditions []backend.Condition) []backend.Condition {
	seen := map[backend.Condition]bool{}
	return slices.DeleteFunc(slices.Clone(conditions), func(c backend.Condition) bool {
		c.Message = ""
		again := seen[c]
		seen[c] = true
		return again
	})
}
