package lvm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

// settings replace what the machine's lvm.conf says, so that the commands do
// the same on every node and in every container (lvm.conf(5)): no udev and no
// daemon is waited for, no file but the locks is shared with other lvm
// commands, reports look as they are parsed, and the guard alone says when the
// pool counts as full. Which devices lvm may look at stays the administrator's
// decision.
const settings = `
activation { udev_sync=0 udev_rules=0 monitoring=0 auto_set_activation_skip=1 thin_pool_autoextend_threshold=100 }
backup { backup=0 archive=0 }
devices { hints="none" external_device_info_source="none" obtain_device_list_from_udev=0 }
global { use_lvmpolld=0 notify_dbus=0 }
log { verbose=0 silent=0 prefix="" }
report { list_item_separator="," binary_values_as_numeric=0 }
`

// runner runs lvm commands: each is a process with arguments, never a shell.
type runner struct {
	// held is the standard input of commands that change something: the file
	// lock on it lasts until the last of them has ended, even if this process
	// dies before. lvm closes every other descriptor that it is given. May
	// be nil.
	held *os.File
	step backend.StepFunc

	// device is the path of the pool's device, through which flush reaches the
	// disks.
	device string

	changes, reports atomic.Int64 // commands begun
	printed          atomic.Int64 // bytes, by both
}

// change runs an lvm command that changes the volume group or the kernel's
// devices.
func (r *runner) change(ctx context.Context, command string, arguments ...string) error {
	r.changes.Add(1)
	if err := r.write(ctx, "lvm", argv(command, arguments)...); err != nil {
		return err
	}
	return r.flush()
}

// flush makes the disks write what is in their caches. lvm does not, so that a
// power cut could take back what has been acknowledged: the last metadata of
// the volume group. Without the pool's device there is no way to the disks, and
// nothing that is acknowledged.
func (r *runner) flush() error {
	device, err := os.Open(r.device)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	defer device.Close()
	if err := device.Sync(); err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	return nil
}

// write runs a program that changes something. It looks at ctx before it
// starts and not after that: a command that was killed between suspending a
// device and resuming it would leave everyone who uses the device waiting. For
// the same reason the program is in a process group of its own, which signals
// to this process's group do not reach.
func (r *runner) write(ctx context.Context, program string, arguments ...string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	process := prepare(exec.Command(program, arguments...))
	r.step.At(strings.Join(shown(process.Args), " "))
	if r.held != nil {
		process.Stdin = r.held
	}
	process.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := run(process)
	r.printed.Add(int64(len(out)))
	return err
}

// ask runs an lvm command that changes nothing and returns what it prints. The
// command is killed when ctx ends.
func (r *runner) ask(ctx context.Context, command string, arguments ...string) ([]byte, error) {
	r.reports.Add(1)
	out, err := run(prepare(exec.CommandContext(ctx, "lvm", argv(command, arguments)...)))
	r.printed.Add(int64(len(out)))
	return out, err
}

// report runs a command as ask does and returns the rows that it prints,
// decoded by encoding/json. In the values, which all are strings, sizes are
// bytes.
func report[Row any](ctx context.Context, r *runner, command string, arguments ...string) ([]Row, error) {
	out, err := r.ask(ctx, command, append([]string{"--reportformat", "json", "--units", "b", "--nosuffix"}, arguments...)...)
	if err != nil {
		return nil, err
	}
	var parsed struct {
		Report []map[string][]Row // by what the rows are about: lv, vg, pv
	}
	if err := json.Unmarshal(out, &parsed); err != nil {
		return nil, fmt.Errorf("understand what lvm %s prints: %w", command, err)
	}
	var rows []Row
	for _, section := range parsed.Report {
		for _, part := range section {
			rows = append(rows, part...)
		}
	}
	return rows, nil
}

func argv(command string, arguments []string) []string {
	return append([]string{command, "--config", settings}, arguments...)
}

func prepare(process *exec.Cmd) *exec.Cmd {
	process.Env = append(os.Environ(), "LC_ALL=C", "DM_DISABLE_UDEV=1", "LVM_SUPPRESS_FD_WARNINGS=1")
	return process
}

// run runs a process and returns what it printed. What lvm writes to standard
// error is of interest only when it fails: it warns a lot.
func run(process *exec.Cmd) ([]byte, error) {
	var out, warnings bytes.Buffer
	process.Stdout, process.Stderr = &out, &warnings
	if err := process.Run(); err != nil {
		return out.Bytes(), &commandError{arguments: process.Args, err: err, stderr: strings.TrimSpace(warnings.String())}
	}
	return out.Bytes(), nil
}

// commandError is a command that failed. It wraps ErrExhausted when there was
// no room for what was asked.
type commandError struct {
	arguments []string
	err       error // how it ended: the exit code, the signal
	stderr    string
}

func (e *commandError) Error() string {
	return fmt.Sprintf("%s: %v: %s", strings.Join(shown(e.arguments), " "), e.err, e.stderr)
}

// shown leaves the settings out, which are always the same.
func shown(arguments []string) []string {
	if at := slices.Index(arguments, "--config"); at >= 0 {
		return slices.Delete(slices.Clone(arguments), at, at+2)
	}
	return arguments
}

// isFrozen says whether a command has failed because a filesystem is frozen, so
// that the device below cannot be suspended.
func isFrozen(err error) bool {
	failed, is := errors.AsType[*commandError](err)
	return is && strings.Contains(failed.stderr, "suspend ioctl") && strings.Contains(failed.stderr, "Device or resource busy")
}

// exhausted are parts of what lvm says when there is no room; its exit
// code is the same for every failure.
var exhausted = []string{
	"nsufficient free space", "nsufficient suitable", "exceeds maximum metadata size", "too large for circular buffer", "reached threshold", "above threshold",
}

func (e *commandError) Unwrap() []error {
	classes := []error{e.err}
	for _, text := range exhausted {
		if strings.Contains(e.stderr, text) {
			return append(classes, backend.ErrExhausted)
		}
	}
	return classes
}
