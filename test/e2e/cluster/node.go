package cluster

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// Node is one node of a cluster. The first one holds the control plane too.
type Node struct {
	Name  string
	index int // from 1
}

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

// KillKubelet ends a node's kubelet without warning; the node starts it again.
func (c Cluster) KillKubelet(n Node) error {
	cmd, err := c.Command(n, "sh", "-c", "kill -KILL $(cat "+componentPid("kubelet")+")")
	if err != nil {
		return err
	}
	return cmd.Run()
}
