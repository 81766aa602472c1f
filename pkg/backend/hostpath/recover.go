package hostpath

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

// Recover implements backend.Backend. Staging and trash are emptied in the
// background, until Close.
func (b *Backend) Recover(ctx context.Context) (backend.Inventory, error) {
	inventory, err := b.recover(ctx)
	if err != nil {
		return backend.Inventory{}, fmt.Errorf("recover %s: %w", b.path, err)
	}
	return inventory, nil
}

func (b *Backend) recover(ctx context.Context) (inventory backend.Inventory, err error) {
	for _, dir := range []string{volumesDir, snapshotsDir, stagingDir, trashDir, damagedDir, spareDir} {
		err := b.root.Mkdir(dir, 0o700)
		if dir == spareDir && isFull(err) {
			continue // an older program had none, and one can do without
		}
		if err != nil && !errors.Is(err, os.ErrExist) {
			return inventory, err
		}
	}
	// A process that was killed may have renamed an object, or a new record out
	// of staging, and not synced that. From here on others are told of it: it must
	// not change any more.
	for _, dir := range []string{".", volumesDir, snapshotsDir, stagingDir} {
		if err := syncFile(b.root, dir); err != nil {
			return inventory, err
		}
	}
	// Before anything is read: a frozen filesystem stops the pods that use it.
	// One that cannot be thawed is no reason not to serve the others.
	if err := b.thawAll(); err != nil {
		klog.ErrorS(err, "Cannot thaw what a process that died may have left frozen", "root", b.path)
	}
	var root unix.Stat_t
	if err := unix.Stat(b.path, &root); err != nil {
		return inventory, os.NewSyscallError("stat", err)
	}
	b.loops.survey(root.Dev)
	if err := b.emptyStaging(); err != nil {
		return inventory, err
	}
	volumes, damaged, err := load(ctx, b, volumesDir, b.loadVolume)
	if err != nil {
		return inventory, err
	}
	snapshots, alsoDamaged, err := load(ctx, b, snapshotsDir, b.loadSnapshot)
	if err != nil {
		return inventory, err
	}
	damagedVolumes, err := b.damagedVolumes(slices.Collect(maps.Keys(damaged)))
	if err != nil {
		return inventory, err
	}
	return backend.Inventory{
		Volumes:        volumes,
		Snapshots:      snapshots,
		Damaged:        slices.AppendSeq(slices.Collect(maps.Values(damaged)), maps.Values(alsoDamaged)),
		DamagedVolumes: damagedVolumes,
	}, nil
}

// damagedVolumes returns the IDs of volumes that are not served: those among
// the names refused now, and what was set aside now or earlier.
func (b *Backend) damagedVolumes(refused []string) ([]backend.VolumeID, error) {
	aside, err := b.list(damagedDir)
	if errors.Is(err, unix.ENOTDIR) {
		err = nil // nothing could be set aside, which was said where it failed
	}
	ids := map[backend.VolumeID]bool{}
	for _, name := range append(refused, aside...) {
		name, _, _ = strings.Cut(name, ".") // what unique has added
		if id, err := backend.ParseVolumeID(name); err == nil {
			ids[id] = true
		}
	}
	return slices.Collect(maps.Keys(ids)), err
}

// emptyStaging moves what is staged into the trash, and removes what is there
// and in the spare directory.
func (b *Backend) emptyStaging() error {
	staged, err := b.list(stagingDir)
	if err != nil {
		return err
	}
	var rubbish []string
	b.spare.Lock() // until it is seen to be empty
	for _, name := range staged {
		b.step.At("empty staging")
		name = path.Join(stagingDir, name)
		err := b.root.Rename(name, path.Join(trashDir, unique(path.Base(name))))
		if isFull(err) {
			rubbish = append(rubbish, name) // nothing new gets that name
		} else if err != nil {
			return err
		}
	}
	trash, err := b.list(trashDir)
	if err != nil {
		return err
	}
	for _, name := range trash {
		rubbish = append(rubbish, path.Join(trashDir, name))
	}
	rubbish = append(rubbish, spareDir) // what is last goes first
	b.background.Go(func() { b.removeTrash(rubbish...) })
	return nil
}

