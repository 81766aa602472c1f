package testvm_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/snapdriver/snapdriver/internal/testenv"
	"github.com/snapdriver/snapdriver/internal/testvm"
)

// boot boots a machine that ends with the test.
func boot(t *testing.T, ctx context.Context, config testvm.Config) *testvm.VM {
	t.Helper()
	image, err := testvm.Prepare(ctx)
	if err != nil {
		testenv.Skip(t, "no virtual machine: %v", err)
	}
	vm, err := image.Boot(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(vm.Kill)
	return vm
}

// sh runs a line in the guest's shell.
func sh(vm *testvm.VM, line string, env ...string) (stdout, stderr string, err error) {
	var out, errors strings.Builder
	err = vm.Run(testvm.Command{Args: []string{"sh", "-c", line}, Env: env, Stdout: &out, Stderr: &errors})
	return out.String(), errors.String(), err
}

func TestRun(t *testing.T) {
	vm := boot(t, t.Context(), testvm.Config{Files: map[string]string{"a copy": "testvm_test.go"}})
	out, errOut, err := sh(vm, "echo $X; echo two >&2; wc -l < '/vm/a copy'; exit 3", "X=one")
	var exit *testvm.ExitError
	if !errors.As(err, &exit) || exit.Code != 3 {
		t.Errorf("%v, want exit status 3", err)
	}
	if lines := strings.Fields(out); len(lines) != 2 || lines[0] != "one" || lines[1] == "0" || errOut != "two\n" {
		t.Errorf("output %q, errors %q", out, errOut)
	}
	if err := vm.Run(testvm.Command{Args: []string{"no such program"}}); !errors.As(err, &exit) || exit.Code != -1 {
		t.Errorf("%v, want that it did not start", err)
	}

	// Several at a time: the first waits for the second.
	waits := make(chan error)
	go func() {
		_, _, err := sh(vm, "mkfifo /tmp/fifo; until [ -p /tmp/fifo ]; do :; done; cat /tmp/fifo")
		waits <- err
	}()
	if _, _, err := sh(vm, "until [ -p /tmp/fifo ]; do :; done; echo > /tmp/fifo"); err != nil {
		t.Error(err)
	}
	if err := <-waits; err != nil {
		t.Error(err)
	}

	// A kernel that panics is an error with its words, now and later.
	for range 2 {
		if _, _, err := sh(vm, "echo c > /proc/sysrq-trigger; sleep 600"); err == nil || !strings.Contains(err.Error(), "Kernel panic") {
			t.Errorf("a panic: %v", err)
		}
	}
}

// TestDeadline: a guest that hangs is an error, which shows the console.
func TestDeadline(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	vm := boot(t, ctx, testvm.Config{})
	late := errors.New("too late")
	timer := time.AfterFunc(time.Second, func() { cancel(late) })
	defer timer.Stop()
	_, _, err := sh(vm, "echo last words > /dev/console; sleep 600")
	if !errors.Is(err, late) || !strings.Contains(err.Error(), "last words") {
		t.Errorf("a guest that hangs: %v", err)
	}
}

// TestStuck: a guest in which something waits for ever in the kernel is an error,
// which shows for what.
func TestStuck(t *testing.T) {
	vm := boot(t, t.Context(), testvm.Config{})
	_, said, err := sh(vm, `sysctl=/proc/sys/kernel/hung_task_timeout_secs
		[ $(cat $sysctl) = 300 ] && echo 2 > $sysctl
		cd /tmp && mkdir disk && truncate -s 16M image && mkfs.ext4 -q image && mount -o loop image disk && fsfreeze -f disk && touch disk/file`)
	if err == nil || !strings.Contains(err.Error(), "blocked for more than") || !strings.Contains(err.Error(), "Call Trace") {
		t.Errorf("a guest that is stuck: %v\n%s", err, said)
	}
}

// TestPowerCut: what the guest has flushed is there after a power cut, and what
// it has not may be lost.
func TestPowerCut(t *testing.T) {
	disk, err := testvm.NewDisk(filepath.Join(t.TempDir(), "disk"), 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	config := testvm.Config{Disks: []*testvm.Disk{disk}}
	vm := boot(t, t.Context(), config)
	device := testvm.DiskPath(0)
	run := func(line string) string {
		t.Helper()
		out, errOut, err := sh(vm, line)
		if err != nil {
			t.Fatalf("%s: %v: %s", line, err, errOut)
		}
		return out
	}
	run("head -c 1M /dev/zero | tr '\\0' a | dd iflag=fullblock oflag=direct bs=1M of=" + device + " conv=fsync")
	run("head -c 1M /dev/zero | tr '\\0' b | dd iflag=fullblock oflag=direct bs=1M of=" + device + " seek=1")
	vm.Kill()
	lost, of, err := disk.Cut(rand.New(rand.NewPCG(1, 1)), false)
	if err != nil || of != 256 || lost < 64 || lost > 192 {
		t.Errorf("%d of %d blocks lost, want about half of 256: %v", lost, of, err)
	}
	vm = boot(t, t.Context(), config)
	got := run("for letter in a b; do tr -c -d $letter <" + device + " | wc -c; done")
	if want := fmt.Sprintf("%d\n%d\n", 1<<20, (of-lost)*4096); got != want {
		t.Errorf("bytes of each kind: %q, want %q", got, want)
	}
}
