package snapshotcore

import (
	"context"
	"errors"
	"slices"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

// VolumeHealth is backend.Backend.VolumeHealth. It takes no lock: a volume that
// is being copied is asked about like any other. One that the storage does not
// have any more, although nobody deleted it, has lost its data. ErrNotFound, or
// ErrPrecondition when the volume was made on another node.
func (c *Core) VolumeHealth(ctx context.Context, id backend.VolumeID) ([]backend.Condition, error) {
	if _, err := c.Volume(id); err != nil && !slices.Contains(c.damaged, id) {
		return nil, err
	}
	conditions, err := c.backend.VolumeHealth(ctx, id)
	if errors.Is(err, backend.ErrNotFound) && c.shouldExist(id) {
		return []backend.Condition{{
			Severity: backend.DataLoss,
			Reason:   "VolumeMissing",
			Message:  "the storage has it no more, and nobody has asked for its deletion",
		}}, nil
	}
	return conditions, err
}

// shouldExist says whether a volume is committed and not just being deleted.
func (c *Core) shouldExist(id backend.VolumeID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, exists := c.volumes.byID[id]
	return exists && !c.locks.excludes(id.String())
}

// Unhealthy is a volume and what is wrong with it.
type Unhealthy struct {
	ID         backend.VolumeID
	Conditions []backend.Condition
}

// UnhealthyVolumes returns a page of the volumes in which look finds something
// wrong, in the order of their IDs, and the token of the next page. Those that
// are not served because they are damaged are among them. ErrBadToken.
func (c *Core) UnhealthyVolumes(page Page, look func(backend.VolumeID) ([]backend.Condition, error)) (found []Unhealthy, next string, err error) {
	ids, err := c.knownAfter(page.Token)
	if err != nil {
		return nil, "", err
	}
	for _, id := range ids {
		conditions, err := look(id)
		switch {
		case errors.Is(err, backend.ErrNotFound) || errors.Is(err, backend.ErrPrecondition):
			// Deleted meanwhile, or taken away from where it was set aside.
		case err != nil:
			return nil, "", err
		case len(conditions) == 0:
		case page.Max > 0 && len(found) == page.Max:
			return found, found[page.Max-1].ID.String(), nil
		default:
			found = append(found, Unhealthy{id, conditions})
		}
	}
	return found, "", nil
}

// knownAfter returns the IDs after a page token of all volumes whose health can
// be asked about.
func (c *Core) knownAfter(token string) ([]backend.VolumeID, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	order := slices.Clone(c.volumes.order)
	for _, id := range c.damaged {
		if _, made := c.volumes.byID[id]; !made { // anew, under the same name
			order = insertID(order, id)
		}
	}
	ids, _, err := pageOf(order, Page{Token: token}, backend.ParseVolumeID)
	return ids, err
}

// StorageHealth is backend.Backend.StorageHealth.
func (c *Core) StorageHealth(ctx context.Context) ([]backend.Condition, error) {
	return c.backend.StorageHealth(ctx)
}

// Gauges is backend.Backend.Gauges.
func (c *Core) Gauges(ctx context.Context) ([]backend.Gauge, error) {
	return c.backend.Gauges(ctx)
}
