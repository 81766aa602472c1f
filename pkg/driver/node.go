package driver

import (
	"context"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/snapdriver/snapdriver/pkg/backend"
	"github.com/snapdriver/snapdriver/pkg/driver/mounts"
)

// node is the CSI Node service.
//
// Staging attaches the volume and, unless it is raw block, mounts it at the
// staging path, writably whatever is asked for: a journal can be replayed and a
// filesystem grown. Publishing binds from there to the target.
type node struct {
	csi.UnimplementedNodeServer
	*Server
}

func (n *node) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	response := &csi.NodeGetCapabilitiesResponse{}
	for _, rpc := range []csi.NodeServiceCapability_RPC_Type{
		csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME,
		csi.NodeServiceCapability_RPC_GET_VOLUME_STATS,
		csi.NodeServiceCapability_RPC_EXPAND_VOLUME,
		csi.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
		csi.NodeServiceCapability_RPC_GET_VOLUME_HEALTH,
		csi.NodeServiceCapability_RPC_GET_STORAGE_HEALTH,
	} {
		response.Capabilities = append(response.Capabilities, &csi.NodeServiceCapability{
			Type: &csi.NodeServiceCapability_Rpc{Rpc: &csi.NodeServiceCapability_RPC{Type: rpc}},
		})
	}
	return response, nil
}

func (n *node) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{
		NodeId:             n.config.NodeID,
		MaxVolumesPerNode:  n.config.MaxVolumesPerNode,
		AccessibleTopology: n.topology.accessible(),
	}, nil
}

func (n *node) NodeStageVolume(ctx context.Context, r *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
	path, asked, err := parseStage(r)
	if err != nil {
		return nil, err
	}
	return &csi.NodeStageVolumeResponse{}, n.onVolume(ctx, r.GetVolumeId(), func(v held) error {
		if err := mounts.CheckPath("staging_target_path", path, n.privateDir); err != nil {
			return err
		}
		return n.stage(ctx, v, path, asked)
	})
}

func (n *node) NodeUnstageVolume(ctx context.Context, r *csi.NodeUnstageVolumeRequest) (*csi.NodeUnstageVolumeResponse, error) {
	path, err := parseAway("staging_target_path", r.GetVolumeId(), r.GetStagingTargetPath())
	if err != nil {
		return nil, err
	}
	return &csi.NodeUnstageVolumeResponse{}, n.onID(r.GetVolumeId(), func(id backend.VolumeID) error {
		if err := mounts.CheckPath("staging_target_path", path, n.privateDir); err != nil {
			return err
		}
		return n.unstage(ctx, id, path)
	})
}

func (n *node) NodePublishVolume(ctx context.Context, r *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	request, err := parsePublish(r)
	if err != nil {
		return nil, err
	}
	return &csi.NodePublishVolumeResponse{}, n.onVolume(ctx, r.GetVolumeId(), func(v held) error {
		if err := mounts.CheckPath("staging_target_path", request.staging, n.privateDir); err != nil {
			return err
		}
		if err := mounts.CheckPath("target_path", request.target, n.privateDir); err != nil {
			return err
		}
		return n.publish(v, request)
	})
}

func (n *node) NodeUnpublishVolume(_ context.Context, r *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	path, err := parseAway("target_path", r.GetVolumeId(), r.GetTargetPath())
	if err != nil {
		return nil, err
	}
	return &csi.NodeUnpublishVolumeResponse{}, n.onID(r.GetVolumeId(), func(backend.VolumeID) error {
		if err := mounts.CheckPath("target_path", path, n.privateDir); err != nil {
			return err
		}
		if err := mounts.Unmount(path); err != nil {
			return err
		}
		return mounts.RemoveTarget("target_path", path)
	})
}

func (n *node) NodeGetVolumeStats(ctx context.Context, r *csi.NodeGetVolumeStatsRequest) (*csi.NodeGetVolumeStatsResponse, error) {
	at, err := parsePlaces(r.GetVolumeId(), r.GetVolumePath(), r.GetStagingTargetPath())
	if err != nil {
		return nil, err
	}
	volume, err := n.volume(r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	usage, err := n.usageAsked.ask(ctx, fmt.Sprintf("usage of %s at %q", volume.ID, at), patience, func(ctx context.Context) ([]*csi.VolumeUsage, error) {
		return n.usage(ctx, volume, at)
	})
	return &csi.NodeGetVolumeStatsResponse{Usage: usage}, err
}

func (n *node) NodeExpandVolume(ctx context.Context, r *csi.NodeExpandVolumeRequest) (*csi.NodeExpandVolumeResponse, error) {
	at, err := parsePlaces(r.GetVolumeId(), r.GetVolumePath(), r.GetStagingTargetPath())
	if err != nil {
		return nil, err
	}
	response := &csi.NodeExpandVolumeResponse{}
	return response, n.onVolume(ctx, r.GetVolumeId(), func(v held) error {
		if err := checkOptionalAccess(r.GetVolumeCapability(), v.Volume, v.mount); err != nil {
			return err
		}
		response.CapacityBytes, err = n.expand(ctx, v, at, r.GetCapacityRange())
		return err
	})
}

// held is a volume that no other node RPC touches meanwhile, nor a deletion.
type held struct {
	backend.Volume
	mount    backend.Mount // meaningful if attached
	attached bool
}

// onID runs do while no other node RPC works on the volume. The ID may be of
// any form and name nothing; do then gets the zero ID.
func (n *node) onID(text string, do func(backend.VolumeID) error) error {
	id, _ := backend.ParseVolumeID(text)
	release, err := n.lockNode(id)
	if err != nil {
		return err
	}
	defer release()
	return do(id)
}

// lockNode is Core.LockNode. Before the core is open it keeps it from being
// opened: until then nothing works on volumes but what takes them from pods.
func (n *node) lockNode(id backend.VolumeID) (release func(), err error) {
	if n.core() == nil {
		if !n.early.TryRLock() {
			return nil, n.starting()
		}
		if n.core() == nil {
			return n.early.RUnlock, nil
		}
		n.early.RUnlock()
	}
	return n.core().LockNode(id)
}

// onVolume runs do on an existing volume, as onID does.
func (n *node) onVolume(ctx context.Context, text string, do func(held) error) error {
	id, err := parseVolumeID(text)
	if err != nil {
		return err
	}
	release, err := n.core().LockNode(id)
	if err != nil {
		return err
	}
	defer release()
	volume, err := n.core().Volume(id)
	if err != nil {
		return err
	}
	mount, attached, err := n.core().Attached(ctx, id)
	if err != nil {
		return err
	}
	return do(held{volume, mount, attached})
}
