package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/snapdriver/snapdriver/test/e2e/cluster"
)

const (
	topologyKey  = "topology." + driverName + "/node"
	managedBy    = "snapshot.storage.kubernetes.io/managed-by"
	hostnameName = "kubernetes.io/hostname"
)

// TestTwoNodes gives the cluster a second node and replaces the driver by that
// of the overlay for many nodes.
func TestTwoNodes(t *testing.T) {
	useTwoNodes(t)
	t.Cleanup(func() { expectNothingLeft(t) })
	t.Run("capacity", testCapacity)
	for name, test := range map[string]func(space){
		"placement": testPlacement, "wrong node first": testWrongNode, "growth": testGrowthElsewhere, "import": testImportElsewhere,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(newSpaceBesideOthers(t))
		})
	}
}

// useTwoNodes starts the second node for the time of a test.
func useTwoNodes(t *testing.T) {
	t.Helper()
	ctx := context.Background()
	one, two := nodes, cluster.Nodes(2)
	if err := undeploy(overlayDir("kind")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := errors.Join(undeploy(overlayDir("distributed")), kube.Stop(ctx, two[1]))
		if gone := core.CoreV1().Nodes().Delete(ctx, two[1].Name, metav1.DeleteOptions{}); !apierrors.IsNotFound(gone) {
			err = errors.Join(err, gone)
		}
		nodes = one
		if err = errors.Join(err, deploy("kind", firstTag)); err != nil {
			t.Error(err)
		}
	})
	if err := kube.Start(t.Context(), two[1]); err != nil {
		t.Fatal(err)
	}
	nodes = two
	if err := deploy("distributed", firstTag); err != nil {
		t.Fatal(err)
	}
}

