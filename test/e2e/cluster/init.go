package cluster

import (
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Run is the first process of a node's namespaces: it lays out mounts and
// network, starts the node's components and keeps them. It ends only when it
// is killed, and everything in the namespaces with it.
func (c Cluster) Run(n Node) error {
	// Up closes it when the node has its network interface.
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(n.Name)); err != nil {
		return err
	}
	if err := c.mounts(n); err != nil {
		return fmt.Errorf("mounts of %s: %w", n.Name, err)
	}
	if err := network(n); err != nil {
		return fmt.Errorf("network of %s: %w", n.Name, err)
	}
	if err := os.Setenv("PATH", c.Bin+":"+os.Getenv("PATH")); err != nil {
		return err
	}
	s := supervisor{cluster: c, node: n, running: map[int]component{}}
	for _, component := range components(c, n) {
		if err := s.start(component); err != nil {
			return fmt.Errorf("start %s: %w", component.name, err)
		}
	}
	return s.run()
}

// mounts makes the node's own view of the machine's files. Mounts are shared
// below it, for a driver's pod mounts volumes with propagation Bidirectional.
func (c Cluster) mounts(n Node) error {
	dir := c.nodeDir(n)
	steps := []struct {
		source, target, kind string
		flags                uintptr
		data                 string
	}{
		{target: "/", flags: unix.MS_PRIVATE | unix.MS_REC},
		{target: "/", flags: unix.MS_SHARED | unix.MS_REC},
		{source: "proc", target: "/proc", kind: "proc"},
		{source: "sysfs", target: "/sys", kind: "sysfs"},
		{source: "cgroup", target: "/sys/fs/cgroup", kind: "tmpfs", data: "mode=755"},
		{source: "tmpfs", target: "/run", kind: "tmpfs", data: "mode=755"},
		{source: filepath.Join(dir, "lib"), target: "/var/lib", flags: unix.MS_BIND},
		{source: filepath.Join(dir, "varlog"), target: "/var/log", flags: unix.MS_BIND},
		{source: c.config("resolv.conf"), target: "/etc/resolv.conf", flags: unix.MS_BIND},
	}
	for _, s := range steps {
		if err := unix.Mount(s.source, s.target, s.kind, s.flags, s.data); err != nil {
			return fmt.Errorf("mount %s: %w", s.target, err)
		}
	}
	for _, controller := range controllers {
		target := "/sys/fs/cgroup/" + controller
		options := controller
		if controller == "systemd" {
			options = "none,name=systemd"
		}
		if err := os.Mkdir(target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount("cgroup", target, "cgroup", 0, options); err != nil {
			return fmt.Errorf("mount %s: %w", target, err)
		}
	}
	for _, made := range []string{"/run/lock", "/run/udev", "/var/lib/kubelet", DriverRoot} {
		if err := os.MkdirAll(made, 0o755); err != nil {
			return err
		}
	}
	return command("mount", "-o", "loop", c.disk(n), DriverRoot)
}

// network gives the node its addresses. The service address of the apiserver is
// simply one of the first node's, so that no kube-proxy is needed.
func network(n Node) error {
	lines := []string{
		"link set lo up",
		"addr add " + n.ip() + "/24 dev eth0",
		"link set eth0 up",
		"route add default via " + hostIP,
	}
	nodes := Nodes(MaxNodes)
	for _, other := range nodes {
		if other != n {
			lines = append(lines, "route add "+other.podNetwork()+" via "+other.ip())
		}
	}
	if n.control() {
		lines = append(lines, "addr add "+serviceIP+"/32 dev lo")
	} else {
		lines = append(lines, "route add "+serviceIP+"/32 via "+nodes[0].ip())
	}
	for _, line := range lines {
		if err := command("ip", strings.Fields(line)...); err != nil {
			return err
		}
	}
	return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644)
}

// command runs a program to its end; its error tells what the program said.
func command(name string, args ...string) error {
	cmd := exec.Command(name, args...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", cmd, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// supervisor starts components and is the parent of all orphans.
type supervisor struct {
	cluster Cluster
	node    Node
	running map[int]component // by process
}

func (s *supervisor) start(c component) error {
	output, err := os.OpenFile(filepath.Join(s.cluster.Logs(s.node), c.name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer output.Close()
	cmd := exec.Command(c.args[0], c.args[1:]...)
	cmd.Stdout, cmd.Stderr = output, output
	if err := cmd.Start(); err != nil {
		return err
	}
	s.running[cmd.Process.Pid] = c
	return nil
}

// run waits for every process that ends. A component is then started again:
// some leave by themselves when they find no apiserver, others a test kills.
func (s *supervisor) run() error {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("no process is left: %w", err)
		}
		c, ours := s.running[pid]
		if !ours {
			continue
		}
		delete(s.running, pid)
		log.Printf("%s left with status %#x and is started again", c.name, int(status))
		time.Sleep(time.Second)
		for c.name == "kubelet" && exists(kubeletStopped) {
			time.Sleep(100 * time.Millisecond)
		}
		if err := s.start(c); err != nil {
			return err
		}
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
