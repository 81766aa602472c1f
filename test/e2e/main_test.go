// Package e2e tests the driver as users meet it: the manifests of deploy/ on a
// real Kubernetes cluster (see package cluster), with the real sidecars, the
// examples of examples/, and what nodes, drivers and users do to them.
//
// It is a module of its own: Kubernetes itself is among its requirements, which
// the driver's go.mod shall not have.
package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	snapshots "github.com/kubernetes-csi/external-snapshotter/client/v8/clientset/versioned"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/snapdriver/snapdriver/test/e2e/cluster"
)

const repository = "../.."

var (
	keep = flag.Bool("keep", false, "leave the cluster running")
	use  = flag.Bool("use", false, "use the cluster that -keep has left, with the driver as it is")
)

// The one cluster that all tests use, one after the other.
var (
	kube  cluster.Cluster
	node  = cluster.Nodes(1)[0]
	nodes = cluster.Nodes(1) // those that run
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
func withCluster(m *testing.M) (code int) {
	root, err := filepath.Abs(repository)
	if err == nil {
		kube, err = cluster.Default(root)
	}
	if err != nil {
		log.Print(err)
		return 1
	}
	log.Print("waiting until no other test has the cluster")
	lock, err := kube.Lock()
	if err != nil {
		log.Print(err)
		return 1
	}
	defer lock.Close()
	if !*keep {
		takeDownOnInterrupt()
		defer func() {
			if !takeDown() {
				code = 1
			}
		}()
	}
	if err := start(context.Background()); err != nil {
		log.Print("making the cluster: ", err)
		return 1
	}
	if code = m.Run(); code == 0 && !*use { // an earlier run may have undeployed the driver
		if err := checkRights(allTestsRan()); err != nil {
			log.Print("rights: ", err)
			code = 1
		}
	}
	return code
}

// allTestsRan says whether no test was left out by a flag.
func allTestsRan() bool {
	return flag.Lookup("test.run").Value.String() == "" && flag.Lookup("test.skip").Value.String() == ""
}

func takeDown() bool {
	err := kube.Down(context.Background(), false)
	if err != nil {
		log.Print("taking the cluster down: ", err)
	}
	return err == nil
}

func takeDownOnInterrupt() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		log.Printf("%v: taking the cluster down", <-signals)
		takeDown()
		os.Exit(1)
	}()
}

func start(ctx context.Context) error {
	if *use {
		return connect()
	}
	if !takeDown() { // that of an earlier run
		return errors.New("an earlier one is still there")
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
	if err := deploy("kind", firstTag); err != nil {
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
