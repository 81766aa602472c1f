package driver

import (
	"context"
	"fmt"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/snapdriver/snapdriver/pkg/backend"
	"github.com/snapdriver/snapdriver/pkg/driver/faults"
	"github.com/snapdriver/snapdriver/pkg/snapshotcore"
)

// controller is the CSI Controller service.
type controller struct {
	csi.UnimplementedControllerServer
	*Server
}

func (c *controller) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	rpcs := []csi.ControllerServiceCapability_RPC_Type{
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME,
		csi.ControllerServiceCapability_RPC_LIST_VOLUMES,
		csi.ControllerServiceCapability_RPC_GET_CAPACITY,
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_SNAPSHOT,
		csi.ControllerServiceCapability_RPC_LIST_SNAPSHOTS,
		csi.ControllerServiceCapability_RPC_CLONE_VOLUME,
		csi.ControllerServiceCapability_RPC_GET_VOLUME,
		csi.ControllerServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
		csi.ControllerServiceCapability_RPC_GET_SNAPSHOT,
		csi.ControllerServiceCapability_RPC_GET_VOLUME_HEALTH,
		csi.ControllerServiceCapability_RPC_LIST_VOLUME_HEALTH,
	}
	if !c.config.ExpandOnNode {
		rpcs = append(rpcs, csi.ControllerServiceCapability_RPC_EXPAND_VOLUME)
	}
	response := &csi.ControllerGetCapabilitiesResponse{}
	for _, rpc := range rpcs {
		response.Capabilities = append(response.Capabilities, &csi.ControllerServiceCapability{
			Type: &csi.ControllerServiceCapability_Rpc{Rpc: &csi.ControllerServiceCapability_RPC{Type: rpc}},
		})
	}
	return response, nil
}

func (c *controller) CreateVolume(ctx context.Context, r *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	request, err := parseCreateVolume(r)
	if err != nil {
		return nil, err
	}
	request.Elsewhere = !c.topology.admits(r.GetAccessibilityRequirements())
	request.Around = faults.Around(ctx)
	volume, err := c.core().CreateVolume(ctx, request)
	if err != nil {
		return nil, err
	}
	return &csi.CreateVolumeResponse{Volume: c.topology.volume(volume)}, nil
}

func (c *controller) DeleteVolume(ctx context.Context, r *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	id, err := parseVolumeID(r.GetVolumeId())
	if err == nil {
		err = c.core().DeleteVolume(ctx, id)
	}
	return &csi.DeleteVolumeResponse{}, unlessAbsent(err)
}

