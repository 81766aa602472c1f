package snapshotcore

import (
	"fmt"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

// A lock keeps a key from being changed (shared) or from being used at all by
// others (exclusive).
type lock struct {
	key       string
	exclusive bool
}

func exclusive(key string) lock { return lock{key: key, exclusive: true} }
func shared(key string) lock    { return lock{key: key} }

// lockTable holds the keys that are locked now: the number of shared holders,
// or -1 for an exclusive one. Locks are taken all at once or not at all, so
// there is no order to keep and nothing to wait for. The caller holds Core.mu.
type lockTable map[string]int

// try takes all the locks, which have distinct keys, or none: ErrBusy.
func (t lockTable) try(locks ...lock) error {
	for _, l := range locks {
		if held := t[l.key]; held < 0 || (l.exclusive && held > 0) {
			return fmt.Errorf("%s is in use by another operation; repeat the call later: %w", l.key, backend.ErrBusy)
		}
	}
	for _, l := range locks {
		if l.exclusive {
			t[l.key] = -1
		} else {
			t[l.key]++
		}
	}
	return nil
}

// excludes says whether somebody has a key exclusively.
func (t lockTable) excludes(key string) bool { return t[key] < 0 }

// release undoes a successful try with the same locks.
func (t lockTable) release(locks ...lock) {
	for _, l := range locks {
		if l.exclusive || t[l.key] == 1 {
			delete(t, l.key)
		} else {
			t[l.key]--
		}
	}
}
