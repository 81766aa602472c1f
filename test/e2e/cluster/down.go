package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Down ends a cluster and takes back what it has outside its namespaces. With
// keep its disks stay, and Up starts the same cluster again. The page cache
// stays too: that is less than a power cut, which test/torture is about.
func (c Cluster) Down(ctx context.Context, keep bool) error {
	directories, err := filepath.Glob(filepath.Join(c.Dir, "node*"))
	if err != nil {
		return err
	}
	var problems []error
	for _, n := range Nodes(len(directories)) {
		if err := c.stopNode(ctx, n); err != nil {
			problems = append(problems, fmt.Errorf("stop %s: %w", n.Name, err))
		}
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

// stopNode kills a node's first process, which ends all others, and detaches
// the loop devices that lie on files of the node: they outlive its mounts.
func (c Cluster) stopNode(ctx context.Context, n Node) error {
	pid, err := c.Pid(n)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var loops []string
	if cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && bytes.Contains(cmdline, []byte("run\x00"+n.Name)) {
		if loops, err = c.LoopDevices(n); err != nil {
			return err
		}
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			return err
		}
		err := poll(ctx, func() error {
			if unix.Kill(pid, 0) == nil {
				return errors.New("its first process still runs")
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	// The kernel takes a dead namespace's interfaces away at its leisure.
	if err := removeLink(n.hostLink()); err != nil {
		return err
	}
	for _, device := range loops {
		if err := command("losetup", "--detach", device); err != nil {
			return err
		}
	}
	// The last processes leave their cgroups a moment after they ended.
	if err := poll(ctx, func() error { return c.removeCgroups(n) }); err != nil {
		return err
	}
	return os.Remove(c.pidFile(n))
}

// removeLink removes a network interface, if it is there.
func removeLink(name string) error {
	err := command("ip", "link", "del", name)
	if _, missing := os.Stat("/sys/class/net/" + name); missing != nil {
		return nil
	}
	return err
}

// LoopDevices lists the loop devices over files in a running node's /var/lib,
// which a machine's own path of the same name is not mistaken for.
func (c Cluster) LoopDevices(n Node) ([]string, error) {
	pid, err := c.Pid(n)
	if err != nil {
		return nil, err
	}
	out, err := enter(pid, "losetup", "--noheadings", "--raw", "--output", "NAME,BACK-INO,BACK-MAJ:MIN,BACK-FILE").Output()
	if err != nil {
		return nil, fmt.Errorf("list loop devices: %w", err)
	}
	var devices []string
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		if len(fields) != 4 || !strings.HasPrefix(fields[3], "/var/lib/") {
			continue
		}
		var stat unix.Stat_t
		if err := unix.Stat(fmt.Sprintf("/proc/%d/root%s", pid, fields[3]), &stat); err != nil {
			continue // a file of that name is the machine's
		}
		device := fmt.Sprintf("%d:%d", unix.Major(stat.Dev), unix.Minor(stat.Dev))
		if fields[1] == fmt.Sprint(stat.Ino) && fields[2] == device {
			devices = append(devices, fields[0])
		}
	}
	return devices, nil
}
