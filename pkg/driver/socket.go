package driver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// listen opens a Unix socket that only this user can connect to, and the members
// of a group, unless that is 0. It makes the socket's directory where that is
// missing: nothing else would make the default one. A socket that a dead process
// left at the path is removed; anything else there stays, and is an error. The
// socket goes when the listener is closed.
func listen(path string, group int) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return nil, err
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	// bind(2) gives the file the mode of the socket's own inode, so it is
	// private from the first moment, and the umask of the process, which other
	// threads rely on, stays as it is.
	private := net.ListenConfig{Control: func(_, _ string, conn syscall.RawConn) error {
		var err error
		return errors.Join(conn.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), 0o600) }), err)
	}}
	listener, err := private.Listen(context.Background(), "unix", path)
	if err != nil || group == 0 {
		return listener, err
	}
	// The group first: the one that the file was made with gets no access.
	if err := errors.Join(os.Lchown(path, -1, group), os.Chmod(path, 0o660)); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return listener, nil
}

func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("endpoint %q: there is a file that is not a socket; remove it or choose another path", path)
	}
	conn, err := net.Dial("unix", path)
	if err == nil {
		_ = conn.Close()
		return fmt.Errorf("endpoint %q: another process is serving there; stop it or choose another path", path)
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("endpoint %q: %w", path, err)
	}
	return os.Remove(path)
}
