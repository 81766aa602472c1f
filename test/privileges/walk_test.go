package privileges

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/internal/testdriver"
)

const mib = 1 << 20

// walker does with a driver what a kubelet and the sidecars do, and notes what
// goes wrong. It has all capabilities itself.
type walker struct {
	*testdriver.Driver
	path   string            // $PATH of the driver
	dir    string            // for mounts
	layout map[string]string // parameters of what has a filesystem on a device

	mayGrow bool // a mounted ext4
	volumes []*volume
	errs    []error
}

// walk does steps with a driver that has these capabilities alone and returns
// what went wrong. What is left is taken away by a driver that lacks nothing.
func (w *walker) walk(capabilities []string, steps ...func()) []error {
	w.mayGrow = slices.Contains(capabilities, sysResource)
	w.Within = []string{"setpriv", "--bounding-set=-all,+" + strings.Join(capabilities, ",+"), "env", "PATH=" + w.path}
	w.Start()
	for _, step := range steps {
		step()
	}
	w.Stop()
	found := w.errs
	w.errs, w.Within = nil, nil
	w.Start()
	for _, v := range w.volumes {
		v.unpublish()
		v.delete()
	}
	w.Stop()
	for _, err := range w.errs {
		found = append(found, fmt.Errorf("clean up: %w", err))
	}
	return found
}

func (w *walker) note(what string, err error) {
	if err != nil {
		w.errs = append(w.errs, fmt.Errorf("%s: %w", what, err))
	}
}

// soon is the deadline of each call: what a capability is missing for may wait
// for ever.
func (w *walker) soon() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), 20*time.Second)
}

func mounted(fsType string) *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: fsType}},
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER},
	}
}

var block = &csi.VolumeCapability{
	AccessType: &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}},
	AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER},
}

// volume is a volume that the walker has made.
type volume struct {
	*walker
	name string
	id   string
	how  *csi.VolumeCapability
}

// create creates a volume from a snapshot, or from nothing.
func (w *walker) create(name string, how *csi.VolumeCapability, parameters map[string]string, size int64, snapshot string) *volume {
	ctx, cancel := w.soon()
	defer cancel()
	request := &csi.CreateVolumeRequest{
		Name: name, VolumeCapabilities: []*csi.VolumeCapability{how}, Parameters: parameters, CapacityRange: &csi.CapacityRange{RequiredBytes: size},
	}
	if snapshot != "" {
		request.VolumeContentSource = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
			Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: snapshot},
		}}
	}
	response, err := w.Controller.CreateVolume(ctx, request)
	w.note("create "+name, err)
	v := &volume{w, name, response.GetVolume().GetVolumeId(), how}
	if err == nil {
		w.volumes = append(w.volumes, v)
	}
	return v
}

func (v *volume) staging() string { return filepath.Join(v.dir, v.name, "staging") }
func (v *volume) target() string  { return filepath.Join(v.dir, v.name, "target") }

func (v *volume) publish(readOnly bool) {
	ctx, cancel := v.soon()
	defer cancel()
	v.note("make the directory", os.MkdirAll(v.staging(), 0o700))
	_, err := v.Node.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{VolumeId: v.id, StagingTargetPath: v.staging(), VolumeCapability: v.how})
	v.note("stage "+v.name, err)
	_, err = v.Node.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
		VolumeId: v.id, StagingTargetPath: v.staging(), TargetPath: v.target(), VolumeCapability: v.how, Readonly: readOnly,
	})
	v.note("publish "+v.name, err)
}

func (v *volume) unpublish() {
	ctx, cancel := v.soon()
	defer cancel()
	_, err := v.Node.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: v.id, TargetPath: v.target()})
	v.note("unpublish "+v.name, err)
	_, err = v.Node.NodeUnstageVolume(ctx, &csi.NodeUnstageVolumeRequest{VolumeId: v.id, StagingTargetPath: v.staging()})
	v.note("unstage "+v.name, err)
}

func (v *volume) snapshot(name string) string {
	ctx, cancel := v.soon()
	defer cancel()
	response, err := v.Controller.CreateSnapshot(ctx, &csi.CreateSnapshotRequest{Name: name, SourceVolumeId: v.id})
	v.note("snapshot "+v.name, err)
	return response.GetSnapshot().GetSnapshotId()
}

func (w *walker) deleteSnapshot(id string) {
	ctx, cancel := w.soon()
	defer cancel()
	_, err := w.Controller.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: id})
	w.note("delete a snapshot", err)
}

