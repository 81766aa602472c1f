package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const (
	driverName  = "csi.snapdriver.dev"
	driverSpace = "snapdriver" // the namespace of the overlays
	driverImage = "ghcr.io/snapdriver/snapdriver"
	driverLabel = "app.kubernetes.io/name=snapdriver"
	firstTag    = "e2e"
)

// volumeLimit is how many volumes the driver says that a node takes: a few more
// than TestHundred has. Those of Kubernetes' tests that are about such a limit
// use all of it.
const volumeLimit = 210

// deploy installs the driver as a user does, with make deploy's script and a
// shipped overlay, but for an image of these sources, under a tag, the newest
// provisioner that can be built from modules, and the limit of volumes.
func deploy(overlay, tag string) error {
	if err := kube.LoadDriver(nodes, driverImage+":"+tag); err != nil {
		return err
	}
	shipped := filepath.Join(kube.Root, "deploy", "overlays", overlay)
	if err := writeOverlay(overlayDir(overlay), shipped, tag); err != nil {
		return err
	}
	return kube.Hack("deploy.sh", "up", overlayDir(overlay))
}

// period is a time in which the driver is being taken away.
type period struct{ from, to time.Time }

var undeployments []period

// undeploy takes the driver away as a user does, by the directory of what was
// deployed.
func undeploy(dir string) error {
	from := time.Now()
	err := kube.Hack("deploy.sh", "down", dir)
	undeployments = append(undeployments, period{from, time.Now()})
	return err
}

func overlayDir(overlay string) string { return filepath.Join(kube.Dir, "overlays", overlay) }

// writeOverlay makes a kustomization in dir on top of another.
func writeOverlay(dir, base, tag string) error {
	relative, err := filepath.Rel(dir, base)
	if err != nil {
		return err
	}
	settings, err := os.ReadFile(filepath.Join(base, "settings.yaml")) // the script reads it
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
patches:
- target: {kind: DaemonSet}
  patch: |-
    - {op: test, path: /spec/template/spec/containers/0/name, value: driver}
    - {op: add, path: /spec/template/spec/containers/0/args/-, value: --max-volumes-per-node=%d}
`, relative, driverImage, tag, volumeLimit)
	return os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(content), 0o644)
}

// TestUndeploy: the driver is not taken away while anybody needs it, and then
// leaves nothing but what others need.
func TestUndeploy(t *testing.T) {
	t.Run("in use", func(t *testing.T) {
		s := newSpace(t)
		s.use("data", directoryKind, small, nil)
		s.snapshot("snap", "data", snapshotClass)
		s.awaitSnapshot("snap")
		err := undeploy(overlayDir("kind"))
		if err == nil {
			t.Fatal("the driver was taken away from a volume in use")
		}
		for _, part := range []string{"PersistentVolume ", s.name + "/data", "VolumeSnapshotContent ", s.name + "/snap"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("what is left is not said: no %q in %v", part, err)
			}
		}
	})
	t.Cleanup(func() {
		if err := deploy("kind", firstTag); err != nil {
			t.Error(err)
		}
	})
	if err := undeploy(overlayDir("kind")); err != nil {
		t.Fatal(err)
	}
	left, err := kubectl("get", "namespaces,csidrivers,storageclasses,volumesnapshotclasses,clusterroles,clusterrolebindings", "-o", "name")
	if err != nil {
		t.Fatal(err)
	}
	for name := range strings.Lines(left) {
		if strings.Contains(name, "snapdriver") {
			t.Errorf("%s is still there", name)
		}
	}
	if _, err := kubectl("get", "volumesnapshots", "-A"); err != nil {
		t.Errorf("the CRDs are gone: %v", err)
	}
	t.Run("deployed elsewhere", testDeployElsewhere)
}

// testDeployElsewhere: in a namespace that the user has for other things, too,
// and with an image that does not exist at first.
func testDeployElsewhere(t *testing.T) {
	expectForeignNamespaceKept(t, "elsewhere")
	copied := filepath.Join(t.TempDir(), "deploy")
	if err := os.CopyFS(copied, os.DirFS(filepath.Join(repository, "deploy"))); err != nil {
		t.Fatal(err)
	}
	shipped, dir := filepath.Join(copied, "overlays", "kind"), filepath.Join(t.TempDir(), "overlay")
	settings := filepath.Join(shipped, "settings.yaml")
	content, err := os.ReadFile(settings)
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := strings.Replace(string(content), "namespace: snapdriver\n", "namespace: elsewhere\n", 1)
	if err := os.WriteFile(settings, []byte(elsewhere), 0o644); err != nil {
		t.Fatal(err)
	}

	if err := writeOverlay(dir, shipped, "no-such-image"); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TIMEOUT", "15s")
	err = kube.Hack("deploy.sh", "up", dir)
	if err == nil || !strings.Contains(err.Error(), "container driver of ") || !strings.Contains(err.Error(), "no-such-image") {
		t.Errorf("the script says nothing of the container without an image: %v", err)
	}

	t.Setenv("TIMEOUT", "3m")
	if err := writeOverlay(dir, shipped, firstTag); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := undeploy(dir); err != nil {
			t.Error(err)
		}
	})
	if err := kube.Hack("deploy.sh", "up", dir); err != nil {
		t.Fatal(err)
	}
	s := newSpace(t)
	s.use("data", directoryKind, small, nil)
	s.snapshot("snap", "data", snapshotClass)
	s.awaitSnapshot("snap")
}

// expectForeignNamespaceKept makes a namespace and, at the end of the test, wants
// to find it as it was.
func expectForeignNamespaceKept(t *testing.T, name string) {
	t.Helper()
	if _, err := kubectl("create", "namespace", name); err != nil {
		t.Fatal(err)
	}
	labels := func() string {
		text, err := kubectl("get", "namespace", name, "-o", "jsonpath={.metadata.labels}")
		if err != nil {
			t.Error(err)
		}
		return text
	}
	before := labels()
	t.Cleanup(func() {
		if after := labels(); after != before {
			t.Errorf("the labels of the namespace %s were %s and are %s", name, before, after)
		}
		if _, err := kubectl("delete", "namespace", name, "--ignore-not-found"); err != nil {
			t.Error(err)
		}
	})
}

// TestManifestsAreAccepted: the apiserver takes what no other test applies.
func TestManifestsAreAccepted(t *testing.T) {
	overlays, err := filepath.Glob(filepath.Join(kube.Root, "deploy", "overlays", "*"))
	if err != nil || len(overlays) == 0 {
		t.Fatalf("no overlays: %v", err)
	}
	for _, dir := range append(overlays, filepath.Join(kube.Root, "deploy", "snapshot-controller")) {
		// A namespace that is not there takes nothing, not even for a try.
		out, err := kubectl("kustomize", dir)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "all.yaml")
		if err := os.WriteFile(file, []byte(strings.ReplaceAll(out, "namespace: snapdriver-lvm", "namespace: default")), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := kubectl("apply", "--dry-run=server", "--validate=strict", "-f", file); err != nil {
			t.Error(err)
		}
	}
}
