package importer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// lockPoll is how often is looked whether a lock is free.
const lockPoll = 100 * time.Millisecond

// lock takes the lock on a directory, which lasts until release is called or the
// process dies, and waits until it is free.
func lock(ctx context.Context, directory string) (release func() error, err error) {
	dir, err := os.Open(directory)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return dir.Close, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", directory, err), dir.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("wait for the end of another import: %w", ctx.Err()), dir.Close())
		case <-time.After(lockPoll):
		}
	}
}
