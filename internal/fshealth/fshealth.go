// Package fshealth tells what the kernel has found wrong with a mounted
// filesystem.
//
// It goes by what the kernel shows of it, and reads nothing from the disk. Only
// where the filesystem lies on a server that is away may it block.
package fshealth

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

// Conditions returns what is wrong with the filesystem of a mount, which is
// meant to be writable.
func Conditions(m *mountinfo.Info) []backend.Condition {
	var conditions []backend.Condition
	add := func(severity backend.Severity, reason, format string, args ...any) {
		conditions = append(conditions, backend.Condition{Severity: severity, Reason: reason, Message: fmt.Sprintf(format, args...)})
	}
	// Of the filesystem, not of this mount of it: proc_pid_mountinfo(5), field 11.
	options := strings.Split(m.VFSOptions, ",")
	switch {
	case isShutDown(m, options):
		add(backend.Inaccessible, "FilesystemShutDown",
			"the kernel has shut the %s down after an error: its log says why; unmount it and mount it again", m.FSType)
	// ext4 since Linux 6.15 says emergency_ro, and leaves rw as it is.
	case slices.Contains(options, "ro"), slices.Contains(options, "emergency_ro"):
		add(backend.Inaccessible, "FilesystemReadOnly",
			"the %s is read-only, as after an error: the kernel's log says why; unmount it and run fsck", m.FSType)
	}
	if n := ext4Errors(m); n > 0 {
		add(backend.Degraded, "FilesystemErrors", "the kernel has met %d errors in the ext4: unmount it and run e2fsck -f", n)
	}
	return conditions
}

// isShutDown says whether a filesystem answers everything with an error. ext4
// shows it as an option, since Linux 6.15; XFS does not, but fails also to
// describe its root directory.
func isShutDown(m *mountinfo.Info, options []string) bool {
	if slices.Contains(options, "shutdown") {
		return true
	}
	_, err := os.Lstat(m.Mountpoint)
	return errors.Is(err, unix.EIO)
}

// ext4Errors returns how many errors an ext4 has noted since it was last
// checked (Linux, Documentation/ABI/testing/sysfs-fs-ext4); zero for any other
// filesystem.
func ext4Errors(m *mountinfo.Info) int {
	device, err := filepath.EvalSymlinks(fmt.Sprintf("/sys/dev/block/%d:%d", m.Major, m.Minor))
	if err != nil {
		return 0 // it is on no device
	}
	text, err := os.ReadFile(filepath.Join("/sys/fs/ext4", filepath.Base(device), "errors_count"))
	if err != nil {
		return 0 // it is no ext4
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return n
}
