package container

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/internal/testdriver"
	"github.com/snapdriver/snapdriver/internal/testenv"
)

// entry becomes the driver, in a mount namespace of its own: what comes with the
// image is read-only, and what the manifest mounts is mounted.
const entry = `#!/bin/sh
exec unshare --mount --propagation unchanged sh -ec '
mount -t tmpfs root %[1]s
cd %[1]s
mkdir tmp
mount -t tmpfs tmp tmp
for dir in /bin /etc /lib /lib64 /sbin /usr %[2]s; do
	[ -d $dir ] || continue
	mkdir -p .$dir
	mount --bind $dir .$dir
	mount -o remount,bind,ro .$dir
done
mkdir -p proc sys dev run/lock run/lvm .%[3]s .%[4]s
mount -t proc proc proc
mount -t sysfs sysfs sys
mount --rbind /dev dev
mount --bind %[5]s etc/lvm
mount --bind /run/lock run/lock
mount -t tmpfs lvm run/lvm
mount --rbind %[3]s .%[3]s
mount --bind %[4]s .%[4]s
mount -o remount,ro .
exec chroot . "$@"
' entry %[6]s "$@"
`

// node is a node with a driver in a container.
type node struct {
	*testing.T
	*testdriver.Driver
	pool    testenv.Pool
	kubelet string // the kubelet's directory
}

func newNode(t *testing.T) *node {
	n := &node{T: t, pool: testenv.ThinPool(t, testenv.PoolOptions{})}
	testenv.RequirePrograms(t, "unshare", "chroot", "mount")
	dir := testenv.TempDir(t)
	root, settings, wrapper := filepath.Join(dir, "root"), filepath.Join(dir, "lvm"), filepath.Join(dir, "entry")
	n.kubelet = filepath.Join(dir, "kubelet")
	for _, dir := range []string{root, settings, n.kubelet} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for dir, propagation := range map[string]string{root: "--make-private", n.kubelet: "--make-shared"} {
		testenv.Run(t, "mount", "--bind", dir, dir)
		t.Cleanup(func() { testenv.Run(t, "umount", dir) })
		testenv.Run(t, "mount", propagation, dir)
	}
	// What the administrator has set holds in the container as well.
	text := fmt.Sprintf("devices {\n\tfilter = [ \"a|^%s$|\", \"r|.*|\" ]\n}\n", n.pool.Device)
	if err := os.WriteFile(filepath.Join(settings, "lvm.conf"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	program := testdriver.New(t, dir).Program()
	t.Setenv("SNAPDRIVER_BINARY", wrapper)
	n.Driver = testdriver.New(t, dir)
	script := fmt.Appendf(nil, entry, root, filepath.Dir(program), n.kubelet, filepath.Dir(n.Socket()), settings, program)
	if err := os.WriteFile(wrapper, script, 0o700); err != nil {
		t.Fatal(err)
	}
	n.Flags = []string{"--backend=lvm", "--volume-group=" + n.pool.Group, "--thin-pool=" + n.pool.Name}
	n.Start()
	return n
}

// volume is one that a pod of the node uses, as a directory.
type volume struct {
	*node
	id, name   string
	capability *csi.VolumeCapability
}

func (n *node) create(name, fsType string, size int64, source *csi.VolumeContentSource) *volume {
	n.Helper()
	v := &volume{node: n, name: name, capability: &csi.VolumeCapability{
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: fsType}},
	}}
	response, err := n.Controller.CreateVolume(n.Context(), &csi.CreateVolumeRequest{
		Name: name, CapacityRange: &csi.CapacityRange{RequiredBytes: size},
		VolumeCapabilities: []*csi.VolumeCapability{v.capability}, VolumeContentSource: source,
	})
	if err != nil {
		n.Fatal(err)
	}
	v.id = response.GetVolume().GetVolumeId()
	return v
}

func (v *volume) staging() string { return filepath.Join(v.kubelet, "staging-"+v.name) }
func (v *volume) target() string  { return filepath.Join(v.kubelet, "target-"+v.name) }
func (v *volume) file() string    { return filepath.Join(v.target(), "file") }

func (v *volume) publish() {
	v.Helper()
	if err := os.MkdirAll(v.staging(), 0o750); err != nil {
		v.Fatal(err)
	}
	v.must(v.Node.NodeStageVolume(v.Context(), &csi.NodeStageVolumeRequest{
		VolumeId: v.id, StagingTargetPath: v.staging(), VolumeCapability: v.capability,
	}))
	v.must(v.Node.NodePublishVolume(v.Context(), &csi.NodePublishVolumeRequest{
		VolumeId: v.id, StagingTargetPath: v.staging(), TargetPath: v.target(), VolumeCapability: v.capability,
	}))
}

