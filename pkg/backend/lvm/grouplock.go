package lvm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// lockGroup takes the lock on the volume group that every lvm command of this
// node takes which changes something there (lvm2's lib/misc/lvm-flock.c). While
// it is held no such command runs, and those that only ask wait as well, unless
// they are told to read without a lock (--readonly).
func (b *Backend) lockGroup(ctx context.Context) (unlock func(), err error) {
	dir, err := b.lockingDir(ctx)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "V_"+b.group)
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		file, err := tryGroupLock(path)
		if err != nil {
			return nil, err
		}
		if file != nil {
			return func() { _ = file.Close() }, nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for the lock %s, which an lvm command holds: %w", path, ctx.Err())
		}
	}
}

// tryGroupLock returns the file with the lock on it; nil while somebody else
// has it. Whoever frees such a lock removes the file, so that the one that was
// locked may no longer be there.
func tryGroupLock(path string) (*os.File, error) {
	file, err := openLock(path)
	if err != nil {
		return nil, err
	}
	locked, err := tryLock(file)
	if err == nil && locked {
		var opened, there os.FileInfo
		if opened, err = file.Stat(); err == nil {
			there, err = os.Stat(path)
		}
		if err == nil && os.SameFile(opened, there) {
			return file, nil
		}
		if errors.Is(err, os.ErrNotExist) {
			err = nil
		}
	}
	return nil, errors.Join(err, file.Close())
}

// lockingDir is where lvm keeps its locks.
func (b *Backend) lockingDir(ctx context.Context) (string, error) {
	out, err := b.runner.ask(ctx, "lvmconfig", "--type", "full", "global/locking_dir")
	if err != nil {
		return "", err
	}
	_, value, _ := strings.Cut(string(out), "=")
	dir, err := strconv.Unquote(strings.TrimSpace(value))
	if err != nil {
		return "", fmt.Errorf("understand where lvm has its locks: %q: %w", out, err)
	}
	return dir, nil
}
