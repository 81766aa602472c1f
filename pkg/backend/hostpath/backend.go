package hostpath

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

// The directories below the root.
const (
	volumesDir   = "volumes"
	snapshotsDir = "snapshots"
	stagingDir   = "staging"
	trashDir     = "trash"
	damagedDir   = "damaged"
	spareDir     = "spare"
)

const lockFile = "lock"

// DefaultFreezeLimit is longer than any clone takes, and short enough for a
// pod to endure.
const DefaultFreezeLimit = 10 * time.Second

// Options are what Open needs to know beside the root directory.
type Options struct {
	// FreezeLimit is how long a mounted filesystem may stay frozen while it
	// is snapshotted; zero means 10 seconds.
	FreezeLimit time.Duration

	// Step is called before each step of an operation, by tests.
	Step backend.StepFunc
}

// Backend serves one root directory; it implements backend.Backend.
type Backend struct {
	path        string // of the root: absolute, without symbolic links
	root        *os.Root
	dir         *os.File // the root too, see inRoot
	lock        *os.File
	loops       loops
	step        backend.StepFunc
	freezeLimit time.Duration
	freezes     freezes
	background  sync.WaitGroup
	closing     atomic.Bool  // what is in the background is to end
	spare       sync.Mutex   // held while spareDir is in use
	growing     atomic.Int32 // volumes whose image, record and device may differ
}

var _ backend.Backend = (*Backend)(nil)

// Open takes the root directory for this process, and makes it when it does
// not exist. While another process has it, Open fails.
func Open(root string, options Options) (*Backend, error) {
	b, err := open(root, options)
	if err != nil {
		return nil, fmt.Errorf("open root directory %s: %w", root, err)
	}
	return b, nil
}

func open(path string, options Options) (b *Backend, err error) {
	if err := os.MkdirAll(path, 0o700); err != nil { //nolint:forbidigo // the root itself
		return nil, err
	}
	path, err = filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	path, err = filepath.EvalSymlinks(path)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, root.Close())
		}
	}()
	dir, err := root.Open(".")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, dir.Close())
		}
	}()
	lock, err := takeLock(root)
	if err != nil {
		return nil, err
	}
	b = &Backend{path: path, root: root, dir: dir, lock: lock, step: options.Step, freezeLimit: options.FreezeLimit}
	if b.freezeLimit == 0 {
		b.freezeLimit = DefaultFreezeLimit
	}
	return b, nil
}

// takeLock returns the lock file, locked for as long as it is open: the kernel
// frees the lock of a process that dies. It is open for reading, because the kernel
// makes no filesystem read-only in which a file is open for writing.
func takeLock(root *os.Root) (*os.File, error) {
	lock, err := root.OpenFile(lockFile, os.O_RDONLY|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = fmt.Errorf("another process (%s) is using it: stop that process, or use another root directory", holder(root))
	}
	if err == nil {
		err = noteHolder(root)
	}
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return lock, nil
}

// noteHolder writes down who has the lock. In place, and as long as ever: on a full
// filesystem there is no new block for it. Should it not have one yet, the start
// does not fail for it.
func noteHolder(root *os.Root) error {
	file, err := root.OpenFile(lockFile, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	if _, err = fmt.Fprintf(file, "pid %-20d\n", os.Getpid()); isFull(err) {
		err = nil
	}
	return errors.Join(err, file.Close())
}

// holder says what is known of the process that has the lock. The pid is the
// one in that process's own pid namespace.
func holder(root *os.Root) string {
	text, err := root.ReadFile(lockFile)
	if pid := strings.TrimSpace(string(text)); err == nil && pid != "" {
		return pid
	}
	return "pid not known"
}

// Close implements backend.Backend. What is in the trash need not be removed
// for it: the next start goes on with that.
func (b *Backend) Close() error {
	b.closing.Store(true)
	b.background.Wait()
	return errors.Join(b.root.Close(), b.dir.Close(), b.lock.Close())
}

// Limits implements backend.Backend.
func (b *Backend) Limits(profile backend.Profile) (backend.Limits, error) {
	kind, err := parseProfile(profile)
	if err != nil {
		return backend.Limits{}, err
	}
	return kind.limits(), nil
}

// Available implements backend.Backend. It is the free space of the root's
// filesystem. Image files are sparse, and what other volumes have not written
// yet is not taken off: it is not reserved for them either.
func (b *Backend) Available(_ context.Context, profile backend.Profile) (int64, error) {
	limits, err := b.Limits(profile)
	if err != nil {
		return 0, err
	}
	var stat unix.Statfs_t
	if err := unix.Statfs(b.path, &stat); err != nil {
		return 0, fmt.Errorf("ask for the free space of %s: %w", b.path, err)
	}
	free := min(int64(stat.Bavail)*stat.Frsize, limits.Max)
	return free - free%limits.Granularity, nil
}

// checkRoom refuses what Available would not offer: so many bytes more.
func (b *Backend) checkRoom(ctx context.Context, profile backend.Profile, additional int64) error {
	available, err := b.Available(ctx, profile)
	if err != nil {
		return err
	}
	if additional > available {
		return fmt.Errorf("%d more bytes are asked for, %d are free on the filesystem of %s: free space or ask for less: %w", additional, available, b.path, backend.ErrExhausted)
	}
	return nil
}
