package hostpath

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

// build makes and commits the object called id in the directory shelf. It lets
// fill put the data into a staging directory, as one entry called data, and
// adds the record that fill returns. After an error there is no object and
// nothing staged.
// ErrPrecondition when something lies there that Recover did not serve.
func (b *Backend) build(ctx context.Context, shelf, id, data string, fill func(stage *os.Root) (record any, err error)) (err error) {
	staged, committed := path.Join(stagingDir, unique(id)), path.Join(shelf, id)
	if err := b.checkFree(committed); err != nil {
		return err
	}
	b.step.At("stage")
	if err := b.root.Mkdir(staged, 0o700); err != nil {
		return classify(err)
	}
	rubbish := staged
	defer func() {
		if err != nil {
			b.discard(ctx, rubbish)
			err = classify(err)
		}
	}()
	stage, err := b.root.OpenRoot(staged)
	if err != nil {
		return err
	}
	defer stage.Close()
	// Open before anything is written, for it is told of errors since then, see settle.
	dir, err := stage.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	b.step.At("fill")
	record, err := fill(stage)
	if err != nil {
		return err
	}
	b.step.At("record")
	if err := writeRecord(stage, recordFile, record); err != nil {
		return err
	}
	b.step.At("settle")
	if err := settle(stage, dir, data); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	b.step.At("commit")
	if err := b.rename(staged, committed); err != nil {
		return err
	}
	rubbish = committed
	b.step.At("sync")
	return syncFile(b.root, shelf)
}

// checkFree looks whether a new object may come to name. What lies there
// already is one that this program cannot serve, and may be worth more than
// the new one.
func (b *Backend) checkFree(name string) error {
	_, err := b.root.Lstat(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return fmt.Errorf("%s has an object of this name that this process does not serve (its log says why): start the driver anew, or the version of it that wrote the object, or move the object away: %w",
		path.Join(b.path, name), backend.ErrPrecondition)
}

// settle makes the data of a staging directory, the record and the directory
// durable. The directory is also open as dir, and was before anything was
// written: the kernel tells of a write that failed only who had a file open
// then, or is the first to ask.
//
// It syncs files, not the filesystem: that would also write what others have
// written elsewhere on it, which can be any amount. Only where there are many
// files, it is many times faster than one sync for each. The record comes
// first: a journalling filesystem writes the log up to the record's own place
// for it, so that the others find their share of it done.
func settle(stage *os.Root, dir *os.File, data string) error {
	if err := syncFile(stage, recordFile); err != nil {
		return err
	}
	left := fewFiles
	err := syncTree(stage, data, &left)
	if errors.Is(err, errMany) || errors.Is(err, os.ErrPermission) { // who is not root may not open each
		return os.NewSyscallError("syncfs", unix.Syncfs(int(dir.Fd())))
	}
	if err != nil {
		return err
	}
	return dir.Sync()
}

// fewFiles is up to how many files each is synced by itself.
const fewFiles = 64

var errMany = errors.New("many files")

// syncTree makes a file durable, or a directory with what is in it. Of what can
// not be synced by itself, links and devices, there is nothing but the entry in
// its directory. errMany when there are more than left entries below.
func syncTree(root *os.Root, name string, left *int) error {
	// A new time of access would have to be written as well.
	file, err := root.OpenFile(name, os.O_RDONLY|unix.O_NOATIME, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	for {
		entries, err := file.ReadDir(*left + 1)
		if errors.Is(err, io.EOF) || errors.Is(err, unix.ENOTDIR) {
			return file.Sync()
		}
		if err != nil {
			return err
		}
		if *left -= len(entries); *left < 0 {
			return errMany
		}
		for _, entry := range entries {
			if !entry.IsDir() && !entry.Type().IsRegular() {
				continue // to open a device could have effects, and a fifo would wait
			}
			if err := syncTree(root, path.Join(name, entry.Name()), left); err != nil {
				return err
			}
		}
	}
}

// syncFile makes one file or directory durable.
func syncFile(root *os.Root, name string) error {
	file, err := root.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := file.Sync(); err != nil {
		return err
	}
	return stillWrites(file)
}

// absent is an extended attribute that nothing has, of a kind that every
// filesystem with attributes has, and that may be removed when it is full.
const absent = "trusted.snapdriver.absent"

// stillWrites returns an error for a file on a filesystem that has failed. In
// that moment fsync may return success: what was to be written was given up,
// hence there is nothing left to write. (XFS when it shuts down; ext4 from when
// its log is aborted until it is read-only, or when that happens within the
// fsync.) To remove an attribute that is not there changes nothing, and yet
// needs the log, which ext4 then refuses, as does XFS. A filesystem that has no
// such attributes, or no room for the change, or keeps them from who is not root,
// lives as far as this can tell.
func stillWrites(file *os.File) error {
	err := unix.Fremovexattr(int(file.Fd()), absent)
	switch {
	case err == nil, errors.Is(err, unix.ENODATA), errors.Is(err, unix.ENOTSUP), errors.Is(err, unix.EPERM), isFull(err):
		return nil
	}
	return os.NewSyscallError("fremovexattr", err)
}

// inRoot makes a system call that os.Root does not make, in the root directory.
// It fails when the directory is closed.
func (b *Backend) inRoot(call func(dir int) error) error {
	conn, err := b.dir.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := conn.Control(func(fd uintptr) { failed = call(int(fd)) }); err != nil {
		return err
	}
	return failed
}

// readFile returns what a file holds. It does as os.Root.ReadFile, in a third of
// the system calls: a start reads one file for each object.
func (b *Backend) readFile(name string) ([]byte, error) {
	const within = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS
	var fd int
	err := b.inRoot(func(dir int) (err error) {
		fd, err = unix.Openat2(dir, name, &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_NONBLOCK | unix.O_CLOEXEC, Resolve: within})
		return err
	})
	if err != nil {
		return nil, &os.PathError{Op: "openat2", Path: name, Err: err}
	}
	file := os.NewFile(uintptr(fd), name)
	defer file.Close()
	return io.ReadAll(file)
}

// list returns the names of a directory's entries.
func (b *Backend) list(name string) ([]string, error) {
	dir, err := b.root.Open(name)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return dir.Readdirnames(-1)
}

// rename moves an object, and never replaces another by it.
func (b *Backend) rename(from, to string) error { return b.renameat2(from, to, unix.RENAME_NOREPLACE) }

func (b *Backend) renameat2(from, to string, flags uint) error {
	if err := b.inRoot(func(dir int) error { return unix.Renameat2(dir, from, dir, to, flags) }); err != nil {
		return &os.LinkError{Op: "renameat2", Old: from, New: to, Err: err}
	}
	return nil
}

// delete takes an object away by one rename and has its data removed in the
// background.
func (b *Backend) delete(shelf, id string) error {
	name := path.Join(shelf, id)
	b.step.At("trash")
	trashed, err := b.toTrash(name)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("move %s to the trash: %w", id, err)
	}
	existed := err == nil
	// What is absent is synced too: an earlier try may have failed here.
	b.step.At("sync")
	err = syncFile(b.root, shelf)
	switch {
	case err != nil && existed:
		// An error says that the object is still there: so it shall be, whole.
		b.step.At("take back")
		return errors.Join(fmt.Errorf("sync %s: %w", shelf, err), b.takeBack(trashed, name))
	case err != nil:
		return fmt.Errorf("sync %s: %w", shelf, err)
	case existed:
		b.background.Go(func() { b.removeTrash(trashed) })
	}
	return nil
}

