package driver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/snapdriver/snapdriver/pkg/backend"
	"github.com/snapdriver/snapdriver/pkg/driver/mounts"
)

func (c *controller) ControllerGetVolumeHealth(ctx context.Context, r *csi.ControllerGetVolumeHealthRequest) (*csi.ControllerGetVolumeHealthResponse, error) {
	id, err := parseVolumeID(r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	sight, err := mounts.Look()
	if err != nil {
		return nil, err
	}
	conditions, err := notResponding(c.volumeHealth(ctx, id, sight, places{}, patience))
	if err != nil {
		return nil, err
	}
	return &csi.ControllerGetVolumeHealthResponse{VolumeHealth: renderVolumeHealth(id, conditions)}, nil
}

func (c *controller) ControllerListVolumeHealth(ctx context.Context, r *csi.ControllerListVolumeHealthRequest) (*csi.ControllerListVolumeHealthResponse, error) {
	page, err := parsePage(r.GetMaxEntries(), r.GetStartingToken())
	if err != nil {
		return nil, err
	}
	sight, err := mounts.Look()
	if err != nil {
		return nil, err
	}
	wait := patience
	found, next, err := c.core().UnhealthyVolumes(page, func(id backend.VolumeID) ([]backend.Condition, error) {
		conditions, err := c.volumeHealth(ctx, id, sight, places{}, wait)
		if errors.Is(err, errNoAnswer) {
			wait = impatience
		}
		return notResponding(conditions, err)
	})
	if err != nil {
		return nil, err
	}
	response := &csi.ControllerListVolumeHealthResponse{NextToken: next}
	for _, volume := range found {
		response.Entries = append(response.Entries, renderVolumeHealth(volume.ID, volume.Conditions))
	}
	return response, nil
}

// NodeGetVolumeHealth looks at the paths too. Of a volume on another node it
// says what CSI wants to be said of one that is not on this.
func (n *node) NodeGetVolumeHealth(ctx context.Context, r *csi.NodeGetVolumeHealthRequest) (*csi.NodeGetVolumeHealthResponse, error) {
	id, at, err := parseNodeHealth(r)
	if err != nil {
		return nil, err
	}
	if n.core().NodeBusy(id) {
		at = places{} // it is just being put there, or taken away
	}
	sight, err := mounts.Look()
	if err != nil {
		return nil, err
	}
	conditions, err := notResponding(n.volumeHealth(ctx, id, sight, at, patience))
	if errors.Is(err, backend.ErrPrecondition) {
		err = fmt.Errorf("%v: %w", err, backend.ErrNotFound) //nolint:errorlint // the class changes on purpose
	}
	if err != nil {
		return nil, err
	}
	return &csi.NodeGetVolumeHealthResponse{VolumeHealth: renderVolumeHealth(id, conditions)}, nil
}

func (n *node) NodeGetStorageHealth(ctx context.Context, _ *csi.NodeGetStorageHealthRequest) (*csi.NodeGetStorageHealthResponse, error) {
	conditions, err := n.storageHealth(ctx)
	if err != nil {
		return nil, err
	}
	return renderStorageHealth(conditions), nil
}

// volumeHealth returns what the backend finds wrong with a volume, what the
// kernel finds wrong with the filesystem on it, and whether it is not where it
// is said to be. errNoAnswer after patience.
func (s *Server) volumeHealth(ctx context.Context, id backend.VolumeID, sight mounts.Sight, at places, patience time.Duration) ([]backend.Condition, error) {
	return s.volumesAsked.ask(ctx, fmt.Sprintf("health of %s at %q", id, at), patience, func(ctx context.Context) ([]backend.Condition, error) {
		conditions, err := s.core().VolumeHealth(ctx, id)
		if err != nil {
			return nil, err
		}
		more, err := s.mountHealth(ctx, id, sight, at)
		if errors.Is(err, fs.ErrNotExist) { // was it just unstaged, or deleted?
			if s.core().NodeBusy(id) {
				return conditions, nil
			}
			more, err = s.mountHealth(ctx, id, sight, at)
		}
		if err != nil && len(conditions) > 0 {
			return conditions, nil // the error is a consequence of what is wrong
		}
		return append(conditions, more...), err
	})
}

// mountHealth returns what is wrong with the mounts of a volume.
func (s *Server) mountHealth(ctx context.Context, id backend.VolumeID, sight mounts.Sight, at places) ([]backend.Condition, error) {
	volume, err := s.core().Volume(id)
	if err != nil {
		return nil, err
	}
	mount, attached, err := s.core().Attached(ctx, id)
	if err != nil {
		return nil, err
	}
	if mount.Source != "" {
		// What it names may be gone; then the mounts cannot be told from others.
		if _, err := os.Stat(mount.Source); err != nil {
			return nil, err
		}
	}
	conditions, err := sight.Filesystem(mount)
	if err != nil {
		return nil, err
	}
	if at.staging != "" {
		more, err := stagedHealth(volume, attached, mount, sight, at.staging)
		if err != nil {
			return nil, err
		}
		conditions = append(conditions, more...)
	}
	if at.volume != "" {
		more, err := sight.Published(mount, at.volume)
		if err != nil {
			return nil, err
		}
		conditions = append(conditions, more...)
	}
	return conditions, nil
}

// stagedHealth returns what is wrong with how a volume is staged. A block volume
// is staged when it is attached.
func stagedHealth(volume backend.Volume, attached bool, mount backend.Mount, sight mounts.Sight, path string) ([]backend.Condition, error) {
	switch {
	case volume.Mode == backend.Filesystem:
		return sight.Staged(mount, path)
	case !attached:
		return []backend.Condition{{Severity: backend.Inaccessible, Reason: mounts.NotStaged, Message: "it is not attached"}}, nil
	}
	return nil, nil
}

func (s *Server) storageHealth(ctx context.Context) ([]backend.Condition, error) {
	return notResponding(s.storageAsked.ask(ctx, "health of the storage", patience, s.core().StorageHealth))
}

// notResponding makes it a condition that there is no answer.
func notResponding(conditions []backend.Condition, err error) ([]backend.Condition, error) {
	if errors.Is(err, errNoAnswer) {
		return []backend.Condition{{Severity: backend.Inaccessible, Reason: "NotResponding", Message: err.Error()}}, nil
	}
	return conditions, err
}

// parseNodeHealth returns the volume that is asked about, and where it is said
// to be, if that is said.
func parseNodeHealth(r *csi.NodeGetVolumeHealthRequest) (id backend.VolumeID, at places, err error) {
	if r.GetVolumePublishPath() != "" {
		if at.volume, err = mounts.CleanPath("volume_publish_path", r.GetVolumePublishPath()); err != nil {
			return id, at, err
		}
	}
	if r.GetStagingTargetPath() != "" {
		if at.staging, err = mounts.CleanPath("staging_target_path", r.GetStagingTargetPath()); err != nil {
			return id, at, err
		}
	}
	id, err = parseVolumeID(r.GetVolumeId())
	return id, at, err
}
