package cluster

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Node is one node of a cluster. The first one holds the control plane too.
type Node struct {
	Name  string
	index int // from 1
}

// MaxNodes is how many nodes a cluster is prepared for.
const MaxNodes = 2

// Nodes are the first count nodes: node1, node2, ...
func Nodes(count int) []Node {
	var nodes []Node
	for i := 1; i <= count; i++ {
		nodes = append(nodes, Node{Name: "node" + strconv.Itoa(i), index: i})
	}
	return nodes
}

// DriverRoot is where the driver keeps its volumes, in the node: a filesystem
// of its own, with reflinks, that a test may fill up without hurting the node.
const DriverRoot = "/var/lib/snapdriver"

// The network: a bridge on this machine that every node has a foot on, and a
// part of podNetwork for each node's pods.
const (
	bridge    = "snapdriver-e2e"
	hostIP    = "192.168.250.1"
	serviceIP = "10.96.0.1" // of the service "kubernetes"
)

func (n Node) ip() string         { return fmt.Sprintf("192.168.250.%d", n.index+1) }
func (n Node) podNetwork() string { return fmt.Sprintf("10.244.%d.0/23", 2*n.index) }
func (n Node) hostLink() string   { return "sde2e-" + n.Name } // this machine's end of its network
func (n Node) cgroup() string     { return "snapdriver-e2e-" + n.Name }
func (n Node) control() bool      { return n.index == 1 }

// enter runs a program in the namespaces of a node whose first process is pid.
func enter(pid int, args ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{
		"-t", strconv.Itoa(pid), "--mount", "--net", "--uts", "--ipc", "--pid", "--cgroup", "--",
	}, args...)...)
}

// Pid is the first process of a running node's namespaces. Its mounts are in
// /proc/PID/mountinfo, and its files below /proc/PID/root.
func (c Cluster) Pid(n Node) (int, error) {
	content, err := os.ReadFile(c.pidFile(n))
	if err != nil {
		return 0, fmt.Errorf("%s does not run: %w", n.Name, err)
	}
	return strconv.Atoi(strings.TrimSpace(string(content)))
}

func (c Cluster) pidFile(n Node) string { return filepath.Join(c.nodeDir(n), "pid") }

// Command is a program that runs in a node, with kubectl and ctr set up.
func (c Cluster) Command(n Node, args ...string) (*exec.Cmd, error) {
	pid, err := c.Pid(n)
	if err != nil {
		return nil, err
	}
	cmd := enter(pid, args...)
	cmd.Env = append(os.Environ(), c.environment()...)
	return cmd, nil
}

func (c Cluster) environment() []string {
	return []string{
		"PATH=" + c.Bin + ":" + os.Getenv("PATH"),
		"KUBECONFIG=" + c.Kubeconfig(),
		"CONTAINERD_ADDRESS=/run/containerd/containerd.sock",
		"CONTAINERD_NAMESPACE=k8s.io",
	}
}

// ImportImages gives the images of an archive to a running node.
func (c Cluster) ImportImages(n Node, archive string) error {
	cmd, err := c.Command(n, "ctr", "images", "import", archive)
	if err != nil {
		return err
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", cmd, err, out)
	}
	return nil
}

// Kill ends a program of a node without warning, be it in a container or not.
// The node or its kubelet starts it again.
func (c Cluster) Kill(n Node, program string) error {
	pid, err := findProcess(n, program)
	if err != nil {
		return err
	}
	return unix.Kill(pid, unix.SIGKILL)
}

// findProcess returns the one process of a node that runs a program.
func findProcess(n Node, program string) (int, error) {
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return 0, err
	}
	var found []int
	for _, path := range commands {
		command, _ := os.ReadFile(path) // of a process that may be gone
		name, _, _ := strings.Cut(string(command), "\x00")
		if filepath.Base(name) != program {
			continue
		}
		groups, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "cgroup"))
		if !strings.Contains(strings.ReplaceAll(string(groups), "\n", "/"), "/"+n.cgroup()+"/") {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			return 0, err
		}
		found = append(found, pid)
	}
	if len(found) != 1 {
		return 0, fmt.Errorf("%s has the processes %v that run %s, want one", n.Name, found, program)
	}
	return found[0], nil
}
