package hostpath

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
)

// batch is how many entries of a directory are listed at once.
const batch = 1024

// removeTrash removes entries of the trash with all that lies below them.
//
// It does not descend: it moves every directory that it meets up into the
// trash, beside the others. So neither a tree's depth nor the length of its
// paths matters, and no mount is ever entered: a mount point cannot be moved.
// Entries that do not go, for one with a mount below it, stay where they are
// until the next start.
func (b *Backend) removeTrash(names ...string) {
	for len(names) > 0 {
		last := len(names) - 1
		name := names[last]
		names = names[:last]
		moved, err := b.flatten(path.Join(trashDir, name))
		names = append(names, moved...)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			klog.ErrorS(err, "Cannot remove deleted data; left to the next start", "trash", name)
		}
	}
}

// flatten removes a file or directory and returns the names under which the
// directories that were in it now lie in the trash.
func (b *Backend) flatten(name string) (moved []string, err error) {
	if err := b.root.Remove(name); !errors.Is(err, unix.ENOTEMPTY) {
		return nil, err
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
	for {
		entries, err := firstEntries(dir)
		if err != nil {
			return moved, err
		}
		if len(entries) == 0 {
			return moved, b.root.Remove(name)
		}
		gone := 0
		for _, entry := range entries {
			err = unix.Unlinkat(int(dir.Fd()), entry, 0)
			if errors.Is(err, unix.EISDIR) {
				up := unique("directory")
				if err = unix.Renameat(int(dir.Fd()), entry, int(trash.Fd()), up); err == nil {
					moved = append(moved, up)
				}
			}
			if err == nil {
				gone++
			} else {
				err = fmt.Errorf("remove %q: %w", entry, err)
			}
		}
		if gone == 0 {
			return moved, err
		}
	}
}

// firstEntries lists a directory's first entries anew: entries are removed
// between two calls, and a position in the old list means nothing.
func firstEntries(dir *os.File) ([]string, error) {
	if _, err := dir.Seek(0, 0); err != nil {
		return nil, err
	}
	entries, err := dir.Readdirnames(batch)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return entries, err
}
