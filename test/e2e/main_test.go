// Package e2e tests the driver as users meet it: the manifests of deploy/ on a
// real Kubernetes cluster (see package cluster), with the real sidecars, the
// examples of examples/, and what nodes, drivers and users do to them.
//
// It is a module of its own: Kubernetes itself is among its requirements, which
// the driver's go.mod shall not have.
package e2e

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	snapshots "github.com/kubernetes-csi/external-snapshotter/client/v8/clientset/versioned"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/snapdriver/snapdriver/test/e2e/cluster"
)

const (
	repository  = "../.."
	driverName  = "csi.snapdriver.dev"
	driverSpace = "snapdriver" // the namespace of the overlay
	driverImage = "ghcr.io/snapdriver/snapdriver"
	firstTag    = "e2e"
)

var (
	keep = flag.Bool("keep", false, "leave the cluster running")
	use  = flag.Bool("use", false, "use the cluster that -keep has left, with the driver as it is")
)

// The one cluster that all tests use, one after the other.
var (
	kube  cluster.Cluster
	node  = cluster.Nodes(1)[0]
	core  kubernetes.Interface
	snaps snapshots.Interface
)

func TestMain(m *testing.M) {
	flag.Parse()
	log.SetFlags(log.Ltime)
	if err := cluster.Missing(); err != nil {
		fmt.Println("no test of this package runs:", err)
		if os.Getenv("SNAPDRIVER_REQUIRE_ALL") == "1" {
			os.Exit(1)
		}
		return
	}
	os.Exit(withCluster(m))
}

// withCluster runs the tests on a fresh cluster with the driver deployed.
func withCluster(m *testing.M) int {
	err := start(context.Background())
	if !*keep {
		defer func() {
			if err := kube.Down(context.Background(), false); err != nil {
				log.Print("taking the cluster down: ", err)
			}
		}()
	}
	if err != nil {
		log.Print("making the cluster: ", err)
		return 1
	}
	return m.Run()
}

func start(ctx context.Context) error {
	root, err := filepath.Abs(repository)
	if err != nil {
		return err
	}
	if kube, err = cluster.Default(root); err != nil {
		return err
	}
	if *use {
		return connect()
	}
	if err := kube.Down(ctx, false); err != nil { // of an earlier run
		return err
	}
	log.Print("building the cluster's programs")
	if err := kube.Build(); err != nil {
		return err
	}
	if err := kube.Up(ctx, 1); err != nil {
		return err
	}
	if err := connect(); err != nil {
		return err
	}
	if err := deploy(firstTag); err != nil {
		return err
	}
	return makeXFSClass(ctx)
}

func connect() error {
	config, err := clientcmd.BuildConfigFromFlags("", kube.Kubeconfig())
	if err != nil {
		return err
	}
	config.QPS = -1 // no limit
	if core, err = kubernetes.NewForConfig(config); err != nil {
		return err
	}
	snaps, err = snapshots.NewForConfig(config)
	return err
}

// deploy installs the driver as a user does, with make deploy's script and the
// shipped manifests, but for an image of these sources, under a tag, and the
// newest provisioner that can be built from modules.
func deploy(tag string) error {
	if err := kube.LoadDriver([]cluster.Node{node}, driverImage+":"+tag); err != nil {
		return err
	}
	overlay := filepath.Join(kube.Dir, "overlay")
	if err := writeOverlay(overlay, tag); err != nil {
		return err
	}
	return kube.Hack("deploy.sh", "up", overlay)
}

// writeOverlay makes a kustomization on top of the shipped one.
func writeOverlay(dir, tag string) error {
	shipped := filepath.Join(kube.Root, "deploy", "overlays", "kind")
	base, err := filepath.Rel(dir, shipped)
	if err != nil {
		return err
	}
	settings, err := os.ReadFile(filepath.Join(shipped, "settings.yaml")) // the script reads it
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "settings.yaml"), settings, 0o644); err != nil {
		return err
	}
	content := fmt.Sprintf(`apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [%s]
images:
- {name: %s, newTag: %s}
- {name: registry.k8s.io/sig-storage/csi-provisioner, newTag: v6.3.0}
`, base, driverImage, tag)
	return os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(content), 0o644)
}

// kubectl runs kubectl as the administrator and returns what it printed.
func kubectl(args ...string) (string, error) {
	cmd := exec.Command(kube.Program("kubectl"), append([]string{"--kubeconfig", kube.Kubeconfig()}, args...)...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return strings.TrimSpace(string(out)), err
}
