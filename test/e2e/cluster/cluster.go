// Package cluster makes a real Kubernetes cluster on this machine, without a
// container engine, a registry or a virtual machine: etcd, kube-apiserver,
// kube-controller-manager, kube-scheduler, kubelet and the CSI sidecars are
// built from the modules that go.mod pins; containerd and runc are the
// machine's own.
//
// Each node runs in mount, network, PID, UTS, IPC and cgroup namespaces of its
// own. Its /var/lib, /var/log and /run are its own too, the first two below the
// cluster's directory; /dev and the rest of / are the machine's. The first
// process of these namespaces (see [Node.Run]) holds everything: when it is
// killed, processes, mounts and addresses go with it. What reaches beyond is a
// network bridge, loop devices and some sysctls of the kubelet's, which Down
// takes back.
//
// There is neither kube-proxy nor DNS: no service but "kubernetes" works.
package cluster

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Cluster says where a cluster lies. It holds no other state, so that any
// process may ask about the same cluster.
type Cluster struct {
	// Dir is for everything that the cluster writes, its nodes' disks too.
	Dir string
	// Bin holds what Build makes; it outlives clusters and is shared by them.
	Bin string
	// Root is the repository.
	Root string
}

// Default is the one cluster of this machine. SNAPDRIVER_E2E_DIR names another
// place for it; what is there already is not touched.
func Default(root string) (Cluster, error) {
	cache, err := os.UserCacheDir() // XDG_CACHE_HOME
	if err != nil {
		return Cluster{}, err
	}
	place := "/var/tmp"
	if dir := os.Getenv("SNAPDRIVER_E2E_DIR"); dir != "" {
		if place, err = filepath.Abs(dir); err != nil {
			return Cluster{}, err
		}
	}
	const name = "snapdriver-e2e" // Down removes the directory of that name
	return Cluster{Dir: filepath.Join(place, name), Bin: filepath.Join(cache, name), Root: root}, nil
}

// Lock waits until no other process has the cluster for itself, and takes it.
// Closing what it returns, or the end of this process, gives it free.
func (c Cluster) Lock() (io.Closer, error) {
	file, err := os.OpenFile(c.Dir+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(file.Fd()), unix.LOCK_EX)
	for errors.Is(err, unix.EINTR) {
		err = unix.Flock(int(file.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", file.Name(), err), file.Close())
	}
	return file, nil
}

// Kubeconfig is the file that makes kubectl the administrator, from anywhere on
// this machine.
func (c Cluster) Kubeconfig() string { return c.pki("admin.kubeconfig") }

// Logs is the directory of the log files of a node's components.
func (c Cluster) Logs(n Node) string { return filepath.Join(c.nodeDir(n), "log") }

// AuditLog is the file in which the apiserver notes each request of a pod: one
// event of audit.k8s.io/v1 a line.
func (c Cluster) AuditLog() string { return filepath.Join(c.Logs(Nodes(1)[0]), "audit.log") }

// Program is the path of a program that Build has made.
func (c Cluster) Program(name string) string { return filepath.Join(c.Bin, name) }

func (c Cluster) pki(name string) string    { return filepath.Join(c.Dir, "pki", name) }
func (c Cluster) nodeDir(n Node) string     { return filepath.Join(c.Dir, n.Name) }
func (c Cluster) imageStore(n Node) string  { return filepath.Join(c.nodeDir(n), "containerd") }
func (c Cluster) disk(n Node) string        { return filepath.Join(c.nodeDir(n), "driver.img") }
func (c Cluster) config(name string) string { return filepath.Join(c.Dir, "config", name) }

// programs of this machine that a cluster needs, and the packages they are in.
var programs = map[string]string{
	"containerd": "containerd", "ctr": "containerd", "runc": "runc", "busybox": "busybox-static",
	"/usr/lib/cni/bridge": "containernetworking-plugins", "ip": "iproute2", "nsenter": "util-linux",
	"losetup": "mount", "mkfs.xfs": "xfsprogs",
}

// Missing says why this machine cannot have a cluster: nil when it can.
func Missing() error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("a cluster needs root, for namespaces and mounts")
	}
	for program, pkg := range programs {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("a cluster needs %s: install the package %s (hack/setup.sh does)", program, pkg)
		}
	}
	if _, err := os.Stat("/sys/fs/cgroup/memory/cgroup.procs"); err != nil {
		return fmt.Errorf("a cluster of this kind needs the cgroup v1 hierarchies (hack/kind.sh does not): %w", err)
	}
	return nil
}
