package torture

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/sys/mountinfo"
	"google.golang.org/grpc/codes"

	"github.com/snapdriver/snapdriver/internal/testenv"
	"github.com/snapdriver/snapdriver/test/torture/content"
)

// TestReboot: after a reboot, which takes all mounts and devices away and leaves
// the directories, the kubelet finds what it left, whether it first takes the
// volumes from the paths where they no longer are or not.
func TestReboot(t *testing.T) {
	onEach(t, func(t *testing.T, s storage) {
		b := started(t, s, 8*gib)
		var expected []string
		volumes := b.mustUseEach()
		for _, v := range volumes {
			expected = append(expected, v.id, v.mustSnapshot(v.name))
		}
		for round := range 2 {
			b.Kill()
			b.takeAway()
			b.boot()
			b.Start()
			for i, v := range volumes {
				if round == 0 {
					expectCode(t, v.unpublish(), codes.OK)
				}
				if err := v.publish(); err != nil {
					t.Fatalf("%s: %v", v.kind.name, err)
				}
				if err := content.Tag(i).Check(v.target()); err != nil {
					t.Errorf("%s: %v", v.kind.name, err)
				}
			}
		}
		for _, v := range volumes {
			expectCode(t, v.unpublish(), codes.OK)
		}
		b.expectObjects(expected...)
	})
}

// mustUseEach makes a volume of each kind, which a pod has and has written to: its
// place among them is the tag.
func (b *testbed) mustUseEach() (volumes []*volume) {
	b.Helper()
	for i, of := range b.kinds {
		v := b.mustCreate(of, of.name)
		if err := v.publish(); err != nil {
			b.Fatal(err)
		}
		if err := content.Tag(i).Write(v.target()); err != nil {
			b.Fatal(err)
		}
		volumes = append(volumes, v)
	}
	return volumes
}

// takeAway takes the mounts of pods away, and the devices.
func (b *testbed) takeAway() {
	b.Helper()
	for _, dir := range []string{b.pods, b.root} {
		leaks, err := testenv.Leaks(dir)
		if err != nil {
			b.Fatal(err)
		}
		for _, leak := range leaks {
			if path, is := strings.CutPrefix(leak, "mount "); is {
				testenv.Unmount(b, path)
			} else if device, _, is := strings.Cut(strings.TrimPrefix(leak, "loop device "), " of "); is {
				testenv.Run(b, "losetup", "--detach", "/dev/"+device)
			}
		}
	}
}

// remount unmounts the filesystem at a directory and mounts it again.
func remount(t testing.TB, dir string) {
	t.Helper()
	mounts, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(dir))
	if err != nil || len(mounts) != 1 {
		t.Fatalf("%s: %v, %v", dir, mounts, err)
	}
	file, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(mounts[0].Source), "loop/backing_file"))
	if err != nil {
		t.Fatal(err)
	}
	testenv.UnmountDevice(t, dir)
	testenv.Run(t, "mount", "-o", "loop", strings.TrimSpace(string(file)), dir)
}

// TestRecordCutShort: an object whose record was cut short, wherever, neither
// keeps the driver from starting nor takes another object with it, and is named.
func TestRecordCutShort(t *testing.T) {
	requireDriver(t)
	for _, s := range storages() {
		if s.name == "lvm" {
			continue // its records are LVM's
		}
		t.Run(s.name, func(t *testing.T) {
			b := started(t, s, gib)
			of := s.kinds[0]
			kept := b.mustCreate(of, "kept")
			kept.use(content.Tag(1).Write)
			record := filepath.Join(b.root, "volumes", b.mustCreate(of, "cut").id, "meta.json")
			whole, err := os.ReadFile(record)
			if err != nil {
				t.Fatal(err)
			}
			// The last byte is a line feed, without which it is whole.
			for length := 0; length < len(whole)-1; length += max(1, 50 / *scale) {
				b.Kill()
				if err := os.Truncate(record, int64(length)); err != nil {
					t.Fatal(err)
				}
				b.Start()
				kept.use(content.Tag(1).Check)
				log := b.Logged()
				volumes, _ := b.list()
				if len(volumes) != 1 || !strings.Contains(log, filepath.Base(filepath.Dir(record))) {
					t.Fatalf("cut short to %d bytes: %q is served; the log:\n%s", length, volumes, log)
				}
				b.Kill()
				err := errors.Join(putBack(b.root, record), os.WriteFile(record, whole, 0o600))
				if err != nil {
					t.Fatal(err)
				}
				b.Start()
			}
			if volumes, _ := b.list(); len(volumes) != 2 {
				t.Errorf("whole again, and served is %q", volumes)
			}
		})
	}
}

// putBack moves what was set aside back to where its record lies.
func putBack(root, record string) error {
	aside, err := os.ReadDir(filepath.Join(root, "damaged"))
	if err != nil || len(aside) != 1 {
		return fmt.Errorf("set aside: %v, %w", aside, err)
	}
	return os.Rename(filepath.Join(root, "damaged", aside[0].Name()), filepath.Dir(record))
}