// testCapacity: each node says for each class how much room it has.
func testCapacity(t *testing.T) {
	want := map[string]bool{}
	for _, n := range nodes {
		for _, class := range []string{directoryClass, imageClass, xfsClass} {
			want[n.Name+" "+class] = true
		}
	}
	err := poll(patience, func(ctx context.Context) error {
		list, err := core.StorageV1().CSIStorageCapacities(driverSpace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		missing := map[string]bool{}
		for name := range want {
			missing[name] = true
		}
		for _, c := range list.Items {
			name := c.NodeTopology.MatchLabels[topologyKey] + " " + c.StorageClassName
			if !want[name] || !roomy(c) {
				return fmt.Errorf("%s has %v, at most %v", name, c.Capacity, c.MaximumVolumeSize)
			}
			delete(missing, name)
		}
		if len(missing) > 0 {
			return fmt.Errorf("nothing is said of %v", missing)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// roomy says whether a capacity is that of an empty filesystem of 24 GiB.
func roomy(c storagev1.CSIStorageCapacity) bool {
	const least, most = 20 << 30, 24 << 30
	return c.Capacity != nil && c.Capacity.Value() > least && c.Capacity.Value() < most &&
		c.MaximumVolumeSize != nil && c.MaximumVolumeSize.Value() > least && c.MaximumVolumeSize.Value() < most
}

// testPlacement: on each node the volumes and snapshots of its pods are made, and
// restored and cloned, whatever the scheduler may think, and before it does.
func testPlacement(s space) {
	for _, n := range nodes {
		s.claim(n.Name, directoryKind, small, nil)
		s.createPod(on(n, podWith(n.Name, directoryKind)))
	}
	for _, n := range nodes {
		s.awaitPod(n.Name)
		s.write(n.Name, directoryKind, "of "+n.Name)
		s.expectVolumeOn(n, n.Name)
		s.snapshot(n.Name, n.Name, snapshotClass)
		s.awaitSnapshot(n.Name)
		content := s.contentOf(n.Name)
		if made := driverFiles(s, n, "snapshots"); !slices.Contains(made, *content.Status.SnapshotHandle) {
			s.Errorf("%s is not on %s, which has %v", *content.Status.SnapshotHandle, n.Name, made)
		}
		if label := content.Labels[managedBy]; label != n.Name {
			s.Errorf("the content of the snapshot on %s is managed by %q", n.Name, label)
		}
	}
	for _, n := range nodes {
		s.claim("restored-"+n.Name, directoryKind, small, fromSnapshot(n.Name))
		s.awaitClaim("restored-"+n.Name, func(claim *corev1.PersistentVolumeClaim) bool {
			return claim.Status.Phase == corev1.ClaimBound // without a pod
		})
		s.pod("restored-"+n.Name, directoryKind)
		s.awaitPod("restored-" + n.Name)
		s.expectText("restored-"+n.Name, directoryKind, "of "+n.Name)
		s.expectVolumeOn(n, "restored-"+n.Name)
		s.use("clone-"+n.Name, directoryKind, small, fromClaim(n.Name))
		s.expectText("clone-"+n.Name, directoryKind, "of "+n.Name)
		s.expectVolumeOn(n, "clone-"+n.Name)
	}
}

// testWrongNode: the scheduler has sent a claim to a node that has not the
// snapshot, and would do so again and again.
func testWrongNode(s space) {
	right, wrong := nodes[1], nodes[0]
	s.claim("data", directoryKind, small, nil)
	s.createPod(on(right, podWith("data", directoryKind)))
	s.awaitPod("data")
	s.write("data", directoryKind, "text")
	s.snapshot("snap", "data", snapshotClass)
	s.awaitSnapshot("snap")

	// As when the scheduler was faster than the placer on the right node.
	restored := newClaim("restored", directoryKind, small, fromSnapshot("snap"))
	restored.Annotations = map[string]string{"volume.kubernetes.io/selected-node": wrong.Name}
	s.createClaim(restored)
	s.createPod(preferring(wrong, podWith("restored", directoryKind)))
	s.awaitEvent("restored", "not on this node")
	s.awaitPod("restored")
	s.expectText("restored", directoryKind, "text")
	s.expectVolumeOn(right, "restored")
}

// testGrowthElsewhere: the resizer that is elected has a volume grow that lies on
// another node.
func testGrowthElsewhere(s space) {
	for _, n := range nodes {
		s.claim(n.Name, xfsKind, small, nil)
		s.createPod(on(n, podWith(n.Name, xfsKind)))
	}
	for _, n := range nodes {
		s.awaitPod(n.Name)
		s.kubectl("patch", "pvc", n.Name, "-p", growTo("512Mi"))
	}
	for _, n := range nodes {
		s.awaitClaim(n.Name, func(claim *corev1.PersistentVolumeClaim) bool {
			return claim.Status.Capacity.Storage().String() == "512Mi"
		})
		s.expectSize(n.Name, xfsKind, 512)
	}
}

// testImportElsewhere: a content that was made by hand becomes ready when a label
// says whose it is.
func testImportElsewhere(s space) {
	home := nodes[1]
	s.claim("data", directoryKind, small, nil)
	s.createPod(on(home, podWith("data", directoryKind)))
	s.awaitPod("data")
	s.write("data", directoryKind, "text")
	s.snapshot("kept", "data", retainClass)
	s.awaitSnapshot("kept")
	content := s.contentOf("kept")
	s.kubectl("delete", "volumesnapshot", "kept")
	s.kubectl("delete", "volumesnapshotcontent", content.Name)

	e := &examples{space: s}
	e.applyImport(*content.Status.SnapshotHandle, // as its comment says
		"# labels:", "labels:", "#   "+managedBy, "  "+managedBy, "NODE", home.Name)
	s.awaitSnapshot("data-imported")
	s.claim("imported", directoryKind, "1Gi", fromSnapshot("data-imported"))
	s.createPod(on(home, podWith("imported", directoryKind)))
	s.awaitPod("imported")
	s.expectText("imported", directoryKind, "text")
}

// on lets a pod run on a node only; preferring, rather than on others.
func on(n cluster.Node, pod *corev1.Pod) *corev1.Pod {
	pod.Spec.NodeSelector = map[string]string{hostnameName: n.Name}
	return pod
}

func preferring(n cluster.Node, pod *corev1.Pod) *corev1.Pod {
	pod.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
		PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{{
			Weight: 100,
			Preference: corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{
				{Key: hostnameName, Operator: corev1.NodeSelectorOpIn, Values: []string{n.Name}},
			}},
		}},
	}}
	return pod
}

// expectVolumeOn: the volume of a claim, and its pod, are on a node.
func (s space) expectVolumeOn(n cluster.Node, claim string) {
	s.Helper()
	volume := s.kubectl("get", "pvc", claim, "-o", "jsonpath={.spec.volumeName}")
	handle := s.kubectl("get", "pv", volume, "-o", "jsonpath={.spec.csi.volumeHandle}")
	if made := driverFiles(s, n, "volumes"); !slices.Contains(made, handle) {
		s.Errorf("%s of %s is not on %s, which has %v", handle, claim, n.Name, made)
	}
	if where := s.kubectl("get", "pod", claim, "-o", "jsonpath={.spec.nodeName}"); where != n.Name {
		s.Errorf("%s runs on %s, want %s", claim, where, n.Name)
	}
}