// load reads every object in the directory shelf, several at a time, and has a
// line for each that cannot be served, by its name.
func load[T any](ctx context.Context, b *Backend, shelf string, read func(name string) (T, error)) (objects []T, damaged map[string]string, err error) {
	names, err := b.list(shelf)
	if err != nil {
		return nil, nil, err
	}
	damaged = map[string]string{}
	objects = make([]T, 0, len(names))
	var mu sync.Mutex
	one := func(name string) error {
		object, err := read(name)
		if err != nil && b.removeEmpty(path.Join(shelf, name)) == nil {
			return nil // a spare directory that a deletion has left, see toTrash
		}
		line := ""
		if err != nil {
			line, err = b.refuse(shelf, name, err)
		}
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		if line != "" {
			damaged[name] = line
		} else {
			objects = append(objects, object)
		}
		return nil
	}
	group, ctx := errgroup.WithContext(ctx)
	workers := 2 * runtime.GOMAXPROCS(0)
	for worker := range workers {
		group.Go(func() error {
			for i := worker; i < len(names); i += workers {
				if err := ctx.Err(); err != nil {
					return err
				}
				if err := one(names[i]); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err = group.Wait()
	return objects, damaged, err
}

func (b *Backend) loadVolume(name string) (backend.Volume, error) {
	id, err := backend.ParseVolumeID(name)
	if err != nil {
		return backend.Volume{}, damage("%v", err)
	}
	record, err := b.readVolume(id)
	if err != nil {
		return backend.Volume{}, err
	}
	return record.Volume, b.checkData(path.Join(volumePath(id), record.data()))
}

func (b *Backend) loadSnapshot(name string) (backend.Snapshot, error) {
	id, err := backend.ParseSnapshotID(name)
	if err != nil {
		return backend.Snapshot{}, damage("%v", err)
	}
	record, err := b.readSnapshot(id)
	if err != nil {
		return backend.Snapshot{}, err
	}
	return record.Snapshot, b.checkData(path.Join(snapshotPath(id), record.Format.file()))
}

// checkData looks whether the data are there of an object, whose record was read.
func (b *Backend) checkData(name string) error {
	var stat unix.Stat_t
	err := b.inRoot(func(dir int) error { return unix.Fstatat(dir, name, &stat, unix.AT_SYMLINK_NOFOLLOW) })
	if errors.Is(err, os.ErrNotExist) {
		return damage("its data are missing")
	}
	if err != nil {
		return fmt.Errorf("find its data: %w", err)
	}
	return nil
}

// refuse says that an object is not served. One that is damaged is set aside.
// Every other stays where it is, for a later start or another program that can
// read it. When it may be this process that is out of something, the error
// stops the start.
func (b *Backend) refuse(shelf, name string, reason error) (line string, err error) {
	if isOurs(reason) {
		return "", fmt.Errorf("read %s: %w", name, reason)
	}
	if _, damaged := errors.AsType[damagedError](reason); damaged {
		return b.setAside(shelf, name, reason), nil
	}
	return b.leave(shelf, name, reason), nil
}

// isOurs says whether an error tells of this process rather than of what it
// looked at.
func isOurs(err error) bool {
	return slices.ContainsFunc([]error{unix.EMFILE, unix.ENFILE, unix.ENOMEM, os.ErrPermission},
		func(ours error) bool { return errors.Is(err, ours) })
}

func (b *Backend) leave(shelf, name string, reason error) (line string) {
	return fmt.Sprintf("%s/%s: %v; not served, left at %s", shelf, name, reason, path.Join(b.path, shelf, name))
}

// setAside moves a damaged object to where it is safe from us, and says so.
// Nothing knows of its device after that.
func (b *Backend) setAside(shelf, name string, reason error) (line string) {
	device := ""
	if shelf == volumesDir {
		device = b.release(name)
	}
	to := path.Join(damagedDir, unique(name))
	b.step.At("set aside")
	if err := b.root.Rename(path.Join(shelf, name), to); err != nil {
		return b.leave(shelf, name, fmt.Errorf("%w, and could not be set aside: %w", reason, err))
	}
	return fmt.Sprintf("%s/%s: %v; moved to %s%s", shelf, name, reason, path.Join(b.path, to), device)
}
