package driver

import (
	"cmp"
	"errors"
	"fmt"
	"maps"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/snapdriver/snapdriver/pkg/backend"
	"github.com/snapdriver/snapdriver/pkg/driver/mounts"
)

// access is how a volume is to be used: a parsed VolumeCapability.
type access struct {
	mode       backend.Mode
	fsType     string // empty: whichever it has
	accessMode backend.AccessMode
	flags      mounts.Flags
}

// accessModes are the modes that one node can honour. What lies on one node is
// never used on several, so MULTI_NODE_READER_ONLY costs nothing to promise;
// writers on several nodes cannot be had.
var accessModes = map[csi.VolumeCapability_AccessMode_Mode]backend.AccessMode{
	csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER:        backend.SingleNodeWriter,
	csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY:   backend.SingleNodeReaderOnly,
	csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER: backend.SingleNodeSingleWriter,
	csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER:  backend.SingleNodeMultiWriter,
	csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY:    backend.MultiNodeReaderOnly,
}

// readOnly says whether the access mode is for readers only.
func (a access) readOnly() bool {
	return a.accessMode == backend.SingleNodeReaderOnly || a.accessMode == backend.MultiNodeReaderOnly
}

// oneTarget says whether a volume may be published at one target only: all but
// the last two rows of CSI's table for NodePublishVolume.
func oneTarget(mode backend.AccessMode) bool {
	return mode != backend.SingleNodeMultiWriter && mode != backend.MultiNodeReaderOnly
}

// checkComplete refuses a capability that lacks a required field.
func checkComplete(field string, capability *csi.VolumeCapability) error {
	switch {
	case capability == nil:
		return fmt.Errorf("%s: it is missing: %w", field, backend.ErrInvalid)
	case capability.GetAccessType() == nil:
		return fmt.Errorf("%s.access_type: it is missing; give block or mount: %w", field, backend.ErrInvalid)
	case capability.GetAccessMode().GetMode() == csi.VolumeCapability_AccessMode_UNKNOWN:
		return fmt.Errorf("%s.access_mode: it is missing: %w", field, backend.ErrInvalid)
	}
	return nil
}

// parseAccess parses a capability. ErrInvalid when it is not complete, or is
// one that no volume here has.
func parseAccess(field string, capability *csi.VolumeCapability) (access, error) {
	if err := checkComplete(field, capability); err != nil {
		return access{}, err
	}
	accessMode, can := accessModes[capability.GetAccessMode().GetMode()]
	if !can {
		return access{}, fmt.Errorf("%s.access_mode: %s is not on offer, for a volume lies on one node; use a SINGLE_NODE mode or MULTI_NODE_READER_ONLY: %w",
			field, capability.GetAccessMode().GetMode(), backend.ErrInvalid)
	}
	mount := capability.GetMount()
	if mount == nil {
		return access{mode: backend.Block, accessMode: accessMode}, nil
	}
	if mount.GetVolumeMountGroup() != "" {
		return access{}, fmt.Errorf("%s.mount.volume_mount_group: it is not supported (no VOLUME_MOUNT_GROUP): %w", field, backend.ErrInvalid)
	}
	flags, err := mounts.ParseFlags(mount.GetMountFlags())
	if err != nil {
		return access{}, fmt.Errorf("%s.mount.%w", field, err)
	}
	return access{mode: backend.Filesystem, fsType: mount.GetFsType(), accessMode: accessMode, flags: flags}, nil
}

// parseAccesses parses the capabilities that one volume is to have all at
// once. ErrInvalid when it cannot.
func parseAccesses(capabilities []*csi.VolumeCapability) (whole access, modes []backend.AccessMode, err error) {
	const field = "volume_capabilities"
	for _, capability := range capabilities {
		one, err := parseAccess(field, capability)
		if err != nil {
			return access{}, nil, err
		}
		if whole.mode != "" && whole.mode != one.mode {
			return access{}, nil, fmt.Errorf("%s.access_type: both block and mount are asked for; a volume is one of them: %w", field, backend.ErrInvalid)
		}
		if whole.fsType != "" && one.fsType != "" && whole.fsType != one.fsType {
			return access{}, nil, fmt.Errorf("%s.mount.fs_type: both %q and %q are asked for; a volume has one filesystem: %w", field, whole.fsType, one.fsType, backend.ErrInvalid)
		}
		whole.mode = one.mode
		whole.fsType = cmp.Or(whole.fsType, one.fsType)
		modes = append(modes, one.accessMode)
	}
	return whole, modes, nil
}

// suits returns nil when a volume can be used like this, or else the reason.
// The access mode may be another than the volume was created for, as when an
// administrator edits the access modes of a PersistentVolume, which Kubernetes
// describes: every volume here can be used in every mode. The filesystem may be
// named that the volume was created for, or that mount says it has.
func (a access) suits(volume backend.Volume, mount backend.Mount) error {
	if a.mode != volume.Mode {
		return fmt.Errorf("volume_capability: %s access is asked for, the volume is for %s access", a.mode, volume.Mode)
	}
	if a.fsType != "" && a.fsType != volume.FSType && a.fsType != mount.FSType {
		return fmt.Errorf("volume_capability.mount.fs_type: %q is asked for, the volume has %q (empty: a directory of the node's)", a.fsType, mount.FSType)
	}
	return nil
}

// checkValidate refuses a request to validate capabilities that is incomplete.
func checkValidate(r *csi.ValidateVolumeCapabilitiesRequest) error {
	if err := required("volume_id", r.GetVolumeId()); err != nil {
		return err
	}
	if len(r.GetVolumeCapabilities()) == 0 {
		return fmt.Errorf("volume_capabilities: there are none; give at least one: %w", backend.ErrInvalid)
	}
	for _, capability := range r.GetVolumeCapabilities() {
		if err := checkComplete("volume_capabilities", capability); err != nil {
			return err
		}
	}
	return nil
}

// confirm returns nil when the volume has all that the request asks about, or
// else the reason.
func confirm(r *csi.ValidateVolumeCapabilitiesRequest, volume backend.Volume, mount backend.Mount) error {
	if err := refuseMutable(r.GetMutableParameters()); err != nil {
		return err
	}
	if len(r.GetVolumeContext()) > 0 {
		return errors.New("volume_context: volumes of this driver have none, so this is not the volume's")
	}
	whole, _, err := parseAccesses(r.GetVolumeCapabilities())
	if err != nil {
		return err
	}
	if parameters := ownParameters(r.GetParameters()); len(parameters) > 0 && !maps.Equal(parameters, volume.Parameters) {
		return fmt.Errorf("parameters: the volume was created with %v", volume.Parameters)
	}
	return whole.suits(volume, mount)
}
