package snapshotcore

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/dustin/go-humanize"
	"k8s.io/klog/v2"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

// reportEvery is how often the progress of a long operation is logged.
const reportEvery = 5 * time.Second

// operation is a creation that runs detached from the requests that wait for
// it. The fields above done do not change; those below may be read once done
// is closed.
type operation struct {
	id       string
	request  any // what was asked for, to tell a repeat from another request
	around   Around
	locks    []lock
	started  time.Time
	progress backend.Progress
	done     chan struct{}

	result any
	err    error
}

// Around stands around the work of a creation, unless it is nil: it may wait or
// fail before it calls work, and may not fail after work has succeeded. ctx ends
// when the driver stops. It is for tests of those who call the driver. A request
// that joins a running creation does not bring its own.
type Around func(ctx context.Context, work func() error) error

// start registers an operation and runs work on it in the background, under
// the operation's locks. When work has returned, commit is called with its
// result, in the same critical section that frees the locks: no request ever
// sees the object neither running nor in the index. The caller holds c.mu.
func (c *Core) start(op *operation, work func(context.Context, *backend.Progress) (any, error), commit func(any)) error {
	if c.ctx.Err() != nil {
		return fmt.Errorf("the driver is stopping; repeat the call later: %w", backend.ErrBusy)
	}
	if err := c.locks.try(op.locks...); err != nil {
		return err
	}
	op.started, op.done = time.Now(), make(chan struct{})
	c.creating[op.id] = op
	c.running.Add(1)
	go func() {
		defer c.running.Done()
		go op.report()
		op.result, op.err = guarded(c.ctx, op, work)
		c.mu.Lock()
		defer c.mu.Unlock()
		if op.err == nil {
			commit(op.result)
		}
		delete(c.creating, op.id)
		c.locks.release(op.locks...)
		close(op.done)
	}()
	return nil
}

// guarded runs work; a panic in it becomes an error, for no request may end
// the process, and this goroutine has no interceptor above it.
func guarded(ctx context.Context, op *operation, work func(context.Context, *backend.Progress) (any, error)) (result any, err error) {
	defer func() {
		if p := recover(); p != nil {
			klog.ErrorS(nil, "Panic in a detached operation", "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	if op.around == nil {
		return work(ctx, &op.progress)
	}
	err = op.around(ctx, func() (err error) {
		result, err = work(ctx, &op.progress)
		return err
	})
	return result, err
}

// report logs the progress of an operation that takes long, and its end.
func (op *operation) report() {
	ticker := time.NewTicker(reportEvery)
	defer ticker.Stop()
	for long := false; ; long = true {
		select {
		case <-ticker.C:
			klog.InfoS("Still working", "id", op.id, "progress", op.describe())
		case <-op.done:
			if long { // a short one had its caller waiting, who tells
				klog.InfoS("Operation ended", "id", op.id, "progress", op.describe(), "err", op.err)
			}
			return
		}
	}
}

// describe says how far the operation is, for logs and for callers.
func (op *operation) describe() string {
	done, total := op.progress.Bytes()
	text := humanize.IBytes(uint64(max(done, 0)))
	if total > 0 {
		text += " of " + humanize.IBytes(uint64(total))
	}
	return fmt.Sprintf("%s done in %s", text, time.Since(op.started).Round(time.Second))
}

// wait returns the operation's result or, shortly before ctx ends, ErrBusy
// with its progress: an answer that arrives tells the caller more than a
// deadline that passes. The operation goes on in either case.
func wait[Result any](ctx context.Context, op *operation) (Result, error) {
	var none Result
	patience := ctx
	if deadline, has := ctx.Deadline(); has {
		left := time.Until(deadline)
		var cancel context.CancelFunc
		patience, cancel = context.WithTimeout(ctx, left-min(left/10, time.Second))
		defer cancel()
	}
	select {
	case <-op.done:
		if op.err != nil {
			return none, op.err
		}
		return op.result.(Result), nil
	case <-patience.Done():
		return none, fmt.Errorf("%s is being created, %s; repeat the call to wait for it: %w", op.id, op.describe(), backend.ErrBusy)
	}
}