func (v *volume) grow(size int64) {
	ctx, cancel := v.soon()
	defer cancel()
	_, err := v.Controller.ControllerExpandVolume(ctx, &csi.ControllerExpandVolumeRequest{VolumeId: v.id, CapacityRange: &csi.CapacityRange{RequiredBytes: size}})
	v.note("grow "+v.name, err)
	_, err = v.Node.NodeExpandVolume(ctx, &csi.NodeExpandVolumeRequest{VolumeId: v.id, VolumePath: v.target(), StagingTargetPath: v.staging()})
	v.note("grow the filesystem of "+v.name, err)
}

func (v *volume) delete() {
	ctx, cancel := v.soon()
	defer cancel()
	_, err := v.Controller.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: v.id})
	v.note("delete "+v.name, err)
}

// directories walks with a volume that is a directory with files of all kinds
// and of many owners.
func (w *walker) directories() {
	v := w.create("directory", mounted(""), nil, mib, "")
	v.publish(false)
	w.note("fill the volume", fill(v.target()))
	snapshot := v.snapshot("of the directory")
	restored := w.create("restored", mounted(""), nil, mib, snapshot)
	restored.publish(true)
	w.note("compare", compare(v.target(), restored.target()))
	restored.unpublish()
	restored.delete()
	w.note("protect a file", protect(filepath.Join(v.target(), "others", "secret")))
	v.unpublish()
	v.delete()
}

// filesystems walks with a volume that is a filesystem on a device.
func (w *walker) filesystems() {
	v := w.create("ext4", mounted("ext4"), w.layout, 16*mib, "")
	v.publish(false)
	w.note("fill the volume", fill(v.target()))
	snapshot := v.snapshot("of the filesystem")
	if w.mayGrow {
		v.grow(32 * mib)
	}
	v.unpublish()
	restored := w.create("larger", mounted("ext4"), w.layout, 64*mib, snapshot)
	restored.publish(false)
	restored.unpublish()
	restored.delete()
	v.delete()
	w.deleteSnapshot(snapshot)
}

// blocks walks with a raw device, written through one target and read through
// another.
func (w *walker) blocks() {
	v := w.create("block", block, nil, 4*mib, "")
	v.publish(false)
	w.deleteSnapshot(v.snapshot("of the device"))
	v.unpublish()
	v.publish(true)
	v.unpublish()
	v.delete()
}

// fill makes files that take a capability each to be restored, or even to be
// read.
func fill(dir string) error {
	others := filepath.Join(dir, "others")
	secret, program, shared := filepath.Join(others, "secret"), filepath.Join(others, "program"), filepath.Join(others, "shared")
	// struct vfs_cap_data, revision 2: cap_net_raw, permitted (linux/capability.h).
	capability := []byte{0, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	return errors.Join(
		os.Mkdir(others, 0o755),
		os.WriteFile(secret, []byte("content"), 0o600), os.Chown(secret, 1000, 1001), os.Chmod(secret, 0),
		os.WriteFile(program, []byte("program"), 0o755), unix.Setxattr(program, "security.capability", capability, 0),
		os.WriteFile(shared, []byte("shared"), 0o755), os.Chown(shared, 1000, 1001), os.Chmod(shared, 0o755|os.ModeSetgid|os.ModeSetuid),
		unix.Mknod(filepath.Join(others, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))),
		unix.Setxattr(others, "trusted.overlay.opaque", []byte("y"), 0),
		os.Chown(others, 1000, 1001), os.Chmod(others, 0o500),
	)
}

// compare says what of what fill has made is not the same in two trees.
func compare(a, b string) (err error) {
	for _, name := range []string{"others", "others/secret", "others/program", "others/shared", "others/null"} {
		if before, after := describe(filepath.Join(a, name)), describe(filepath.Join(b, name)); before != after {
			err = errors.Join(err, fmt.Errorf("%s: %s, and then %s", name, before, after))
		}
	}
	return err
}

func describe(path string) string {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return err.Error()
	}
	text := fmt.Sprintf("%o %d:%d %x", st.Mode, st.Uid, st.Gid, st.Rdev)
	for _, name := range []string{"security.capability", "trusted.overlay.opaque"} {
		value := make([]byte, 64)
		if n, err := unix.Lgetxattr(path, name, value); err == nil {
			text += fmt.Sprintf(" %s=%x", name, value[:n])
		}
	}
	return text
}

// protect does as chattr +i.
func protect(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	const immutable = 0x10 // FS_IMMUTABLE_FL of linux/fs.h
	return unix.IoctlSetPointerInt(int(file.Fd()), unix.FS_IOC_SETFLAGS, immutable)
}

// emptyTrash waits until what was deleted is gone.
func (w *walker) emptyTrash() { w.note("empty the trash", w.awaitTrash()) }

func (w *walker) awaitTrash() error {
	for deadline := time.Now().Add(2 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		left, err := os.ReadDir(filepath.Join(w.Root, "trash"))
		if err != nil || len(left) == 0 {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d deleted objects are left", len(left))
		}
	}
}
