package lvm

import (
	"fmt"
	"sync"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

// busy keeps two things apart for each volume: copying or growing it, which
// several may do at once, and writing to its device before it was ever mounted.
// Else a snapshot could be of half a filesystem, or say of a filesystem with a
// user's data that there is none yet.
//
// The core does not: to it, one is the controller's work and the other the
// node's.
type busy struct {
	mu   sync.Mutex
	uses map[string]int // by ID: how many copy it, or -1 while its device is written to
}

// share keeps a volume from being written to here until release is called;
// ErrBusy.
func (b *busy) share(id string) (release func(), err error) { return b.take(id, 1) }

// exclude keeps a volume from being copied or grown until release is called;
// ErrBusy.
func (b *busy) exclude(id string) (release func(), err error) { return b.take(id, -1) }

func (b *busy) take(id string, use int) (release func(), err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch held := b.uses[id]; {
	case held < 0:
		return nil, fmt.Errorf("the filesystem of %s is being prepared; repeat the call: %w", id, backend.ErrBusy)
	case held > 0 && use < 0:
		return nil, fmt.Errorf("%s is being copied or grown before its filesystem is prepared; repeat the call: %w", id, backend.ErrBusy)
	}
	if b.uses == nil {
		b.uses = map[string]int{}
	}
	b.uses[id] += use
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.uses[id] -= use; b.uses[id] == 0 {
			delete(b.uses, id)
		}
	}, nil
}
