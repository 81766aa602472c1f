package importer

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// ErrRunning is the error of an import while another one of the archive runs.
var ErrRunning = errors.New("another import of this archive is running; wait for its end")

// lock takes the lock of the file at path, which it makes, until release is
// called or the process dies: ErrRunning when another process has it. The file goes
// with the lock, but that one stays that a process has left that was killed.
func lock(path string) (release func() error, err error) {
	for {
		file, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
		if err != nil {
			return nil, err
		}
		var stat unix.Stat_t
		if err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil {
			err = unix.Fstat(int(file.Fd()), &stat)
		}
		switch {
		case errors.Is(err, unix.EWOULDBLOCK):
			err = fmt.Errorf("%w; it has locked %s", ErrRunning, path)
		case err != nil:
			err = fmt.Errorf("lock %s: %w", path, err)
		case stat.Nlink > 0:
			return func() error { return errors.Join(os.Remove(path), file.Close()) }, nil
		}
		if err := errors.Join(err, file.Close()); err != nil {
			return nil, err
		}
		// Whoever had the lock has removed the file since it was opened here, so
		// that its lock guards nothing any more.
	}
}
