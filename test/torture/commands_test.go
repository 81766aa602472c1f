package torture

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/snapdriver/snapdriver/internal/testenv"
)

// TestCommandsOfLVM: an RPC that changes something is one lvm command, or two
// where a size changes that has another to begin with. What is asked again, lists,
// statistics, and what pods are given beyond the first use, are none: neither one
// that changes something nor one that looks.
func TestCommandsOfLVM(t *testing.T) {
	testenv.RequireThinPools(t)
	all := storages()
	s := all[len(all)-1]
	for _, of := range s.kinds {
		t.Run(of.name, func(t *testing.T) {
			b := newTestbed(t, s, 4*gib)
			counter := countedLVM(t)
			b.Env = []string{"PATH=" + counter.dir + ":" + os.Getenv("PATH")}
			b.Start()
			v := b.mustCreate(of, "volume")
			cut := v.mustSnapshot("cut")
			restored, err := b.create(of, "restored", fromSnapshot(cut))
			if err != nil {
				t.Fatal(err)
			}
			if counter.ran() == 0 {
				t.Fatal("no command was counted")
			}
			large := createRequest(of, "larger", fromSnapshot(cut))
			large.CapacityRange = &csi.CapacityRange{RequiredBytes: 2 * of.size}
			var larger string
			grown := &csi.CapacityRange{RequiredBytes: 3 * of.size}
			for _, step := range []struct {
				what     string
				commands int
				request  func() error
			}{
				{"create, again", 0, func() error { _, err := b.create(of, "volume", nil); return err }},
				{"restore, again", 0, func() error { _, err := b.create(of, "restored", fromSnapshot(cut)); return err }},
				{"snapshot, again", 0, func() error { _, err := v.snapshot("cut"); return err }},
				{"restore in a larger size", 2, func() error {
					response, err := b.Controller.CreateVolume(background, large)
					larger = response.GetVolume().GetVolumeId()
					return err
				}},
				{"list", 0, func() error { b.list(); return nil }},
				{"look", 0, func() error {
					_, err := b.Controller.ControllerGetVolume(background, &csi.ControllerGetVolumeRequest{VolumeId: v.id})
					return err
				}},
				{"look at a snapshot", 0, func() error {
					_, err := b.Controller.GetSnapshot(background, &csi.GetSnapshotRequest{SnapshotId: cut})
					return err
				}},
				{"publish", 1, v.publish}, // that makes the device, or says that there is a filesystem now
				{"publish, again", 0, v.publish},
				{"statistics", 0, func() error {
					_, err := b.Node.NodeGetVolumeStats(background, &csi.NodeGetVolumeStatsRequest{VolumeId: v.id, VolumePath: v.target()})
					return err
				}},
				{"grow", 1, func() error {
					_, err := b.Controller.ControllerExpandVolume(background, &csi.ControllerExpandVolumeRequest{VolumeId: v.id, CapacityRange: grown})
					return err
				}},
				{"grow, again", 0, func() error {
					_, err := b.Controller.ControllerExpandVolume(background, &csi.ControllerExpandVolumeRequest{VolumeId: v.id, CapacityRange: grown})
					return err
				}},
				{"grow at the pod", 0, func() error {
					_, err := b.Node.NodeExpandVolume(background, &csi.NodeExpandVolumeRequest{VolumeId: v.id, VolumePath: v.target(), CapacityRange: grown})
					return err
				}},
				{"unpublish", 1, v.unpublish},
				{"unpublish, again", 0, v.unpublish},
				{"delete", 1, func() error { return b.deleteVolume(larger) }},
				{"delete the snapshot", 1, func() error { return b.deleteSnapshot(cut) }},
				{"delete what was restored", 1, func() error { return b.deleteVolume(restored.id) }},
			} {
				before := counter.ran()
				if err := step.request(); err != nil {
					t.Errorf("%s: %v", step.what, err)
				}
				if ran := counter.ran() - before; ran != step.commands {
					t.Errorf("%s: %d commands, expected %d:\n%s", step.what, ran, step.commands, strings.Join(counter.lines()[before:], "\n"))
				}
			}
		})
	}
}

// lvmCounter is a directory with an lvm that writes down which commands it runs, and
// leaves them to the real one.
type lvmCounter struct {
	t   *testing.T
	dir string
}

func countedLVM(t *testing.T) lvmCounter {
	t.Helper()
	path, err := exec.LookPath("lvm")
	if err != nil {
		t.Fatal(err)
	}
	c := lvmCounter{t, testenv.TempDir(t)}
	script := fmt.Sprintf("#!/bin/sh\necho \"$1\" >>%s/log\nexec %s \"$@\"\n", c.dir, path)
	if err := os.WriteFile(filepath.Join(c.dir, "lvm"), []byte(script), 0o755); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	return c
}

func (c lvmCounter) lines() []string {
	c.t.Helper()
	log, err := os.ReadFile(filepath.Join(c.dir, "log"))
	if err != nil {
		c.t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(log)), "\n")
}

func (c lvmCounter) ran() int { return len(c.lines()) }
