package mounts

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
	mount "k8s.io/mount-utils"
	"k8s.io/utils/exec"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

// ext4 is the filesystem that can grow before it is mounted, and while it is
// mounted only by a process with CAP_SYS_RESOURCE. Others grow when mounted.
const ext4 = "ext4"

// Grow makes the filesystem of m, mounted writably at path, as large as its
// device. It does nothing when it is already, or when there is none.
// ErrPrecondition when the process may not grow it while it is mounted.
func Grow(m backend.Mount, path string) error {
	if m.FSType == "" {
		return nil
	}
	_, err := mount.NewResizeFs(exec.New()).Resize(m.Source, path)
	if err != nil && m.FSType == ext4 && !MayGrowMounted() {
		return fmt.Errorf("grow the filesystem at %q: ext4 grows while it is mounted only for a process with CAP_SYS_RESOURCE; grant it, or stage the volume anew: %w", path, backend.ErrPrecondition)
	}
	return err
}

// growUnmounted makes an ext4 filesystem as large as its device.
func growUnmounted(device string) error {
	run := exec.New()
	_, err := mount.NewResizeFs(run).Resize(device, "")
	if err == nil {
		return nil
	}
	// resize2fs wants a filesystem checked that was mounted since the last check.
	out, err := run.Command("e2fsck", "-f", "-p", device).CombinedOutput()
	var exit exec.ExitError
	mended := errors.As(err, &exit) && exit.ExitStatus() == 1
	if err != nil && !mended {
		return fmt.Errorf("check the filesystem on %s before it grows: %w: %s", device, err, out)
	}
	_, err = mount.NewResizeFs(run).Resize(device, "")
	return err
}

// MayGrowMounted says whether this process may grow a mounted ext4, which takes
// CAP_SYS_RESOURCE: some sandboxes keep that even from root.
func MayGrowMounted() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return unix.Capget(&header, &data[0]) == nil && data[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0
}
