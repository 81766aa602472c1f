package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// driverSpace is the size of the filesystem at DriverRoot, sparse. An empty image
// volume with xfs takes 64 MiB of it, for xfs's log, and one of Kubernetes' tests
// has as many volumes as the node takes.
const driverSpace = "24G"

// Up starts a cluster with the first count nodes and returns when they are
// ready. After Down(keep) it starts the same cluster again, as after a power
// cut.
func (c Cluster) Up(ctx context.Context, count int) error {
	if err := Missing(); err != nil {
		return err
	}
	if count < 1 || count > MaxNodes {
		return fmt.Errorf("a cluster has 1 to %d nodes, not %d", MaxNodes, count)
	}
	_, err := os.Stat(c.pki(""))
	fresh := errors.Is(err, fs.ErrNotExist)
	if fresh {
		if err := c.prepare(); err != nil {
			return err
		}
	}
	if err := c.reach(); err != nil {
		return err
	}
	for _, n := range Nodes(count) {
		if err := c.Start(ctx, n); err != nil {
			return err
		}
	}
	if !fresh {
		return nil
	}
	return c.Hack("snapshot-controller.sh")
}

// Reboot cuts the power of a cluster's first count nodes and starts them again.
func (c Cluster) Reboot(ctx context.Context, count int) error {
	if err := c.Down(ctx, true); err != nil {
		return err
	}
	return c.Up(ctx, count)
}

// Start starts a node of a cluster that is up, and returns when it is ready. The
// first time it also gives the node its images.
func (c Cluster) Start(ctx context.Context, n Node) error {
	if _, err := os.Stat(c.pidFile(n)); err == nil {
		return fmt.Errorf("%s runs already, or was not taken down: %s exists", n.Name, c.pidFile(n))
	}
	_, err := os.Stat(c.imageStore(n))
	fresh := errors.Is(err, fs.ErrNotExist)
	started := time.Now()
	if err := c.startProcess(n); err != nil {
		return fmt.Errorf("start %s: %w", n.Name, err)
	}
	if fresh {
		if err := poll(ctx, func() error { return c.ImportImages(n, c.Program("images.tar")) }); err != nil {
			return fmt.Errorf("containerd of %s does not work (see %s): %w", n.Name, c.Logs(n), err)
		}
	}
	return c.awaitReady(ctx, n, started)
}

// Hack runs a script of the repository's hack/ with the cluster's kubectl.
func (c Cluster) Hack(script string, args ...string) error {
	cmd := exec.Command(filepath.Join(c.Root, "hack", script), args...)
	cmd.Env = append(os.Environ(), c.environment()...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", cmd, err, out)
	}
	return nil
}

// prepare writes all that outlives a reboot, for as many nodes as there may be.
func (c Cluster) prepare() error {
	nodes := Nodes(MaxNodes)
	for _, n := range nodes {
		for _, dir := range []string{"lib", "varlog/pods", "varlog/containers", "log"} {
			if err := os.MkdirAll(filepath.Join(c.nodeDir(n), dir), 0o755); err != nil {
				return err
			}
		}
		if err := command("mkfs.xfs", "-q", "-d", "file,name="+c.disk(n)+",size="+driverSpace); err != nil {
			return err
		}
	}
	if err := c.writeConfig(nodes); err != nil {
		return err
	}
	return c.writePKI(nodes)
}

// reach makes what a cluster has outside its namespaces.
func (c Cluster) reach() error {
	if err := c.saveSysctls(); err != nil {
		return err
	}
	if err := command("ip", "link", "add", bridge, "type", "bridge"); err != nil {
		return err
	}
	if err := command("ip", "addr", "add", hostIP+"/24", "dev", bridge); err != nil {
		return err
	}
	return command("ip", "link", "set", bridge, "up")
}

// startProcess starts the first process of a node, in cgroups of the node's own,
// and connects it to the bridge.
func (c Cluster) startProcess(n Node) error {
	output, err := os.OpenFile(filepath.Join(c.Logs(n), "init.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer output.Close()
	gate, release, err := os.Pipe()
	if err != nil {
		return err
	}
	defer gate.Close()
	cmd := exec.Command(c.Program("cluster"), "-root", c.Root, "run", n.Name)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = gate, output, output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET |
		syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC | syscall.CLONE_NEWPID | syscall.CLONE_NEWCGROUP}
	var pid string
	err = c.inCgroups(n, func() error {
		if err := cmd.Start(); err != nil {
			return err
		}
		// Should this process still be there when the node ends, it is the parent.
		go func() { _ = cmd.Wait() }()
		pid = fmt.Sprint(cmd.Process.Pid)
		return os.WriteFile(c.pidFile(n), []byte(pid), 0o644)
	})
	if err != nil {
		return err
	}
	for _, line := range []string{
		"link add " + n.hostLink() + " type veth peer name eth0 netns " + pid,
		"link set " + n.hostLink() + " master " + bridge,
		"link set " + n.hostLink() + " up",
	} {
		if err := command("ip", strings.Fields(line)...); err != nil {
			return err
		}
	}
	return release.Close()
}

// awaitReady returns when a node that was started then is ready anew.
func (c Cluster) awaitReady(ctx context.Context, n Node, started time.Time) error {
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig())
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	if err := poll(ctx, func() error { return ready(ctx, client, n, started) }); err != nil {
		return fmt.Errorf("%s (its log files are in %s): %w", n.Name, c.Logs(n), err)
	}
	log.Printf("%s is ready", n.Name)
	return nil
}

// ready says why a node is not ready. What its kubelet reported before the node
// was started, hence before a reboot, does not count.
func ready(ctx context.Context, client kubernetes.Interface, n Node, started time.Time) error {
	node, err := client.CoreV1().Nodes().Get(ctx, n.Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	for _, condition := range node.Status.Conditions {
		if condition.Type != corev1.NodeReady {
			continue
		}
		if condition.Status != corev1.ConditionTrue {
			return errors.New(condition.Message)
		}
		if condition.LastHeartbeatTime.Time.Before(started.Truncate(time.Second)) { // it has no fractions
			return errors.New("its kubelet has not reported yet")
		}
		return nil
	}
	return errors.New("its kubelet has never reported")
}

// poll repeats until try succeeds, or returns its last error after two minutes.
func poll(ctx context.Context, try func() error) error {
	last := errors.New("never tried")
	err := wait.PollUntilContextTimeout(ctx, 200*time.Millisecond, 2*time.Minute, true, func(context.Context) (bool, error) {
		last = try()
		return last == nil, nil
	})
	if err != nil {
		return fmt.Errorf("%w, last: %w", err, last)
	}
	return nil
}
