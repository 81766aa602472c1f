package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// Down ends a cluster and takes back what it has outside its namespaces. With
// keep its disks stay, and Up starts the same cluster again. The page cache
// stays too: that is less than a power cut, which test/torture is about.
func (c Cluster) Down(ctx context.Context, keep bool) error {
	var problems []error
	for _, n := range Nodes(MaxNodes) {
		problems = append(problems, c.Stop(ctx, n))
	}
	problems = append(problems, removeLink(bridge), c.restoreSysctls())
	if err := errors.Join(problems...); err != nil {
		return err
	}
	if keep {
		return nil
	}
	return os.RemoveAll(c.Dir)
}

// Stop kills a node's first process, which ends all others, and takes back what
// outlives it. It does as much as it can, however far the node had come. The API
// keeps the node.
func (c Cluster) Stop(ctx context.Context, n Node) error {
	loops, err := c.LoopDevices(n)
	problems := []error{err, c.killFirst(ctx, n)}
	// The kernel takes a dead namespace's interfaces away at its leisure.
	problems = append(problems, removeLink(n.hostLink()))
	for _, device := range loops {
		problems = append(problems, command("losetup", "--detach", device))
	}
	// The last processes leave their cgroups a moment after they ended.
	problems = append(problems, poll(ctx, func() error { return c.removeCgroups(n) }))
	if err := errors.Join(problems...); err != nil {
		return fmt.Errorf("stop %s: %w", n.Name, err)
	}
	if err := os.Remove(c.pidFile(n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// killFirst kills a node's first process, if it runs, and waits for its end.
func (c Cluster) killFirst(ctx context.Context, n Node) error {
	pid, err := c.Pid(n)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	command, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || !bytes.Contains(command, []byte("run\x00"+n.Name)) {
		return nil // it has ended before; the number may be another's by now
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		return err
	}
	return poll(ctx, func() error {
		if unix.Kill(pid, 0) == nil {
			return errors.New("its first process still runs")
		}
		return nil
	})
}

// removeLink removes a network interface, if it is there.
func removeLink(name string) error {
	err := command("ip", "link", "del", name)
	if _, missing := os.Stat("/sys/class/net/" + name); missing != nil {
		return nil
	}
	return err
}
