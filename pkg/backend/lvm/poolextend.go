package lvm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/klog/v2"

	"github.com/snapdriver/snapdriver/internal/dm"
	"github.com/snapdriver/snapdriver/pkg/backend"
)

// Extension says when the pool is made larger from what is free in its volume
// group, without anybody asking. The zero Extension: never.
type Extension struct {
	// AtPercent: a pool of which as much is written is extended, or as little
	// as makes it refuse new volumes, if that is less. The same holds for its
	// metadata. 0: never.
	AtPercent int

	// ByPercent is by which part of its size it is extended, or by what is
	// left in the volume group.
	ByPercent int
}

const (
	// extensionInterval is how often the pool is looked at, which costs one
	// system call. What is written meanwhile has to fit into the rest.
	extensionInterval = time.Second

	// extensionRetry is how long nothing is tried after an attempt has failed.
	extensionRetry = time.Minute
)

func (e Extension) validate() error {
	switch {
	case e.AtPercent == 0:
		return nil
	case e.AtPercent < 1 || e.AtPercent > 99:
		return fmt.Errorf("automatic extension at %d%% of the pool: give 1 to 99, or 0 for never: %w", e.AtPercent, backend.ErrInvalid)
	case e.ByPercent < 1 || e.ByPercent > 1000:
		return fmt.Errorf("automatic extension by %d%% of the pool: give 1 to 1000: %w", e.ByPercent, backend.ErrInvalid)
	}
	return nil
}

// start begins to keep the pool extended, where that is asked for, until close.
func (p *pool) start() {
	if p.limits.Extension.AtPercent == 0 {
		return
	}
	var ctx context.Context
	ctx, p.stop = context.WithCancel(context.Background())
	p.extending.Go(func() { p.keepExtended(ctx) })
}

// close waits for the end of an extension that has begun.
func (p *pool) close() {
	if p.stop != nil {
		p.stop()
	}
	p.extending.Wait()
}

// keepExtended extends the pool whenever it is due, until ctx ends.
func (p *pool) keepExtended(ctx context.Context) {
	ticker := time.NewTicker(extensionInterval)
	defer ticker.Stop()
	var failed time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if time.Since(failed) < extensionRetry {
			continue
		}
		if err := p.extendIfDue(ctx); err != nil && ctx.Err() == nil {
			klog.ErrorS(err, "Cannot extend the thin pool", "pool", p.String())
			failed = time.Now()
		}
	}
}

// extendIfDue extends the pool's data, and its metadata, once, if they are used
// as far as that.
func (p *pool) extendIfDue(ctx context.Context) error {
	state, err := p.state()
	if err != nil {
		return err
	}
	data := reached(state.Data, min(p.limits.Extension.AtPercent, p.limits.DataPercent))
	metadata := reached(state.Metadata, p.limits.Extension.AtPercent) || p.limits.metadataReached(state.Metadata)
	if state.Mode == dm.PoolFailed || state.NeedsCheck || !data && !metadata {
		return nil // more space would not help, or need not
	}
	row, err := p.look(ctx)
	if err != nil {
		return err
	}
	free := row.GroupFree
	var failed [2]error // neither keeps the other from being tried
	if metadata {       // first, for a pool without them is worse off than a full one
		// The metadata have a spare of the same size, which grows with them.
		by := p.step(state.Metadata.Total*dm.MetadataBlock, free/2)
		if failed[0] = p.extend(ctx, "--poolmetadatasize", by); failed[0] == nil {
			free -= 2 * by
		}
	}
	if data {
		failed[1] = p.extend(ctx, "--size", p.step(state.size, free))
	}
	return errors.Join(failed[:]...)
}

// step returns by how much something of that size is to be extended, in bytes:
// whole extents, of which so many are free.
func (p *pool) step(size, free int64) int64 {
	by := size/100*int64(p.limits.Extension.ByPercent) + p.extentSize - 1
	by = min(by, free)
	return by - by%p.extentSize
}

func (p *pool) extend(ctx context.Context, what string, by int64) error {
	if by <= 0 {
		return fmt.Errorf("volume group %s has no free space: add a disk to it (vgextend): %w", p.group, backend.ErrExhausted)
	}
	if err := p.change(ctx, "lvextend", what, fmt.Sprintf("+%db", by), p.String()); err != nil {
		return err
	}
	klog.InfoS("Extended the thin pool", "pool", p.String(), "option", what, "bytes", by)
	return nil
}
