package driver

import (
	"context"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

// identity is the CSI Identity service.
type identity struct {
	csi.UnimplementedIdentityServer
	*Server
}

func (i *identity) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: i.config.Name, VendorVersion: i.config.Version}, nil
}

func (i *identity) GetPluginCapabilities(context.Context, *csi.GetPluginCapabilitiesRequest) (*csi.GetPluginCapabilitiesResponse, error) {
	response := &csi.GetPluginCapabilitiesResponse{}
	for _, service := range []csi.PluginCapability_Service_Type{
		csi.PluginCapability_Service_CONTROLLER_SERVICE,
		csi.PluginCapability_Service_VOLUME_ACCESSIBILITY_CONSTRAINTS,
		csi.PluginCapability_Service_SNAPSHOT_ACCESSIBILITY_CONSTRAINTS,
	} {
		response.Capabilities = append(response.Capabilities, &csi.PluginCapability{
			Type: &csi.PluginCapability_Service_{Service: &csi.PluginCapability_Service{Type: service}},
		})
	}
	response.Capabilities = append(response.Capabilities, &csi.PluginCapability{
		Type: &csi.PluginCapability_VolumeExpansion_{VolumeExpansion: &csi.PluginCapability_VolumeExpansion{
			Type: csi.PluginCapability_VolumeExpansion_ONLINE,
		}},
	})
	return response, nil
}

// Probe asks the backend for free space: that takes no more than a look at the
// storage and fails when the storage is away.
func (i *identity) Probe(ctx context.Context, _ *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	if i.core() == nil {
		return &csi.ProbeResponse{Ready: wrapperspb.Bool(false)}, nil
	}
	if _, err := i.capacity(ctx, backend.Profile{Mode: backend.Filesystem}); err != nil {
		return nil, fmt.Errorf("the storage is not usable: %v: %w", err, backend.ErrPrecondition) //nolint:errorlint // CSI wants this class whatever the cause
	}
	return &csi.ProbeResponse{Ready: wrapperspb.Bool(true)}, nil
}
