package snapshotcore

import (
	"context"
	"errors"
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
// it. The fields above done do not change; result and err may be read once done
// is closed.
type operation struct {
	id       string
	request  any // what was asked for, to tell a repeat from another request
	around   Around
	locks    []lock
	started  time.Time
	progress backend.Progress
	done     chan struct{}
	waiting  int // how many requests wait for it; guarded by Core.mu

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
		if op.err != nil && op.waiting == 0 && !errors.Is(op.err, backend.ErrBusy) {
			c.tellLater(op)
		}
		c.locks.release(op.locks...)
		close(op.done)
	}()
	return nil
}

// untoldFor is for how long the failure of an operation is kept for who may ask
// about it: longer than any sidecar waits before it repeats a call.
const untoldFor = 10 * time.Minute

// tellLater keeps an operation that has failed while nobody waited for it, so
// that the next repeat of its request gets the error. Else that would begin the
// same again, and who made the request would see it go on for ever and never
// learn why. The caller holds c.mu.
func (c *Core) tellLater(op *operation) {
	klog.ErrorS(op.err, "Operation failed while nobody waited for it", "id", op.id, "progress", op.describe())
	c.untold[op.id] = op
	time.AfterFunc(untoldFor, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.untold[op.id] == op {
			delete(c.untold, op.id)
		}
	})
}

// tell returns what tellLater has kept under an ID, once; nil if that is nothing.
// The caller holds c.mu.
func (c *Core) tell(id string) *operation {
	op := c.untold[id]
	delete(c.untold, id)
	return op
}

// forget drops what tellLater has kept under an ID: who deletes an object has
// given up on it.
func (c *Core) forget(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.untold, id)
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
			if long { // of a short one, the caller tells, or tellLater
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
// deadline that passes. The operation goes on in either case. The caller has
// been counted in op.waiting.
func wait[Result any](ctx context.Context, c *Core, op *operation) (Result, error) {
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
	case <-patience.Done():
		if c.leave(op) {
			return none, fmt.Errorf("%s is being created, %s; repeat the call to wait for it: %w", op.id, op.describe(), backend.ErrBusy)
		}
	}
	if op.err != nil {
		return none, op.err
	}
	return op.result.(Result), nil
}

// leave ends the wait for an operation; false when it has just ended, and has
// counted on whoever waits to tell.
func (c *Core) leave(op *operation) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-op.done:
		return false
	default:
		op.waiting--
		return true
	}
}
