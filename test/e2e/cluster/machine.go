package cluster

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// This file is about what a cluster changes outside its namespaces.

// controllers are the cgroup v1 hierarchies, by the name of their mount point.
var controllers = []string{"cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "systemd"}

const cgroupRoot = "/sys/fs/cgroup"

// inCgroups runs start while this process is in fresh cgroups of a node, one in
// every hierarchy, below its own. The node's cgroup namespace begins there.
func (c Cluster) inCgroups(n Node, start func() error) (err error) {
	own, err := ownCgroups()
	if err != nil {
		return err
	}
	var dirs []string
	for _, controller := range controllers {
		dirs = append(dirs, filepath.Join(cgroupRoot, controller, own[controller], n.cgroup()))
	}
	if err := os.WriteFile(c.cgroupsFile(n), []byte(strings.Join(dirs, "\n")), 0o644); err != nil {
		return err
	}
	move := func(dir string) error {
		return os.WriteFile(filepath.Join(dir, "cgroup.procs"), fmt.Append(nil, os.Getpid()), 0o644)
	}
	for _, dir := range dirs {
		if err := makeCgroup(dir); err != nil {
			return err
		}
		if err := move(dir); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, move(filepath.Dir(dir))) }()
	}
	return start()
}

// makeCgroup makes a cgroup with the processors and the memory of its parent: a
// new one has none in the hierarchy cpuset, and would take no process.
func makeCgroup(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
		value, err := os.ReadFile(filepath.Join(filepath.Dir(dir), name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // another hierarchy
		}
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), value, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (c Cluster) cgroupsFile(n Node) string { return filepath.Join(c.nodeDir(n), "cgroups") }

// ownCgroups is this process's place in every hierarchy.
func ownCgroups() (map[string]string, error) {
	content, err := os.ReadFile("/proc/self/cgroup") // lines like 4:cpu,cpuacct:/path
	if err != nil {
		return nil, err
	}
	own := map[string]string{}
	for line := range strings.Lines(string(content)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		for controller := range strings.SplitSeq(fields[1], ",") {
			own[strings.TrimPrefix(controller, "name=")] = fields[2]
		}
	}
	return own, nil
}

// removeCgroups removes a node's cgroups, which its processes have left.
func (c Cluster) removeCgroups(n Node) error {
	content, err := os.ReadFile(c.cgroupsFile(n))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for root := range strings.Lines(string(content)) {
		var dirs []string
		err := filepath.WalkDir(strings.TrimSpace(root), func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				dirs = append(dirs, path)
			}
			return err
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for i := len(dirs) - 1; i >= 0; i-- {
			if err := os.Remove(dirs[i]); err != nil {
				return err
			}
		}
	}
	return os.Remove(c.cgroupsFile(n))
}

// sysctls are those that a kubelet writes for the whole machine.
var sysctls = []string{
	"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops",
	"kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
}

func (c Cluster) sysctlFile() string { return filepath.Join(c.Dir, "sysctls") }

func (c Cluster) saveSysctls() error {
	var saved strings.Builder
	for _, name := range sysctls {
		value, err := os.ReadFile("/proc/sys/" + name)
		if err != nil {
			return err
		}
		fmt.Fprintf(&saved, "%s %s\n", name, strings.TrimSpace(string(value)))
	}
	return os.WriteFile(c.sysctlFile(), []byte(saved.String()), 0o644)
}

func (c Cluster) restoreSysctls() error {
	saved, err := os.Open(c.sysctlFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer saved.Close()
	for {
		var name, value string
		if _, err := fmt.Fscanln(saved, &name, &value); errors.Is(err, io.EOF) {
			return os.Remove(c.sysctlFile())
		} else if err != nil {
			return err
		}
		if err := os.WriteFile("/proc/sys/"+name, []byte(value), 0o644); err != nil {
			return err
		}
	}
}
