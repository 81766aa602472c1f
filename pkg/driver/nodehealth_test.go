package driver

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/snapdriver/snapdriver/internal/testenv"
	"github.com/snapdriver/snapdriver/pkg/backend"
	"github.com/snapdriver/snapdriver/pkg/backend/hostpath"
)

const notStaged, notPublished = "INACCESSIBLE NotStaged", "INACCESSIBLE NotPublished"

// wantHealthAt asks the node about a volume at its staging path and at a target.
func (v *testVolume) wantHealthAt(target string, want ...string) {
	v.t.Helper()
	response := must[*csi.NodeGetVolumeHealthResponse](v.t)(v.NodeGetVolumeHealth(background, &csi.NodeGetVolumeHealthRequest{
		VolumeId: v.VolumeId, StagingTargetPath: v.path, VolumePublishPath: v.target(target),
	}))
	if got := entries(v.t, response.VolumeHealth, v.VolumeId); !slices.Equal(got, want) {
		v.t.Errorf("NodeGetVolumeHealth: %v, want %q", response, want)
	}
}

// wantListed fails the test unless the list has what is wrong with the volume.
func (c client) wantListed(t *testing.T, id string, want ...string) {
	t.Helper()
	response := must[*csi.ControllerListVolumeHealthResponse](t)(c.ControllerListVolumeHealth(background, &csi.ControllerListVolumeHealthRequest{}))
	var got []string
	for _, entry := range response.Entries {
		if entry.VolumeId == id {
			got = entries(t, entry, id)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("ControllerListVolumeHealth: %v, want %q", response, want)
	}
}

// TestNodeHealth: where a volume is said to be is looked at.
func TestNodeHealth(t *testing.T) {
	forLayouts(t, func(t *testing.T, _ *testbed, v *testVolume) {
		v.wantHealth(t, v.VolumeId)
		v.wantHealthAt("a", notPublished, notStaged)
		v.stage(codes.OK)
		v.wantHealthAt("a", notPublished)
		v.publish("a", codes.OK, accessMode(manyWriters))
		v.publish("reader", codes.OK, accessMode(readers))
		v.wantHealthAt("a")
		v.wantHealthAt("reader")
		v.wantHealth(t, v.VolumeId)
		v.unpublish("reader", codes.OK)
		v.unpublish("a", codes.OK)
		v.wantHealthAt("a", notPublished)
		v.unstage(codes.OK)
		v.wantHealthAt("a", notPublished, notStaged)
		v.wantListed(t, v.VolumeId)
	})
}

// TestHealthOfMounts: what somebody else did to the mounts of a volume shows.
func TestHealthOfMounts(t *testing.T) {
	forLayouts(t, func(t *testing.T, b *testbed, v *testVolume) {
		v.stage(codes.OK)
		target := v.publish("a", codes.OK)
		other := b.root
		if v.how.GetBlock() != nil {
			other = os.DevNull
		}
		testenv.Run(t, "mount", "--bind", other, target)
		v.wantHealthAt("a", notPublished)
		testenv.Run(t, "umount", target)
		v.wantHealthAt("a")
		testenv.Run(t, "umount", target)
		v.wantHealthAt("a", notPublished)
		if v.how.GetBlock() != nil {
			return // nothing is mounted where it is staged
		}
		testenv.Run(t, "mount", "-o", "remount,bind,ro", v.path)
		v.wantHealthAt("a", notPublished, "INACCESSIBLE StagedReadOnly")
		testenv.Run(t, "mount", "--bind", other, v.path)
		v.wantHealthAt("a", notPublished, notStaged)
		testenv.Run(t, "umount", v.path)
		testenv.Run(t, "umount", v.path)
		v.wantHealthAt("a", notPublished, notStaged)
	})
}

// TestHealthDuringStaging: a volume that is on its way to a path is not missed
// there.
func TestHealthDuringStaging(t *testing.T) {
	testenv.RequireRoot(t)
	v := newTestbed(t).volume("v", layouts["directory"])
	id, err := backend.ParseVolumeID(v.VolumeId)
	if err != nil {
		t.Fatal(err)
	}
	release, err := v.server.core().LockNode(id)
	if err != nil {
		t.Fatal(err)
	}
	v.wantHealthAt("a")
	release()
	v.wantHealthAt("a", notPublished, notStaged)
}

// TestHealthOfFilesystem: that the kernel has given up on a volume's filesystem
// shows, and no longer when it is mounted anew.
func TestHealthOfFilesystem(t *testing.T) {
	testenv.RequireRoot(t)
	b := newTestbed(t)
	for _, kind := range []string{"ext4", "xfs"} {
		v := b.volume(kind, layouts[kind])
		v.stage(codes.OK)
		target := v.publish(kind, codes.OK)
		testenv.ShutDown(t, target)
		const want = "INACCESSIBLE FilesystemShutDown"
		v.wantHealthAt(kind, want)
		v.wantHealth(t, v.VolumeId, want)
		v.wantListed(t, v.VolumeId, want)
		v.unpublish(kind, codes.OK)
		v.unstage(codes.OK)
		v.wantHealth(t, v.VolumeId)
		v.stage(codes.OK)
		v.publish(kind, codes.OK)
		v.wantHealthAt(kind)
	}
}

// TestHealthOfCorruptExt4: an ext4 that contradicts itself is known for it once
// the kernel has met the contradiction, also after it was unmounted.
func TestHealthOfCorruptExt4(t *testing.T) {
	testenv.RequireRoot(t)
	testenv.RequirePrograms(t, "debugfs")
	v := newTestbed(t).volume("v", layouts["ext4"])
	image := filepath.Join(v.root, "volumes", v.VolumeId, "image")
	corruptRootDirectory(t, image)
	for range 2 {
		v.stage(codes.OK)
		target := v.publish("a", codes.OK)
		_, _ = os.ReadDir(target)
		testenv.AwaitExt4Error(t, target)
		v.wantHealth(t, v.VolumeId, "DEGRADED FilesystemErrors")
		v.unpublish("a", codes.OK)
		v.unstage(codes.OK)
	}
}

// corruptRootDirectory overwrites the list of files in the root directory.
func corruptRootDirectory(t *testing.T, image string) {
	t.Helper()
	file, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	size := make([]byte, 1)
	_, blocks, _ := strings.Cut(testenv.Run(t, "debugfs", "-R", "blocks /", image), "\n") // after the version
	block, err := strconv.ParseInt(strings.TrimSpace(blocks), 10, 64)
	if err == nil {
		_, err = file.ReadAt(size, 1024+0x18) // s_log_block_size of the superblock
	}
	if err == nil {
		_, err = file.WriteAt([]byte(strings.Repeat("nonsense", 1024/8)), block<<(10+size[0]))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestHealthOfLostData: what is gone from under a volume shows.
func TestHealthOfLostData(t *testing.T) {
	testenv.RequireRoot(t)
	b := newTestbed(t)
	v := b.volume("v", layouts["directory"])
	v.stage(codes.OK)
	v.publish("a", codes.OK)
	object := filepath.Join(b.root, "volumes", v.VolumeId)
	for lost, want := range map[string]string{"data": "DATA_LOSS DataMissing", "meta.json": "INACCESSIBLE RecordUnusable", "": "DATA_LOSS VolumeMissing"} {
		at, aside := filepath.Join(object, lost), filepath.Join(b.root, "aside")
		if err := os.Rename(at, aside); err != nil {
			t.Fatal(err)
		}
		v.wantHealthAt("a", want)
		v.wantHealth(t, v.VolumeId, want)
		v.wantListed(t, v.VolumeId, want)
		if err := os.Rename(aside, at); err != nil {
			t.Fatal(err)
		}
		v.wantHealthAt("a")
	}
}

// TestHealthOfDamagedVolume: a volume that is not served any more can still be
// asked about, which is when somebody does.
func TestHealthOfDamagedVolume(t *testing.T) {
	root := t.TempDir()
	lost, good := damagedRoot(t, root)
	b, err := hostpath.Open(root, hostpath.Options{})
	if err != nil {
		t.Fatal(err)
	}
	c := start(t, b, nil)
	want := []string{"DATA_LOSS DataMissing", "INACCESSIBLE SetAside"}
	c.wantHealth(t, lost, want...)
	c.wantListed(t, lost, want...)
	c.wantListed(t, good)
	_, err = c.ControllerGetVolume(t.Context(), &csi.ControllerGetVolumeRequest{VolumeId: lost})
	wantCode(t, err, codes.NotFound)

	// Under the same name there may be a volume again, which is healthy.
	c.create(t, volumeRequest("lost"))
	c.wantHealth(t, lost)
	c.wantListed(t, lost)
	must[*csi.DeleteVolumeResponse](t)(c.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: lost}))
	c.wantHealth(t, lost, want...)
	if err := os.RemoveAll(filepath.Join(root, "damaged")); err != nil {
		t.Fatal(err)
	}
	_, err = c.ControllerGetVolumeHealth(t.Context(), &csi.ControllerGetVolumeHealthRequest{VolumeId: lost})
	wantCode(t, err, codes.NotFound)
	c.wantListed(t, lost)
}

// damagedRoot makes a root directory with a volume called lost, whose data are,
// and a good one, and returns their IDs.
func damagedRoot(t *testing.T, root string) (lost, good string) {
	t.Helper()
	b, err := hostpath.Open(root, hostpath.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if _, err := b.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"lost", "good"} {
		spec := backend.VolumeSpec{ID: backend.NewVolumeID(testNode, name), Name: name, Profile: backend.Profile{Mode: backend.Filesystem}, Capacity: mib}
		if _, err := b.CreateVolume(t.Context(), spec, nil); err != nil {
			t.Fatal(err)
		}
	}
	lost, good = backend.NewVolumeID(testNode, "lost").String(), backend.NewVolumeID(testNode, "good").String()
	if err := os.Remove(filepath.Join(root, "volumes", lost, "data")); err != nil {
		t.Fatal(err)
	}
	return lost, good
}

// TestHealthOfRoot: hostpath's conditions come through.
func TestHealthOfRoot(t *testing.T) {
	testenv.RequireRoot(t)
	b := newTestbed(t)
	reasons := func() (all []string) {
		response := must[*csi.NodeGetStorageHealthResponse](t)(b.NodeGetStorageHealth(t.Context(), &csi.NodeGetStorageHealthRequest{}))
		for _, e := range response.BackendHealth {
			all = append(all, e.Status.String()+" "+e.Reason)
		}
		return all
	}
	if got := reasons(); len(got) > 0 {
		t.Errorf("a healthy root: %q", got)
	}
	if err := os.Rename(b.root, b.root+".old"); err != nil {
		t.Fatal(err)
	}
	if got := reasons(); !slices.Equal(got, []string{"STORAGE_UNREACHABLE RootUnreadable"}) {
		t.Errorf("a root that is gone: %q", got)
	}
	if err := os.Rename(b.root+".old", b.root); err != nil {
		t.Fatal(err)
	}
	if got := reasons(); len(got) > 0 {
		t.Errorf("a root that is back: %q", got)
	}
}
