package hostpath_test

import (
	"context"
	"errors"
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

// What cannot be served must not stop the start, and nothing may be lost over it.
func TestWhatCannotBeServed(t *testing.T) {
	for name, test := range map[string]struct {
		harm   func(object string) error
		reason string
		stays  bool
	}{
		"cut off":        {harm: func(object string) error { return os.Truncate(object+"/meta.json", 20) }, reason: "not JSON"},
		"empty":          {harm: func(object string) error { return os.Truncate(object+"/meta.json", 0) }, reason: "not JSON"},
		"two records":    {harm: replace(`{`, `{}{`), reason: "not JSON"},
		"of another":     {harm: replace(`-00`, `-11`), reason: "record is that of"},
		"no record":      {harm: func(object string) error { return os.Remove(object + "/meta.json") }, reason: "it has no record"},
		"no data":        {harm: func(object string) error { return os.RemoveAll(object + "/data") }, reason: "data are missing"},
		"foreign name":   {harm: func(object string) error { return os.Rename(object, object+".bak") }, reason: "not of the form"},
		"no directory":   {harm: func(object string) error { return errors.Join(os.RemoveAll(object), os.WriteFile(object, nil, 0o600)) }, reason: "it has no record"},
		"a foreign file": {harm: func(object string) error { return os.WriteFile(filepath.Dir(object)+"/README", nil, 0o600) }, reason: "not of the form"},

		"newer version": {harm: replace(`"version": 1`, `"version": 2`), reason: "version 2", stays: true},
		"other version": {harm: replace(`"version": 1`, `"version": "2"`), reason: "not understood", stays: true},
		"unknown field": {harm: replace(`"version": 1`, `"version": 1, "more": 1`), reason: `unknown field "more"`, stays: true},
		"other layout":  {harm: replace(`"layout": "directory"`, `"layout": "subvolume"`), reason: `layout "subvolume"`, stays: true},
		"no layout":     {harm: replace(`"layout": "directory"`, `"layout": ""`), reason: `layout ""`, stays: true},
		"other fs":      {harm: replace(`"layout": "directory"`, `"layout": "image", "fsType": "zfs"`), reason: `filesystem "zfs"`, stays: true},
		"hostile ID":    {harm: replace(`-00`, `/..`), reason: "not of the form", stays: true},
		"unreadable": {harm: func(object string) error { // reading a directory fails, and not because it is absent
			return errors.Join(os.Rename(object+"/meta.json", object+"/hidden"), os.Mkdir(object+"/meta.json", 0o700))
		}, reason: "read its record", stays: true},
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
			object := filepath.Join(root, "volumes", bad.ID.String())
			if err := test.harm(object); err != nil {
				t.Fatal(err)
			}
			b = open(t, root, hostpath.Options{})
			defer b.Close()
			inventory := recovered(t, b)
			if len(inventory.Damaged) != 1 || !strings.Contains(inventory.Damaged[0], test.reason) {
				t.Fatalf("damaged: %q, expected one line that says %q", inventory.Damaged, test.reason)
			}
			checkServed(t, inventory, good, bad.ID)
			if !test.stays {
				checkMoved(t, inventory.Damaged[0])
				return
			}
			if !strings.HasSuffix(inventory.Damaged[0], "left at "+object) {
				t.Errorf("%s does not say that it lies at %s", inventory.Damaged[0], object)
			}
			if _, err := b.CreateVolume(t.Context(), bad, nil); !errors.Is(err, backend.ErrPrecondition) || !strings.Contains(err.Error(), object) {
				t.Errorf("CreateVolume: error %v, expected ErrPrecondition that says %s", err, object)
			}
			storage{root}.checkEmpty(t, "staging", "damaged")
			if _, err := os.Lstat(object + "/data"); err != nil {
				t.Errorf("what had to stay: %v", err)
			}
		})
	}
}

// checkServed fails t unless the undamaged volume is served, and the other one
// only where no line says that it is not.
func checkServed(t *testing.T, inventory backend.Inventory, good, bad backend.VolumeID) {
	t.Helper()
	served := map[backend.VolumeID]bool{}
	for _, volume := range inventory.Volumes {
		served[volume.ID] = true
	}
	if !served[good] || served[bad] == strings.Contains(inventory.Damaged[0], bad.String()) {
		t.Errorf("served are %v, and damaged %q", served, inventory.Damaged)
	}
}

// checkMoved fails t unless the line says where the object lies now.
func checkMoved(t *testing.T, line string) {
	t.Helper()
	_, to, _ := strings.Cut(line, "moved to ")
	if _, err := os.Lstat(to); err != nil {
		t.Errorf("%s does not say where it lies now: %v", line, err)
	}
}

// What cannot even be set aside stops the start no more than the rest.
func TestSettingAsideFails(t *testing.T) {
	root := t.TempDir()
	b := opened(t, root, hostpath.Options{})
	good, bad := create(t, b, spec("directory", "good")), create(t, b, spec("directory", "bad"))
	b.Crash()
	object, damaged := filepath.Join(root, "volumes", bad.String()), filepath.Join(root, "damaged")
	if err := errors.Join(os.Remove(object+"/meta.json"), os.Remove(damaged), os.WriteFile(damaged, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	b = open(t, root, hostpath.Options{})
	defer b.Close()
	inventory := recovered(t, b)
	if len(inventory.Damaged) != 1 || !strings.HasSuffix(inventory.Damaged[0], "left at "+object) {
		t.Fatalf("damaged: %q, expected a line that says %s", inventory.Damaged, object)
	}
	checkServed(t, inventory, good, bad)
}

// An older program that is started once leaves a newer one's objects to it.
func TestNewerObjectsOutliveAnOlderProgram(t *testing.T) {
	root := t.TempDir()
	b := opened(t, root, hostpath.Options{})
	id := create(t, b, spec("directory", "volume"))
	storage{root}.Write(t, b, id, "content")
	b.Crash()
	object := filepath.Join(root, "volumes", id.String())
	if err := replace(`"version": 1`, `"version": 2`)(object); err != nil {
		t.Fatal(err)
	}
	b = opened(t, root, hostpath.Options{})
	b.Crash()
	if err := replace(`"version": 2`, `"version": 1`)(object); err != nil {
		t.Fatal(err)
	}
	b = opened(t, root, hostpath.Options{})
	if got := (storage{root}).Read(t, b, id); got != "content" {
		t.Errorf("the volume holds %q", got)
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

// What a process that died had begun to set aside, the next one sets aside.
func TestCrashWhileSettingAside(t *testing.T) {
	root := t.TempDir()
	b := opened(t, root, hostpath.Options{})
	good, bad := create(t, b, spec("directory", "good")), create(t, b, spec("directory", "bad"))
	b.Crash()
	if err := os.Truncate(filepath.Join(root, "volumes", bad.String(), "meta.json"), 0); err != nil {
		t.Fatal(err)
	}
	stop, stopped, ended := make(chan struct{}), make(chan struct{}), make(chan struct{})
	b = open(t, root, hostpath.Options{Step: func(name string) {
		if name == "set aside" {
			close(stopped)
			<-stop
		}
	}})
	go func() {
		defer close(ended)
		_, _ = b.Recover(context.Background())
	}()
	<-stopped
	b.Crash()

	b = open(t, root, hostpath.Options{})
	defer b.Close()
	inventory := recovered(t, b)
	close(stop)
	<-ended
	if len(inventory.Damaged) != 1 {
		t.Fatalf("damaged: %q, expected one line", inventory.Damaged)
	}
	checkServed(t, inventory, good, bad)
	checkMoved(t, inventory.Damaged[0])
}
