package driver

import (
	"fmt"
	"maps"
	"strings"
	"unicode"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/snapdriver/snapdriver/pkg/backend"
	"github.com/snapdriver/snapdriver/pkg/driver/mounts"
	"github.com/snapdriver/snapdriver/pkg/snapshotcore"
)

// provisionerPrefix begins the parameters that are meant for the sidecars. They
// strip most of them, pass on those that name PVCs, and never pass on
// csi.storage.k8s.io/fstype: that becomes fs_type of the capability.
const provisionerPrefix = "csi.storage.k8s.io/"

func required(field, value string) error {
	if value == "" {
		return fmt.Errorf("%s: it is missing: %w", field, backend.ErrInvalid)
	}
	return nil
}

// checkName refuses the characters that CSI bans from names: control
// characters other than tab, line feed and carriage return.
func checkName(name string) error {
	banned := func(r rune) bool { return unicode.IsControl(r) && r != '\t' && r != '\n' && r != '\r' }
	if at := strings.IndexFunc(name, banned); at >= 0 {
		return fmt.Errorf("name: the control character at byte %d is not allowed: %w", at, backend.ErrInvalid)
	}
	return required("name", name)
}

// ownParameters returns the parameters without those meant for the sidecars.
func ownParameters(parameters map[string]string) map[string]string {
	own := maps.Clone(parameters)
	maps.DeleteFunc(own, func(key, _ string) bool { return strings.HasPrefix(key, provisionerPrefix) })
	return own
}

// refuseMutable refuses parameters that ControllerModifyVolume could change.
func refuseMutable(parameters map[string]string) error {
	if len(parameters) > 0 {
		return fmt.Errorf("mutable_parameters: they are not supported (no MODIFY_VOLUME): %w", backend.ErrInvalid)
	}
	return nil
}

func parseSource(source *csi.VolumeContentSource) (parsed backend.Source, err error) {
	switch kind := source.GetType().(type) {
	case *csi.VolumeContentSource_Snapshot:
		if err := required("volume_content_source.snapshot.snapshot_id", kind.Snapshot.GetSnapshotId()); err != nil {
			return parsed, err
		}
		parsed.Snapshot, err = backend.ParseSnapshotID(kind.Snapshot.GetSnapshotId())
	case *csi.VolumeContentSource_Volume:
		if err := required("volume_content_source.volume.volume_id", kind.Volume.GetVolumeId()); err != nil {
			return parsed, err
		}
		parsed.Volume, err = backend.ParseVolumeID(kind.Volume.GetVolumeId())
	default:
		if source != nil {
			err = fmt.Errorf("volume_content_source: it names neither a snapshot nor a volume: %w", backend.ErrInvalid)
		}
	}
	return parsed, err
}

func parseCreateVolume(r *csi.CreateVolumeRequest) (request snapshotcore.VolumeRequest, err error) {
	if err := checkName(r.GetName()); err != nil {
		return request, err
	}
	if len(r.GetVolumeCapabilities()) == 0 {
		return request, fmt.Errorf("volume_capabilities: there are none; give at least one: %w", backend.ErrInvalid)
	}
	if err := refuseMutable(r.GetMutableParameters()); err != nil {
		return request, err
	}
	whole, modes, err := parseAccesses(r.GetVolumeCapabilities())
	if err != nil {
		return request, err
	}
	source, err := parseSource(r.GetVolumeContentSource())
	if err != nil {
		return request, err
	}
	return snapshotcore.VolumeRequest{
		Name:        r.GetName(),
		Profile:     backend.Profile{Mode: whole.mode, FSType: whole.fsType, Parameters: ownParameters(r.GetParameters())},
		AccessModes: modes,
		Required:    r.GetCapacityRange().GetRequiredBytes(),
		Limit:       r.GetCapacityRange().GetLimitBytes(),
		Source:      source,
	}, nil
}

// parseCapacityProfile returns what GetCapacity is asked about; a filesystem
// volume, where no capability says otherwise.
func parseCapacityProfile(r *csi.GetCapacityRequest) (backend.Profile, error) {
	whole, _, err := parseAccesses(r.GetVolumeCapabilities())
	if whole.mode == "" {
		whole.mode = backend.Filesystem
	}
	return backend.Profile{Mode: whole.mode, FSType: whole.fsType, Parameters: ownParameters(r.GetParameters())}, err
}

