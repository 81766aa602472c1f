package testvm

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// probeTime is how long a guest may take that KVM runs. It needs about a second.
const probeTime = 20 * time.Second

// accelerate makes QEMU use KVM where a guest has been seen to run on it; that
// there is a /dev/kvm does not mean that it works, with one virtual machine in
// another above all. What was seen is remembered in a file until the host boots
// again.
func (i *Image) accelerate(ctx context.Context, cache string) error {
	i.accelerator = emulated
	if unix.Access("/dev/kvm", unix.R_OK|unix.W_OK) != nil {
		return nil
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return err
	}
	path := filepath.Join(cache, "kvm-"+strings.TrimSpace(string(boot)))
	answer, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		answer = []byte("fails\n")
		if i.runsOnKVM(ctx) {
			answer = []byte("works\n")
		}
		err = os.WriteFile(path, answer, 0o644)
	}
	if string(answer) == "works\n" {
		i.accelerator = onKVM
	}
	return err
}

// An emulated machine has one processor: with a second one, the same work costs
// half as much again.
var (
	onKVM    = []string{"-accel", "kvm", "-cpu", "host", "-smp", fmt.Sprint(min(runtime.NumCPU(), 4))}
	emulated = []string{"-accel", "tcg", "-cpu", "max"}
)

func (i *Image) runsOnKVM(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	vm, err := (&Image{Kernel: i.Kernel, Root: i.Root, accelerator: onKVM}).Boot(ctx, Config{})
	if err != nil {
		return false
	}
	defer vm.Kill()
	return vm.Run(Command{Args: []string{"true"}}) == nil
}