// discard takes away what lies at name, staged or committed; the latter by one
// rename. That need not be durable. What was staged goes at the next start in
// any case. What was committed is nobody's yet, and whole: when a power cut
// undoes the rename, the next start serves it, and the repeat of the call finds
// it. None of its files can then be gone, since they are removed after the
// rename and a filesystem's log keeps that order.
//
// The data are removed at once, so that a repeat finds the space
// free, or in the background when the operation was cancelled, so that a stop
// need not wait. What it cannot remove is left to the next start.
func (b *Backend) discard(ctx context.Context, name string) {
	b.step.At("discard")
	trashed, err := b.toTrash(name)
	if err != nil && path.Dir(name) == stagingDir {
		trashed, err = name, nil
	}
	if err != nil {
		klog.ErrorS(err, "Cannot clean up; left to the next start", "object", name)
		return
	}
	if ctx.Err() != nil {
		b.background.Go(func() { b.removeTrash(trashed) })
		return
	}
	b.removeTrash(trashed)
}

// unique returns a name that no other call returns.
func unique(id string) string { return id + "." + rand.Text() }

// classify wraps the sentinel that fits err.
func classify(err error) error {
	if isFull(err) && !errors.Is(err, backend.ErrExhausted) {
		return fmt.Errorf("%w: %w", backend.ErrExhausted, err)
	}
	return err
}

// explain says of an error that tells of a failed filesystem which one that can be:
// to who reads it, the name of a system call and of a file below the root do not.
func (b *Backend) explain(err error) error {
	for _, failure := range []error{unix.EIO, unix.EROFS, unix.EUCLEAN, unix.ESHUTDOWN} {
		if errors.Is(err, failure) {
			return fmt.Errorf("the filesystem of %s, or that of a volume in it, fails or is read-only, see the kernel's log: %w", b.path, err)
		}
	}
	return err
}

// isFull says whether an error is about space, or the number of files.
func isFull(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }
