package hostpath_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/snapdriver/snapdriver/internal/testenv"
	"github.com/snapdriver/snapdriver/pkg/backend"
	"github.com/snapdriver/snapdriver/pkg/backend/hostpath"
)

// opened opens and recovers a root directory, and closes it after the test.
func opened(t *testing.T, root string, options hostpath.Options) *hostpath.Backend {
	t.Helper()
	b := open(t, root, options)
	recovered(t, b)
	t.Cleanup(func() { _ = b.Close() }) // some tests have closed or crashed it before
	return b
}

func recovered(t *testing.T, b *hostpath.Backend) backend.Inventory {
	t.Helper()
	inventory, err := b.Recover(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return inventory
}

func spec(kind, name string) backend.VolumeSpec {
	profile := profiles[kind]
	return backend.VolumeSpec{ID: backend.NewVolumeID("node", name), Name: name, Profile: profile.Profile, Capacity: profile.size}
}

func create(t *testing.T, b *hostpath.Backend, spec backend.VolumeSpec) backend.VolumeID {
	t.Helper()
	if _, err := b.CreateVolume(t.Context(), spec, nil); err != nil {
		t.Fatal(err)
	}
	return spec.ID
}

func snapshot(b *hostpath.Backend, name string, of backend.VolumeID) (backend.SnapshotID, error) {
	id := backend.NewSnapshotID("node", name)
	_, err := b.CreateSnapshot(context.Background(), backend.SnapshotSpec{ID: id, Name: name, Source: of}, nil)
	return id, err
}

func TestSecondProcessIsRefused(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	b := open(t, root, hostpath.Options{})
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(root, link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{root, link} {
		_, err := hostpath.Open(path, hostpath.Options{})
		for _, part := range []string{path, fmt.Sprint("pid ", os.Getpid()), "stop that process"} {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("Open of a root in use: error %v, expected one that says %q", err, part)
			}
		}
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := open(t, root, hostpath.Options{}).Close(); err != nil {
		t.Fatal(err)
	}
}

// A record that is cut off, newer, or somebody else's must not stop the start,
// and nothing may be lost over it.
func TestDamagedObjectsAreSetAside(t *testing.T) {
	for name, test := range map[string]struct {
		harm   func(object string) error
		reason string
	}{
		"cut off":       {func(object string) error { return os.Truncate(object+"/meta.json", 20) }, "not JSON"},
		"empty":         {func(object string) error { return os.Truncate(object+"/meta.json", 0) }, "not JSON"},
		"newer version": {replace(`"version": 1`, `"version": 2`), "version 2"},
		"unknown field": {replace(`"version": 1`, `"version": 1, "more": 1`), `unknown field "more"`},
		"hostile ID":    {replace(`-00`, `/..`), "cannot be read"},
		"of another":    {replace(`-00`, `-11`), "record is that of"},
		"no record":     {func(object string) error { return os.Remove(object + "/meta.json") }, "it has no record"},
		"no data":       {func(object string) error { return os.RemoveAll(object + "/data") }, "find its data"},
		"foreign name":  {func(object string) error { return os.Rename(object, object+".bak") }, "not of the form"},
		"a file": {func(object string) error {
			return os.WriteFile(filepath.Join(filepath.Dir(object), "README"), nil, 0o600)
		}, "not of the form"},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			b := opened(t, root, hostpath.Options{})
			good := create(t, b, spec("directory", "good"))
			bad := spec("directory", "bad")
			if err := bad.ID.UnmarshalText([]byte("vol-00000000-00000000000000000000000000000000")); err != nil {
				t.Fatal(err)
			}
			create(t, b, bad)
			b.Crash()
			if err := test.harm(filepath.Join(root, "volumes", bad.ID.String())); err != nil {
				t.Fatal(err)
			}
			b = open(t, root, hostpath.Options{})
			defer b.Close()
			inventory := recovered(t, b)
			if len(inventory.Damaged) != 1 || !strings.Contains(inventory.Damaged[0], test.reason) {
				t.Fatalf("damaged: %q, expected one line that says %q", inventory.Damaged, test.reason)
			}
			_, to, _ := strings.Cut(inventory.Damaged[0], "moved to ")
			if _, err := os.Lstat(to); err != nil {
				t.Errorf("%s does not say where it lies now: %v", inventory.Damaged[0], err)
			}
			served := false
			for _, volume := range inventory.Volumes {
				served = served || volume.ID == good
			}
			if !served {
				t.Error("the undamaged volume is not served")
			}
		})
	}
}

// replace returns a function that changes the text of an object's record.
func replace(from, to string) func(object string) error {
	return func(object string) error {
		text, err := os.ReadFile(object + "/meta.json")
		if err != nil {
			return err
		}
		changed := strings.Replace(string(text), from, to, 1)
		if changed == string(text) {
			return fmt.Errorf("nothing to replace in %s", text)
		}
		return os.WriteFile(object+"/meta.json", []byte(changed), 0o600)
	}
}

// A process that dies while a pod's filesystem is frozen leaves the pod
// waiting, until the next one thaws it.
func TestRecoverThaws(t *testing.T) {
	root := filepath.Join(testenv.Filesystem(t, "xfs", 512<<20), "root")
	stop, stopped := make(chan struct{}), make(chan struct{})
	dying := false
	options := hostpath.Options{FreezeLimit: time.Hour, Step: func(name string) {
		if dying && name == "cut" {
			close(stopped)
			<-stop
		}
	}}
	b := opened(t, root, options)
	id := create(t, b, spec("ext4 image", "volume"))
	dir, unmount := mounted(t, b, id)
	dying = true
	done := make(chan error)
	go func() {
		_, err := snapshot(b, "snapshot", id)
		done <- err
	}()
	<-stopped // frozen, and about to clone
	b.Crash()

	b = open(t, root, hostpath.Options{})
	recovered(t, b)
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil { // would wait for ever
		t.Fatal(err)
	}
	close(stop)
	if err := <-done; err == nil {
		t.Error("the dead process made a snapshot")
	}
	unmount()
	if err := b.DeleteVolume(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	storage{root}.Check(t)
}
