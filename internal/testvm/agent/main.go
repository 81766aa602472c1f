// Command agent is process 1 of the virtual machine (see package testvm). It
// sets the machine up and starts itself once more, to serve the host; the first
// process then only buries the dead, for those whom os/exec waits for must not
// be taken from it.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

func main() {
	work := serve
	switch {
	case os.Getpid() == 1:
		work = initialize
	case len(os.Args) > 1: // see testvm.VM.Dial
		work = func() error { return forward(os.Args[1]) }
	}
	if err := work(); err != nil {
		fmt.Fprintln(os.Stderr, "agent:", err)
	}
}

// initialize is the life of process 1, at whose end the machine is off.
func initialize() error {
	defer func() { _ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF) }()
	if err := errors.Join(setUp(), supervise()); err != nil {
		fmt.Fprintln(os.Stderr, "agent:", err)
	}
	return nil
}

func setUp() error {
	for _, mount := range []struct{ kind, path string }{
		{"proc", "/proc"}, {"sysfs", "/sys"}, {"tmpfs", "/run"}, {"tmpfs", "/dev/shm"}, {"devpts", "/dev/pts"},
	} {
		if err := os.MkdirAll(mount.path, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(mount.kind, mount.path, mount.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", mount.path, err)
		}
	}
	for name, value := range map[string]string{
		"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/vm",
		"HOME": "/root",
		// There is no udev: else libdevmapper waits for it.
		"DM_DISABLE_UDEV": "1",
	} {
		if err := os.Setenv(name, value); err != nil {
			return err
		}
	}
	for _, command := range [][]string{
		// Filesystems and device-mapper's other targets the kernel loads when they
		// are used.
		{"modprobe", "--all", "virtio_pci", "virtio_blk", "virtio_console", "loop", "dm-thin-pool"},
		{"busybox", "ip", "link", "set", "lo", "up"},
	} {
		if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%q: %w: %s", command, err, out)
		}
	}
	return nil
}

// supervise runs the server and waits for every process that has no other
// parent, until the server has ended.
func supervise() error {
	server, err := os.StartProcess("/proc/self/exe", []string{"agent"}, &os.ProcAttr{
		Dir: "/root", Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
	})
	if err != nil {
		return err
	}
	for {
		ended, err := unix.Wait4(-1, nil, 0, nil)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("wait4", err)
		}
		if ended == server.Pid {
			return errors.New("the server has ended")
		}
	}
}
