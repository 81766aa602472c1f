package cluster

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// The packages that are built, by the module that gives them their version.
// go.mod names them as tools, which keeps the modules in it.
const (
	kubeModule  = "k8s.io/kubernetes"
	provisioner = "github.com/kubernetes-csi/external-provisioner/v6"
	snapshotter = "github.com/kubernetes-csi/external-snapshotter/v8"
	resizer     = "github.com/kubernetes-csi/external-resizer/v2"
)

var packages = []string{
	kubeModule + "/cmd/kube-apiserver",
	kubeModule + "/cmd/kube-controller-manager",
	kubeModule + "/cmd/kube-scheduler",
	kubeModule + "/cmd/kubelet",
	kubeModule + "/cmd/kubectl",
	kubeModule + "/test/images/agnhost",
	provisioner + "/cmd/csi-provisioner",
	snapshotter + "/cmd/csi-snapshotter",
	snapshotter + "/cmd/snapshot-controller",
	resizer + "/cmd/csi-resizer",
	"github.com/onsi/ginkgo/v2/ginkgo",
	"./standin/pause",
	"./standin/csi-node-driver-registrar",
	"./standin/livenessprobe",
	"./cmd/cluster",
}

// Build makes all programs and the archive of images that a cluster starts
// with. Cold it takes minutes; warm, Go's cache makes it seconds.
func (c Cluster) Build() error {
	if err := os.MkdirAll(c.Bin, 0o755); err != nil {
		return err
	}
	versions, err := c.versions(kubeModule, provisioner, snapshotter, resizer)
	if err != nil {
		return err
	}
	flags := ldflags(versions)
	if err := c.goTool(append(append([]string{"build", "-o", c.Bin + "/"}, flags...), packages...)...); err != nil {
		return err
	}
	// Its package would give etcd the name "server".
	if err := c.goTool("build", "-ldflags=-s -w", "-o", c.Program("etcd"), "go.etcd.io/etcd/server/v3"); err != nil {
		return err
	}
	if err := c.goTool(append(append([]string{"test", "-c", "-o", c.Program("external.test")}, flags...), "./external")...); err != nil {
		return err
	}
	gnu, err := c.machinePrograms("gnu-image", "dd", "dash")
	if err != nil {
		return err
	}
	return writeArchive(c.Program("images.tar"), images(c.Bin, versions, gnu))
}

// versions asks Go which version of each module go.mod selects.
func (c Cluster) versions(modules ...string) (map[string]string, error) {
	out, err := c.goList(append([]string{"-f", "{{.Path}} {{.Version}}"}, modules...)...)
	if err != nil {
		return nil, err
	}
	versions := map[string]string{}
	for line := range strings.Lines(out) {
		if module, version, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			versions[module] = version
		}
	}
	return versions, nil
}

// ldflags makes each program know its version. Without it the parts of
// Kubernetes call themselves v0.0.0, which kubectl and the suites take amiss.
func ldflags(versions map[string]string) []string {
	kube := versions[kubeModule]
	major, minor, _ := strings.Cut(strings.TrimPrefix(kube, "v"), ".")
	minor, _, _ = strings.Cut(minor, ".")
	const version = "-X k8s.io/component-base/version.git"
	flags := []string{fmt.Sprintf("-ldflags=-s -w %[1]sVersion=%[2]s %[1]sMajor=%[3]s %[1]sMinor=%[4]s", version, kube, major, minor)}
	for _, sidecar := range []string{provisioner, snapshotter, resizer} {
		flags = append(flags, fmt.Sprintf("-ldflags=%s/...=-s -w -X main.version=%s", sidecar, versions[sidecar]))
	}
	return flags
}

func (c Cluster) goList(args ...string) (string, error) {
	out, err := c.goCommand(append([]string{"list", "-m"}, args...)...).Output()
	return strings.TrimSpace(string(out)), err
}

func (c Cluster) goTool(args ...string) error {
	cmd := c.goCommand(args...)
	cmd.Stdout = os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", cmd, err)
	}
	return nil
}

// goCommand runs in the module of this package. The nodes' programs are static,
// so that they run in images that have nothing else.
func (c Cluster) goCommand(args ...string) *exec.Cmd {
	if args[0] != "list" {
		args = append([]string{args[0], "-trimpath"}, args[1:]...)
	}
	cmd := exec.Command("go", args...)
	cmd.Dir = filepath.Join(c.Root, "test", "e2e")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.Stderr = os.Stderr
	return cmd
}
