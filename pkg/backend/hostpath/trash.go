package hostpath

import (
	"errors"
	"fmt"
	"os"
	"path"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

// toTrash takes the object at name away by one rename and returns where it lies
// now, for removeTrash.
//
// A new entry of the trash may take a block, and on a full filesystem there is
// none. For two entries to change places takes none. So there is a spare
// directory, empty, that changes places with the object, and is then removed
// where that was. One object at a time: ErrBusy. As soon as it has made room,
// the others can go the usual way.
func (b *Backend) toTrash(name string) (trashed string, err error) {
	trashed = path.Join(trashDir, unique(path.Base(name)))
	err = b.moveToTrash(name, trashed)
	if !isFull(err) {
		return trashed, err
	}
	if !b.spare.TryLock() {
		return "", fmt.Errorf("the filesystem of %s is full and another deletion is making room; repeat the call later: %w", b.path, backend.ErrBusy)
	}
	if err = b.stock(); err == nil {
		b.step.At("exchange")
		err = b.renameat2(name, spareDir, unix.RENAME_EXCHANGE)
	}
	if err == nil {
		b.step.At("remove spare")
		if err = b.removeEmpty(name); err != nil {
			err = errors.Join(err, b.renameat2(name, spareDir, unix.RENAME_EXCHANGE))
		}
	}
	if err != nil {
		b.spare.Unlock()
		// What is missing is not the object: the first try has found it.
		return "", fmt.Errorf("change places with %s: %v", spareDir, err) //nolint:errorlint // so that it is not os.ErrNotExist
	}
	return spareDir, nil
}

// moveToTrash renames an object. What is missing then is the object or, when
// somebody has cleaned up in the root directory, the trash, which is made
// again. os.ErrNotExist means the object, and nothing else.
func (b *Backend) moveToTrash(name, trashed string) error {
	err := b.root.Rename(name, trashed)
	if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if _, missing := b.root.Lstat(name); missing != nil {
		return missing
	}
	if err := b.root.Mkdir(trashDir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if err := syncFile(b.root, "."); err != nil {
		return err
	}
	if err = b.root.Rename(name, trashed); errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s cannot be used: %v", path.Join(b.path, trashDir), err) //nolint:errorlint // the object exists
	}
	return err
}

// takeBack undoes toTrash, but for the spare directory, which the next one makes.
func (b *Backend) takeBack(trashed, name string) error {
	if trashed == spareDir {
		defer b.spare.Unlock()
	}
	return b.rename(trashed, name)
}

// removeEmpty removes a directory if it is empty, and nothing else.
func (b *Backend) removeEmpty(name string) error {
	parent, err := b.root.Open(path.Dir(name))
	if err != nil {
		return err
	}
	defer parent.Close()
	if err := unix.Unlinkat(int(parent.Fd()), path.Base(name), unix.AT_REMOVEDIR); err != nil {
		return &os.PathError{Op: "rmdir", Path: name, Err: err}
	}
	return nil
}

// removeTrash removes what lies at these paths in the trash, the spare
// directory or staging, with all that lies below it, or as much of it as it can
// before Close.
//
// It does not descend: it moves every directory that it meets up into the
// trash, beside the others, see emptying. So neither a tree's depth nor the
// length of its paths matters, and no mount is ever entered: a mount point
// cannot be moved.
// Entries that do not go, for one with a mount below it, stay where they are
// until the next start.
func (b *Backend) removeTrash(paths ...string) {
	for len(paths) > 0 && !b.closing.Load() {
		last := len(paths) - 1
		next := paths[last]
		paths = paths[:last]
		moved, err := b.flatten(next)
		paths = append(paths, moved...)
		if next == spareDir {
			if err := b.stock(); err != nil {
				klog.ErrorS(err, "There is no spare directory; left to the next deletion on a full filesystem", "root", b.path)
			}
			b.spare.Unlock()
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			klog.ErrorS(err, "Cannot remove deleted data; left to the next start", "trash", next)
		}
	}
}

// stock makes sure that the spare directory is there, and empty. What could not
// be removed from it goes into the trash, where there may be room by now.
func (b *Backend) stock() error {
	left, err := b.list(spareDir)
	if len(left) > 0 {
		err = b.root.Rename(spareDir, path.Join(trashDir, unique(spareDir)))
	}
	if len(left) == 0 && err == nil {
		return nil
	}
	if err == nil || errors.Is(err, os.ErrNotExist) {
		err = b.root.Mkdir(spareDir, 0o700)
	}
	return err
}

// flatten removes a file or directory, but keeps the spare directory, and
// returns where in the trash the directories now lie that were in it.
func (b *Backend) flatten(name string) (moved []string, err error) {
	if name != spareDir {
		if err := b.root.Remove(name); !errors.Is(err, unix.ENOTEMPTY) {
			return nil, err
		}
	}
	dir, err := b.root.Open(name)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	trash, err := b.root.Open(trashDir)
	if err != nil {
		return nil, err
	}
	defer trash.Close()
	e := emptying{closing: &b.closing, top: dir, trash: trash}
	err = e.empty(dir, 0)
	switch {
	case err != nil || b.closing.Load():
		return e.moved, err
	case name == spareDir:
		return e.moved, nil
	}
	return e.moved, b.root.Remove(name)
}
