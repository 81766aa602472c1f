package lvm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// DefaultLockDir is on a filesystem that a reboot empties, and that containers
// share with the host, as they do lvm's own locks beside it.
const DefaultLockDir = "/run/lock/snapdriver"

const (
	// orphanLimit is how long a start waits for the commands of a process that
	// was killed. They take a fraction of a second each, and lvm lets only one
	// change a volume group at a time.
	orphanLimit = time.Minute

	pollInterval = 20 * time.Millisecond
)

// locks are two locks on files, which the kernel frees with the last process
// that holds them. The first is held by this process alone: there is only one
// driver for a pool. The second is held by the commands that it has started as
// well, which may outlive it: none of them works on while its successor looks
// at what is there.
type locks struct {
	instance, commands *os.File
}

// takeLocks takes the first lock, and fails while another process has it.
func takeLocks(dir, name string) (l locks, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, l.free())
		}
	}()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return l, err
	}
	path := filepath.Join(dir, name)
	if l.instance, err = openLock(path); err != nil {
		return l, err
	}
	if l.commands, err = openLock(path + ".commands"); err != nil {
		return l, err
	}
	locked, err := tryLock(l.instance)
	if err == nil && !locked {
		return l, fmt.Errorf("another driver (%s) is serving this pool; stop it first, or use another pool", holder(path))
	}
	if err == nil {
		err = l.instance.Truncate(0)
	}
	if err == nil {
		_, err = fmt.Fprintf(l.instance, "pid %d\n", os.Getpid())
	}
	return l, err
}

func openLock(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
}

// tryLock locks a file, unless another has done so.
func tryLock(file *os.File) (bool, error) {
	err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, nil
	}
	return err == nil, os.NewSyscallError("flock", err)
}

// holder says what is known of the process that has the first lock. The pid is
// the one in that process's own pid namespace.
func holder(path string) string {
	text, err := os.ReadFile(path)
	if pid := strings.TrimSpace(string(text)); err == nil && pid != "" {
		return pid
	}
	return "pid not known"
}

// awaitOrphans takes the second lock, as soon as the last command has ended
// that a process before this one has left behind.
func (l locks) awaitOrphans(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		if locked, err := tryLock(l.commands); err != nil || locked {
			return err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("a driver before this one was killed, and what it had started is still running (%s); wait for its end, and see what it waits for if it does not: %w", l.orphans(), ctx.Err())
		}
	}
}

// orphans names the processes that have the second lock as their standard
// input, as far as this process may see them.
func (l locks) orphans() string {
	lock, err := l.commands.Stat()
	if err != nil {
		return err.Error()
	}
	inputs, _ := filepath.Glob("/proc/[0-9]*/fd/0") // the pattern is well formed
	var found []string
	for _, input := range inputs {
		if info, err := os.Stat(input); err != nil || !os.SameFile(info, lock) {
			continue
		}
		process := filepath.Dir(filepath.Dir(input))
		command, _ := os.ReadFile(filepath.Join(process, "cmdline"))
		found = append(found, fmt.Sprintf("pid %s: %s", filepath.Base(process), brief(command)))
	}
	if len(found) == 0 {
		return "a process that is not to be seen from here"
	}
	return strings.Join(found, "; ")
}

// brief shows a command line from /proc without the settings.
func brief(cmdline []byte) string {
	arguments := strings.Split(strings.TrimRight(string(cmdline), "\x00"), "\x00")
	return strings.Join(shown(arguments), " ")
}

// free frees both locks. Commands that are still running keep the second.
func (l locks) free() error {
	var errs []error
	for _, file := range []*os.File{l.instance, l.commands} {
		if file != nil {
			errs = append(errs, file.Close())
		}
	}
	return errors.Join(errs...)
}