func parseCreateSnapshot(r *csi.CreateSnapshotRequest) (request snapshotcore.SnapshotRequest, err error) {
	if err := checkName(r.GetName()); err != nil {
		return request, err
	}
	if err := required("source_volume_id", r.GetSourceVolumeId()); err != nil {
		return request, err
	}
	source, err := backend.ParseVolumeID(r.GetSourceVolumeId())
	if err != nil {
		return request, fmt.Errorf("source_volume_id: %w", err)
	}
	return snapshotcore.SnapshotRequest{Name: r.GetName(), Source: source, Parameters: ownParameters(r.GetParameters())}, nil
}

func parsePage(max int32, token string) (snapshotcore.Page, error) {
	if max < 0 {
		return snapshotcore.Page{}, fmt.Errorf("max_entries: %d is negative: %w", max, backend.ErrInvalid)
	}
	return snapshotcore.Page{Token: token, Max: int(max)}, nil
}

// parseVolumeID parses a required volume_id.
func parseVolumeID(text string) (backend.VolumeID, error) {
	if err := required("volume_id", text); err != nil {
		return backend.VolumeID{}, err
	}
	return backend.ParseVolumeID(text)
}

// parseSnapshotID parses a required snapshot_id.
func parseSnapshotID(text string) (backend.SnapshotID, error) {
	if err := required("snapshot_id", text); err != nil {
		return backend.SnapshotID{}, err
	}
	return backend.ParseSnapshotID(text)
}

// parsePath parses a required path.
func parsePath(field, path string) (string, error) {
	if err := required(field, path); err != nil {
		return "", err
	}
	return mounts.CleanPath(field, path)
}

// places are where a volume is said to be: at volume_path and, unless it is
// empty, at staging_target_path.
type places struct {
	volume, staging string
}

// parsePlaces cleans the paths that are to hold a volume. Nothing is at what is
// not a usable path: ErrNotFound.
func parsePlaces(id, volume, staging string) (at places, err error) {
	if err := required("volume_id", id); err != nil {
		return at, err
	}
	if err := required("volume_path", volume); err != nil {
		return at, err
	}
	at.volume, err = mounts.CleanPath("volume_path", volume)
	if err == nil && staging != "" {
		at.staging, err = mounts.CleanPath("staging_target_path", staging)
	}
	if err != nil {
		err = fmt.Errorf("%v: %w", err, backend.ErrNotFound) //nolint:errorlint // the class changes on purpose
	}
	return at, err
}

func parseStage(r *csi.NodeStageVolumeRequest) (path string, asked access, err error) {
	if err := required("volume_id", r.GetVolumeId()); err != nil {
		return "", access{}, err
	}
	if path, err = parsePath("staging_target_path", r.GetStagingTargetPath()); err != nil {
		return "", access{}, err
	}
	asked, err = parseAccess("volume_capability", r.GetVolumeCapability())
	return path, asked, err
}

// publishRequest is a parsed NodePublishVolumeRequest.
type publishRequest struct {
	staging, target string
	asked           access // its flags have what readonly says
}

func parsePublish(r *csi.NodePublishVolumeRequest) (parsed publishRequest, err error) {
	if err := required("volume_id", r.GetVolumeId()); err != nil {
		return parsed, err
	}
	if parsed.target, err = parsePath("target_path", r.GetTargetPath()); err != nil {
		return parsed, err
	}
	if parsed.asked, err = parseAccess("volume_capability", r.GetVolumeCapability()); err != nil {
		return parsed, err
	}
	if r.GetStagingTargetPath() == "" {
		return parsed, fmt.Errorf("staging_target_path: it is missing; NodeStageVolume comes first: %w", backend.ErrPrecondition)
	}
	if parsed.staging, err = mounts.CleanPath("staging_target_path", r.GetStagingTargetPath()); err != nil {
		return parsed, err
	}
	if r.GetReadonly() || parsed.asked.readOnly() {
		parsed.asked.flags |= mounts.ReadOnly
	}
	return parsed, nil
}

// parseAway checks a request to take a volume away from a path. Its ID need
// not be of any form.
func parseAway(field, id, path string) (string, error) {
	if err := required("volume_id", id); err != nil {
		return "", err
	}
	return parsePath(field, path)
}