func (c *controller) ControllerGetVolume(_ context.Context, r *csi.ControllerGetVolumeRequest) (*csi.ControllerGetVolumeResponse, error) {
	volume, err := c.volume(r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	return &csi.ControllerGetVolumeResponse{
		Volume: c.topology.volume(volume),
		Status: &csi.ControllerGetVolumeResponse_VolumeStatus{},
	}, nil
}

func (c *controller) ListVolumes(_ context.Context, r *csi.ListVolumesRequest) (*csi.ListVolumesResponse, error) {
	page, err := parsePage(r.GetMaxEntries(), r.GetStartingToken())
	if err != nil {
		return nil, err
	}
	volumes, next, err := c.core().Volumes(page)
	if err != nil {
		return nil, err
	}
	response := &csi.ListVolumesResponse{NextToken: next}
	for _, volume := range volumes {
		response.Entries = append(response.Entries, &csi.ListVolumesResponse_Entry{Volume: c.topology.volume(volume)})
	}
	return response, nil
}

func (c *controller) ControllerExpandVolume(ctx context.Context, r *csi.ControllerExpandVolumeRequest) (*csi.ControllerExpandVolumeResponse, error) {
	if c.config.ExpandOnNode {
		return c.UnimplementedControllerServer.ControllerExpandVolume(ctx, r)
	}
	volume, mount, err := c.volumeAndMount(ctx, r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	if err := checkOptionalAccess(r.GetVolumeCapability(), volume, mount); err != nil {
		return nil, err
	}
	volume, err = c.core().ExpandVolume(ctx, volume.ID, r.GetCapacityRange().GetRequiredBytes(), r.GetCapacityRange().GetLimitBytes())
	if err != nil {
		return nil, err
	}
	return &csi.ControllerExpandVolumeResponse{CapacityBytes: volume.Capacity, NodeExpansionRequired: volume.OnDevice}, nil
}

func (c *controller) ValidateVolumeCapabilities(ctx context.Context, r *csi.ValidateVolumeCapabilitiesRequest) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	if err := checkValidate(r); err != nil {
		return nil, err
	}
	volume, mount, err := c.volumeAndMount(ctx, r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	if err := confirm(r, volume, mount); err != nil {
		return &csi.ValidateVolumeCapabilitiesResponse{Message: cut(err.Error())}, nil
	}
	return &csi.ValidateVolumeCapabilitiesResponse{Confirmed: &csi.ValidateVolumeCapabilitiesResponse_Confirmed{
		VolumeCapabilities: r.GetVolumeCapabilities(),
		Parameters:         r.GetParameters(),
	}}, nil
}

func (c *controller) GetCapacity(ctx context.Context, r *csi.GetCapacityRequest) (*csi.GetCapacityResponse, error) {
	profile, err := parseCapacityProfile(r)
	if err != nil {
		return nil, err
	}
	capacity, err := c.capacity(ctx, profile)
	if err != nil {
		return nil, err
	}
	if !c.topology.includes(r.GetAccessibleTopology()) {
		return &csi.GetCapacityResponse{}, nil
	}
	return &csi.GetCapacityResponse{
		AvailableCapacity: capacity.Available,
		// What may be asked for now, not the limit of the kind: the scheduler
		// goes by this number and not by the other when both are there.
		MaximumVolumeSize: wrapperspb.Int64(capacity.Available),
		MinimumVolumeSize: wrapperspb.Int64(capacity.Limits.Min),
	}, nil
}

// capacity is Core.Capacity, or errNoAnswer: it is asked for so often that what
// waits for hanging storage would pile up.
func (s *Server) capacity(ctx context.Context, profile backend.Profile) (snapshotcore.Capacity, error) {
	return s.capacityAsked.ask(ctx, fmt.Sprintf("capacity for %v", profile), patience, func(ctx context.Context) (snapshotcore.Capacity, error) {
		return s.core().Capacity(ctx, profile)
	})
}

// cut shortens a text to what CSI allows a field.
func cut(text string) string {
	return strings.ToValidUTF8(text[:min(len(text), maxString)], "")
}

// volume finds the volume of a required volume_id.
func (s *Server) volume(id string) (backend.Volume, error) {
	parsed, err := parseVolumeID(id)
	if err != nil {
		return backend.Volume{}, err
	}
	return s.core().Volume(parsed)
}

// volumeAndMount finds the volume of a required volume_id, and what is on it.
func (s *Server) volumeAndMount(ctx context.Context, id string) (backend.Volume, backend.Mount, error) {
	volume, err := s.volume(id)
	if err != nil {
		return volume, backend.Mount{}, err
	}
	mount, _, err := s.core().Attached(ctx, volume.ID)
	return volume, mount, err
}

// checkOptionalAccess refuses a capability, where one is given, that the volume
// does not have.
func checkOptionalAccess(capability *csi.VolumeCapability, volume backend.Volume, mount backend.Mount) error {
	if capability == nil {
		return nil
	}
	asked, err := parseAccess("volume_capability", capability)
	if err != nil {
		return err
	}
	if err := asked.suits(volume, mount); err != nil {
		return fmt.Errorf("%w: %w", err, backend.ErrInvalid)
	}
	return nil
}
