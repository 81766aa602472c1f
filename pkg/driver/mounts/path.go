package mounts

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

// CleanPath returns a caller's path without needless separators. ErrInvalid
// when it is not absolute or has an element "..", whose meaning depends on
// symbolic links. It does no I/O.
func CleanPath(field, path string) (string, error) {
	if !filepath.IsAbs(path) {
		return "", fmt.Errorf("%s: %.128q is not an absolute path: %w", field, path, backend.ErrInvalid)
	}
	if slices.Contains(strings.Split(path, "/"), "..") {
		return "", fmt.Errorf(`%s: %.128q has an element "..": give the path without: %w`, field, path, backend.ErrInvalid)
	}
	return filepath.Clean(path), nil
}

// CheckPath refuses a path, clean as CleanPath returns it, that is a symbolic
// link, or that lies in the directory own or contains it: ErrInvalid. A path
// that does not exist passes. The path own has no symbolic links in it, and
// nothing there is looked at; an empty own is none.
func CheckPath(field, path, own string) error {
	// Not lstat: that asks the filesystem mounted there, and one that is shut
	// down could then never be unmounted.
	switch _, err := os.Readlink(path); {
	case err == nil:
		return fmt.Errorf("%s: %q is a symbolic link; give the path that it leads to: %w", field, path, backend.ErrInvalid)
	case errors.Is(err, unix.EINVAL), isAbsent(err): // it is none
	default:
		return fmt.Errorf("%s: %w", field, err)
	}
	if own == "" {
		return nil
	}
	parent, err := filepath.EvalSymlinks(filepath.Dir(path))
	if isAbsent(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", field, err)
	}
	if path = filepath.Join(parent, filepath.Base(path)); within(own, path) || within(path, own) {
		return fmt.Errorf("%s: %q overlaps the driver's own directory %q: %w", field, path, own, backend.ErrInvalid)
	}
	return nil
}

// isAbsent says whether an error tells that a path does not exist, which is also
// so of one below a file.
func isAbsent(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) }

// within says whether path is dir or lies below it.
func within(dir, path string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// CheckEmptyDir refuses what is not an empty directory, for a mount would hide
// what it holds: ErrInvalid.
func CheckEmptyDir(field, path string) error {
	entries, err := os.ReadDir(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s: %q does not exist: %w", field, path, backend.ErrInvalid)
	case err != nil:
		return fmt.Errorf("%s: %w (%w)", field, err, backend.ErrInvalid)
	case len(entries) > 0:
		return fmt.Errorf("%s: %q holds files, which a mount would hide: %w", field, path, backend.ErrInvalid)
	}
	return nil
}

// MakeTarget makes the empty directory or file that a volume is to be bound
// to, or accepts the one that is there. Its parent exists: ErrInvalid.
func MakeTarget(field, path string, directory bool) error {
	if directory {
		if err := os.Mkdir(path, 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
			return missingParent(field, path, err)
		}
		return CheckEmptyDir(field, path)
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err == nil {
		return file.Close()
	}
	if !errors.Is(err, fs.ErrExist) {
		return missingParent(field, path, err)
	}
	if info, err := os.Lstat(path); err != nil || !info.Mode().IsRegular() || info.Size() > 0 {
		return fmt.Errorf("%s: %q exists and is not an empty file: %w", field, path, backend.ErrInvalid)
	}
	return nil
}

func missingParent(field, path string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: the directory that is to hold %q does not exist: %w", field, path, backend.ErrInvalid)
	}
	return fmt.Errorf("%s: %w", field, err)
}

// RemoveTarget removes what MakeTarget has made. What is gone already is
// removed. ErrPrecondition, and nothing is removed, when it holds data or is
// neither a directory nor a plain file: then it is not what we made.
func RemoveTarget(field, path string) error {
	info, err := os.Lstat(path)
	if err == nil {
		if !info.IsDir() && (!info.Mode().IsRegular() || info.Size() > 0) {
			return fmt.Errorf("%s: %q is not an empty directory or file and stays: %w", field, path, backend.ErrPrecondition)
		}
		err = os.Remove(path)
	}
	switch {
	case err == nil, isAbsent(err):
		return nil
	case errors.Is(err, fs.ErrExist): // what ENOTEMPTY counts as
		return fmt.Errorf("%s: %q holds files, which stay: %w", field, path, backend.ErrPrecondition)
	}
	return fmt.Errorf("%s: %w", field, err)
}