func (v *volume) remove() {
	v.Helper()
	v.must(v.Node.NodeUnpublishVolume(v.Context(), &csi.NodeUnpublishVolumeRequest{VolumeId: v.id, TargetPath: v.target()}))
	v.must(v.Node.NodeUnstageVolume(v.Context(), &csi.NodeUnstageVolumeRequest{VolumeId: v.id, StagingTargetPath: v.staging()}))
	v.must(v.Controller.DeleteVolume(v.Context(), &csi.DeleteVolumeRequest{VolumeId: v.id}))
}

func (n *node) must(_ any, err error) {
	n.Helper()
	if err != nil {
		n.Fatal(err)
	}
}

// expect reads, on the node, what a volume holds.
func (v *volume) expect(want string) {
	v.Helper()
	if got, err := os.ReadFile(v.file()); string(got) != want {
		v.Errorf("%s holds %q, %v, expected %q", v.name, got, err, want)
	}
}

// expectSize compares the size of the filesystem that the node sees.
func (v *volume) expectSize(atLeast int64) {
	v.Helper()
	var stat unix.Statfs_t
	if err := unix.Statfs(v.target(), &stat); err != nil || int64(stat.Blocks)*stat.Bsize < atLeast {
		v.Errorf("%s has %d blocks of %d bytes, %v, expected %d bytes", v.name, stat.Blocks, stat.Bsize, err, atLeast)
	}
}

func TestLVM(t *testing.T) {
	n := newNode(t)
	for _, fsType := range []string{"ext4", "xfs", "btrfs"} {
		t.Run(fsType, func(t *testing.T) {
			n := &node{T: t, Driver: n.Driver, pool: n.pool, kubelet: n.kubelet}
			original := n.create("original-"+fsType, fsType, 320<<20, nil)
			original.publish()
			if err := os.WriteFile(original.file(), []byte("content"), 0o600); err != nil {
				t.Fatal(err)
			}
			snapshot, err := n.Controller.CreateSnapshot(t.Context(), &csi.CreateSnapshotRequest{Name: "cut-" + fsType, SourceVolumeId: original.id})
			if err != nil {
				t.Fatal(err)
			}
			id := snapshot.GetSnapshot().GetSnapshotId()
			restored := n.create("restored-"+fsType, fsType, 640<<20, &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
				Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: id},
			}})
			restored.publish()
			restored.expect("content")
			restored.expectSize(512 << 20)
			// The container is started anew, and the pods go on.
			n.Stop()
			n.Start()
			original.expect("content")
			larger := &csi.CapacityRange{RequiredBytes: 640 << 20}
			n.must(n.Controller.ControllerExpandVolume(t.Context(), &csi.ControllerExpandVolumeRequest{VolumeId: original.id, CapacityRange: larger}))
			n.must(n.Node.NodeExpandVolume(t.Context(), &csi.NodeExpandVolumeRequest{
				VolumeId: original.id, VolumePath: original.target(), StagingTargetPath: original.staging(), CapacityRange: larger, VolumeCapability: original.capability,
			}))
			original.expectSize(512 << 20)
			n.must(n.Controller.DeleteSnapshot(t.Context(), &csi.DeleteSnapshotRequest{SnapshotId: id}))
			original.remove()
			restored.remove()
		})
	}
	if log := n.Logged(); strings.Contains(log, "ead-only file system") {
		t.Errorf("something is to be written where nothing can be:\n%s", log)
	}
}

// TestLVMOfTheNode: lvm commands in the container and on the node see and wait
// for each other.
func TestLVMOfTheNode(t *testing.T) {
	n := newNode(t)
	v := n.create("volume", "ext4", 320<<20, nil)
	n.pool.LVM(t, "lvcreate", "--virtualsize", "64m", "--thinpool", n.pool.Name, "--name", "other", n.pool.Group)
	v.publish()
	names := strings.Fields(n.pool.LVM(t, "lvs", "--noheadings", "--options", "lv_name", n.pool.Group))
	if want := fmt.Sprint([]string{"other", n.pool.Name, v.id}); fmt.Sprint(names) != want {
		t.Errorf("logical volumes %q, want %s", names, want)
	}

	// What an lvm command of the node has while it works: see lvm2's
	// lib/locking/file_locking.c.
	lock, err := os.OpenFile(filepath.Join("/run/lock/lvm", "V_"+n.pool.Group), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	request := &csi.CreateSnapshotRequest{Name: "cut", SourceVolumeId: v.id}
	short, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if response, err := n.Controller.CreateSnapshot(short, request); err == nil {
		t.Errorf("it was made while the node had the lock: %v", response)
	}
	lock.Close()
	snapshot, err := n.Controller.CreateSnapshot(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	n.must(n.Controller.DeleteSnapshot(t.Context(), &csi.DeleteSnapshotRequest{SnapshotId: snapshot.GetSnapshot().GetSnapshotId()}))
	v.remove()
}
