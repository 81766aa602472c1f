package hostpath_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/internal/testenv"
	"github.com/snapdriver/snapdriver/pkg/backend"
	"github.com/snapdriver/snapdriver/pkg/backend/hostpath"
)

// mounted attaches and mounts an image volume; unmount unmounts and detaches
// it, and is called after the test at the latest.
func mounted(t *testing.T, b *hostpath.Backend, id backend.VolumeID) (dir string, unmount func()) {
	t.Helper()
	mount := attached(t, b, id)
	dir = testenv.TempDir(t)
	if err := unix.Mount(mount.Source, dir, mount.FSType, 0, strings.Join(mount.Options, ",")); err != nil {
		t.Fatal(err)
	}
	unmount = sync.OnceFunc(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
		testenv.Run(t, "losetup", "-d", mount.Source)
	})
	t.Cleanup(unmount)
	return dir, unmount
}

func attached(t *testing.T, b *hostpath.Backend, id backend.VolumeID) backend.Mount {
	t.Helper()
	mount, err := b.Attach(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return mount
}

func TestConcurrentAttachesGiveOneDevice(t *testing.T) {
	testenv.RequireRoot(t)
	root := testenv.TempDir(t)
	b := opened(t, root, hostpath.Options{})
	id := create(t, b, spec("block", "volume"))
	var mu sync.Mutex
	var calls sync.WaitGroup
	sources := map[string]int{}
	for range 16 {
		calls.Go(func() {
			mount, err := b.Attach(t.Context(), id)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			sources[mount.Source]++
		})
	}
	calls.Wait()
	if len(sources) != 1 {
		t.Errorf("attached at %v", sources)
	}
	deleteAll(t, b, root, id)
}

func deleteAll(t *testing.T, b *hostpath.Backend, root string, ids ...backend.VolumeID) {
	t.Helper()
	for _, id := range ids {
		if err := b.DeleteVolume(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	storage{root}.Check(t)
}

// After a reboot there are no loop devices, and the volume is as it was.
func TestAttachAfterReboot(t *testing.T) {
	testenv.RequireRoot(t)
	root := testenv.TempDir(t)
	b := opened(t, root, hostpath.Options{})
	id := create(t, b, spec("ext4 image", "volume"))
	storage{root}.Write(t, b, id, "before")
	device := attached(t, b, id).Source
	b.Crash()
	testenv.Run(t, "losetup", "-d", device)
	// Another file gets the device that was the volume's.
	other := filepath.Join(testenv.TempDir(t), "other")
	if err := os.WriteFile(other, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	testenv.Run(t, "losetup", device, other)
	defer testenv.Run(t, "losetup", "-d", device)

	b = opened(t, root, hostpath.Options{})
	if mount, attached, err := b.Attached(t.Context(), id); err != nil || attached {
		t.Errorf("Attached after a reboot: %+v, %v, %v", mount, attached, err)
	}
	if got := (storage{root}).Read(t, b, id); got != "before" {
		t.Errorf("the volume holds %q", got)
	}
	deleteAll(t, b, root, id)
}

// A driver that restarts finds the devices of the volumes that pods use.
func TestAttachAfterRestart(t *testing.T) {
	testenv.RequireRoot(t)
	root := testenv.TempDir(t)
	b := opened(t, root, hostpath.Options{})
	id := create(t, b, spec("block", "volume"))
	before := attached(t, b, id)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = opened(t, root, hostpath.Options{})
	if after, attached, err := b.Attached(t.Context(), id); err != nil || !attached || after.Source != before.Source {
		t.Errorf("Attached: %+v, %v, %v; expected %+v", after, attached, err, before)
	}
	deleteAll(t, b, root, id)
}

// A device that was detached while it was open is taken back when the volume
// is attached again: a second one would have a cache of its own.
func TestDetachedDeviceInUseIsTakenBack(t *testing.T) {
	testenv.RequireRoot(t)
	root := testenv.TempDir(t)
	b := opened(t, root, hostpath.Options{})
	id := create(t, b, spec("block", "volume"))
	first := attached(t, b, id)
	user, err := os.Open(first.Source)
	if err != nil {
		t.Fatal(err)
	}
	defer user.Close()
	if err := b.Detach(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if again := attached(t, b, id); again.Source != first.Source {
		t.Errorf("attached again at %s, first at %s", again.Source, first.Source)
	}
	if err := user.Close(); err != nil {
		t.Fatal(err)
	}
	if mount, attached, err := b.Attached(t.Context(), id); err != nil || !attached {
		t.Errorf("after the other user closed the device: %+v, %v, %v", mount, attached, err)
	}
	deleteAll(t, b, root, id)
}

// The device of a deleted volume that somebody holds open is not that of the
// volume that is created anew under its name.
func TestDeviceOfDeletedVolumeIsNotTaken(t *testing.T) {
	testenv.RequireRoot(t)
	root := testenv.TempDir(t)
	b := opened(t, root, hostpath.Options{})
	id := create(t, b, spec("block", "volume"))
	old := attached(t, b, id)
	user, err := os.Open(old.Source)
	if err != nil {
		t.Fatal(err)
	}
	defer user.Close()
	if err := b.DeleteVolume(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	create(t, b, spec("block", "volume"))
	if mount := attached(t, b, id); mount.Source == old.Source {
		t.Errorf("the new volume is at the old one's device %s", mount.Source)
	}
	if err := user.Close(); err != nil {
		t.Fatal(err)
	}
	deleteAll(t, b, root, id)
}

// A restored XFS has its origin's UUID, and both are mounted on one node.
func TestXFSMountsBesideItsClone(t *testing.T) {
	root := filepath.Join(testenv.Filesystem(t, "xfs", 1<<30), "root")
	b := opened(t, root, hostpath.Options{})
	id := create(t, b, spec("xfs image", "volume"))
	_, unmount := mounted(t, b, id)
	clone := spec("xfs image", "clone")
	clone.Source.Volume = id
	_, unmountClone := mounted(t, b, create(t, b, clone))
	unmountClone()
	unmount()
	deleteAll(t, b, root, id, clone.ID)
}

// The device of what is set aside is freed, unless a pod may come to it.
func TestDeviceOfWhatIsSetAside(t *testing.T) {
	testenv.RequireRoot(t)
	testenv.RequirePrograms(t, "mkfs.ext4", "losetup")
	for name, mount := range map[string]func(dir string, mount backend.Mount) (at string, err error){
		"attached": func(string, backend.Mount) (string, error) { return "", nil },
		"mounted": func(dir string, mount backend.Mount) (string, error) {
			return dir, unix.Mount(mount.Source, dir, mount.FSType, 0, "")
		},
		"node bound": func(dir string, mount backend.Mount) (string, error) {
			node := filepath.Join(dir, "node")
			if err := os.WriteFile(node, nil, 0o600); err != nil {
				return "", err
			}
			return node, unix.Mount(mount.Source, node, "", unix.MS_BIND, "")
		},
		"another mount of its name": func(_ string, mount backend.Mount) (string, error) {
			other := filepath.Join(testenv.TempDir(t), filepath.Base(mount.Source))
			if err := os.Mkdir(other, 0o700); err != nil {
				return "", err
			}
			t.Cleanup(func() { testenv.Unmount(t, other) })
			return "", unix.Mount(other, other, "", unix.MS_BIND, "")
		},
	} {
		t.Run(name, func(t *testing.T) {
			root := testenv.TempDir(t)
			b := opened(t, root, hostpath.Options{})
			id := create(t, b, spec("ext4 image", "volume"))
			device := attached(t, b, id)
			at, err := mount(testenv.TempDir(t), device)
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if at != "" && unix.Unmount(at, 0) != nil {
					t.Errorf("%s cannot be unmounted", at)
				}
				if left, _ := testenv.Leaks(root); len(left) > 0 {
					testenv.Run(t, "losetup", "-d", device.Source)
				}
			}()
			b.Crash()
			if err := os.Truncate(filepath.Join(root, "volumes", id.String(), "meta.json"), 0); err != nil {
				t.Fatal(err)
			}
			b = open(t, root, hostpath.Options{})
			defer b.Close()
			damaged := recovered(t, b).Damaged
			if len(damaged) != 1 || strings.Contains(damaged[0], "mounted at") != (at != "") || !strings.Contains(damaged[0], at) {
				t.Errorf("damaged: %q, expected a line that names %q", damaged, at)
			}
			leaks, err := testenv.Leaks(root)
			if err != nil || (len(leaks) > 0) != (at != "") {
				t.Errorf("devices that hold the image: %q, %v", leaks, err)
			}
		})
	}
}

// Who asks about a volume while it is deleted learns that it is there, or that it
// is not.
func TestAskedWhileDeleted(t *testing.T) {
	root := filepath.Join(testenv.Filesystem(t, "xfs", 4<<30), "root")
	b := open(t, root, hostpath.Options{})
	recovered(t, b)
	for i := range 100 {
		id := create(t, b, spec("block", fmt.Sprint(i)))
		asked := make(chan error)
		for _, ask := range []func() error{
			func() error { _, _, err := b.Attached(t.Context(), id); return err },
			func() error { _, err := b.VolumeHealth(t.Context(), id); return err },
		} {
			go func() {
				err := ask()
				for err == nil {
					err = ask()
				}
				asked <- err
			}()
		}
		if err := b.DeleteVolume(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := <-asked; !errors.Is(err, backend.ErrNotFound) {
				t.Fatal(err)
			}
		}
	}
	deleteAll(t, b, root)
}
