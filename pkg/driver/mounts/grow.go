package mounts

import (
	"bytes"
	"fmt"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
	mount "k8s.io/mount-utils"
	utilexec "k8s.io/utils/exec"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

// Grow makes the filesystem of m, mounted writably at path, as large as its
// device, in the kernel and through the journal: a crash at any moment leaves
// it whole. It does nothing when it is that large already, or when there is
// none. ErrPrecondition when it cannot grow while it is mounted.
func Grow(m backend.Mount, path string) error {
	if m.FSType == "" {
		return nil
	}
	if m.FSType == ext4 {
		super, err := readExt4(m.Source)
		if err != nil || super.full() {
			return err
		}
		if MayGrowMounted() && !super.growsMounted() {
			return fmt.Errorf("grow the filesystem at %q: this ext4 has no resize_inode and grows only while it is not mounted; stage the volume anew: %w", path, backend.ErrPrecondition)
		}
	}
	_, err := mount.NewResizeFs(utilexec.New()).Resize(m.Source, path)
	if err != nil && m.FSType == ext4 && !MayGrowMounted() {
		return fmt.Errorf("grow the filesystem at %q: ext4 grows while it is mounted only for a process with CAP_SYS_RESOURCE; grant it, or stage the volume anew: %w", path, backend.ErrPrecondition)
	}
	return err
}

// NeedsGrowUnmounted says whether m has a filesystem that is smaller than its
// device and can grow only while it is not mounted.
func NeedsGrowUnmounted(m backend.Mount) (bool, error) {
	if m.FSType != ext4 {
		return false, nil
	}
	super, err := readExt4(m.Source)
	return err == nil && !super.full() && (!MayGrowMounted() || !super.growsMounted()), err
}

// GrowUnmounted makes the ext4 on a device as large as the device.
//
// It writes past the journal: until it returns, the device holds no
// filesystem that could be mounted or copied, and a crash may lose it.
func GrowUnmounted(device string) error {
	super, err := readExt4(device)
	if err != nil || super.full() {
		return err
	}
	// resize2fs wants a filesystem checked that was mounted since the last
	// check. What the check finds and cannot mend safely is not ours to decide.
	if !super.halfRid() {
		if err := check(device, "-p"); err != nil {
			return err
		}
	}
	if super.outgrows() || super.halfRid() {
		if _, err := run("tune2fs", "-O", "^resize_inode", device); err != nil {
			return err
		}
		// The reserve that is now nobody's is not among what -p mends.
		if err := check(device, "-y"); err != nil {
			return err
		}
	}
	_, err = run("resize2fs", device)
	return err
}

// check checks the unmounted ext4 on a device and mends what e2fsck may mend.
func check(device, mend string) error {
	code, err := run("e2fsck", "-f", mend, device)
	if code == 1 { // mended
		return nil
	}
	return err
}

// run runs a program that has no other input than its arguments. The error
// says what it printed.
func run(program string, arguments ...string) (code int, err error) {
	command := exec.Command(program, arguments...)
	out, err := command.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", strings.Join(command.Args, " "), err, bytes.TrimSpace(out))
	}
	return command.ProcessState.ExitCode(), err
}

// MayGrowMounted says whether this process may grow a mounted ext4, which takes
// CAP_SYS_RESOURCE (Linux, EXT4_IOC_RESIZE_FS): every privileged container has
// it, some sandboxes keep it even from root.
func MayGrowMounted() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return unix.Capget(&header, &data[0]) == nil && data[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0
}
