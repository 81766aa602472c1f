package hostpath

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"sync"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/internal/loop"
	"github.com/snapdriver/snapdriver/pkg/backend"
)

// The ioctls of linux/fs.h, which package unix does not have: _IOWR('X', 119, int) and 120.
const (
	fifreeze = 0xc0045877
	fithaw   = 0xc0045878
)

// freezes counts how often filesystems were frozen, and for how long: from when
// the kernel was asked to, which is when writers begin to wait, until it had
// thawed them.
type freezes struct {
	mu             sync.Mutex
	frozen         map[uint64]bool // by this process, now: numbers of devices
	count          int
	total, longest time.Duration
}

// begin says that this process freezes the filesystem on a device; false when it
// has frozen it already.
func (f *freezes) begin(device uint64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.frozen[device] {
		return false
	}
	if f.frozen == nil {
		f.frozen = make(map[uint64]bool)
	}
	f.frozen[device] = true
	return true
}

func (f *freezes) end(device uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.frozen, device)
}

func (f *freezes) add(frozen time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.count++
	f.total += frozen
	f.longest = max(f.longest, frozen)
}

func (f *freezes) gauges() []backend.Gauge {
	f.mu.Lock()
	defer f.mu.Unlock()
	return []backend.Gauge{
		{Name: "freezes", Help: "How often a snapshot or clone has frozen a mounted filesystem since the start.", Value: float64(f.count)},
		{Name: "freeze_seconds", Help: "For how long these freezes have held up writers, in all.", Value: f.total.Seconds()},
		{Name: "longest_freeze_seconds", Help: "For how long the longest of these freezes has held up writers.", Value: f.longest.Seconds()},
	}
}

// whileFrozen runs work while the filesystem mounted at mount is frozen.
//
// Whatever work does, returns or panics or hangs, the filesystem is thawed at
// the latest when the limit has passed; work's context ends then too. A clone
// that is still running at that moment is none the worse: it is one instant
// of the image all the same, only the filesystem in it is then as a power cut
// would leave it. When the process dies meanwhile, the next Recover thaws.
//
// A filesystem that somebody else has frozen (a backup tool, before it asked
// for the snapshot) is frozen well enough, and left so. Not so what another call
// of this has frozen, which may thaw it too early: ErrBusy.
func (f *freezes) whileFrozen(ctx context.Context, mount *os.File, limit time.Duration, work func(context.Context) error) (err error) {
	var stat unix.Stat_t
	if err := unix.Fstat(int(mount.Fd()), &stat); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if !f.begin(stat.Dev) {
		return fmt.Errorf("another snapshot or clone of the volume is being taken; repeat the call later: %w", backend.ErrBusy)
	}
	begun := time.Now()
	if err := ioctl(mount, fifreeze); err != nil {
		f.end(stat.Dev)
		if errors.Is(err, unix.EBUSY) {
			return work(ctx)
		}
		return fmt.Errorf("freeze %s: %w", mount.Name(), err)
	}
	defer f.end(stat.Dev)
	thaw := sync.OnceValue(func() error {
		defer func() { f.add(time.Since(begun)) }()
		return thaw(mount)
	})
	watchdog := time.AfterFunc(limit, func() { _ = thaw() }) // its error is returned below
	defer func() {
		watchdog.Stop()
		err = errors.Join(err, thaw())
	}()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return work(ctx)
}

// thaw thaws a filesystem, also one that is not frozen.
func thaw(mount *os.File) error {
	if err := ioctl(mount, fithaw); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("thaw %s: %w", mount.Name(), err)
	}
	return nil
}

func ioctl(file *os.File, request uint) error {
	return os.NewSyscallError("ioctl", unix.IoctlSetInt(int(file.Fd()), request, 0))
}

// mountOf opens the root of the filesystem that is on a device, wherever it is
// mounted; nil when it is not, or there is no device.
func mountOf(device *loop.Device) (*os.File, error) {
	if device == nil {
		return nil, nil
	}
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return m.Major != loop.Major || m.Minor != device.Number, false
	})
	if err != nil {
		return nil, fmt.Errorf("read the mount table: %w", err)
	}
	for _, m := range mounts {
		if root := openMount(m); root != nil {
			return root, nil
		}
	}
	return nil, nil
}

// openMount opens a mount point; nil when something else is to be found there,
// because it was unmounted or another filesystem mounted over it.
func openMount(m *mountinfo.Info) *os.File {
	file, err := os.OpenFile(m.Mountpoint, unix.O_DIRECTORY|unix.O_NOFOLLOW, 0) //nolint:forbidigo // a directory, and its device is looked at
	if err != nil {
		return nil
	}
	var stat unix.Stat_t
	if unix.Fstat(int(file.Fd()), &stat) != nil || stat.Dev != unix.Mkdev(uint32(m.Major), uint32(m.Minor)) {
		_ = file.Close()
		return nil
	}
	return file
}

// thawAll thaws the filesystems of this root's volumes that a process froze
// and then died. A freeze of somebody else's ends too: the kernel does not say
// whose it is.
func (b *Backend) thawAll() error {
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return m.Major != loop.Major, false
	})
	if err != nil {
		return fmt.Errorf("read the mount table: %w", err)
	}
	for _, m := range mounts {
		if !b.ours(m.Minor) {
			continue
		}
		if root := openMount(m); root != nil {
			err = errors.Join(err, thaw(root), root.Close())
		}
	}
	return err
}

// ours says whether a loop device holds the image of a volume of this root.
func (b *Backend) ours(number int) bool {
	id, _ := volumeOf(loop.BackingFile(number))
	if id.IsZero() {
		return false
	}
	image, err := b.root.Open(path.Join(volumePath(id), imageFile))
	if err != nil {
		return false
	}
	defer image.Close()
	device, err := loop.OpenIfHolds(number, image)
	device.Close()
	return err == nil && device != nil
}
