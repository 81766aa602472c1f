package e2e

import (
	"context"
	"errors"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// useAllKinds makes a claim and a pod of each kind, with the kind's name, which
// it also writes to the volume.
func (s space) useAllKinds() {
	s.Helper()
	for _, kind := range allKinds {
		s.claim(kind.name, kind, small, nil)
		s.pod(kind.name, kind)
	}
	for _, kind := range allKinds {
		s.awaitPod(kind.name)
		s.write(kind.name, kind, kind.name)
	}
}

// TestReboot: after the node's reboot every pod has its data, and what was
// snapshotted before can be restored.
func TestReboot(t *testing.T) {
	s := newSpace(t)
	s.useAllKinds()
	expectLeftovers(t)
	for _, kind := range allKinds {
		s.snapshot(kind.name, kind.name, snapshotClass)
		s.awaitSnapshot(kind.name)
	}
	if err := kube.Reboot(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	for _, kind := range allKinds {
		s.awaitRestart(kind.name)
		s.expectText(kind.name, kind, kind.name)
		s.claim("restored-"+kind.name, kind, small, fromSnapshot(kind.name))
		s.pod("restored-"+kind.name, kind)
	}
	for _, kind := range allKinds {
		s.awaitPod("restored-" + kind.name)
		s.expectText("restored-"+kind.name, kind, kind.name)
	}
}

// awaitRestart waits until a pod runs anew: for a while after a reboot the API
// shows the pods as they were before.
func (s space) awaitRestart(name string) {
	s.Helper()
	s.await("pod "+name+" to be started again", func(ctx context.Context) error {
		pod, err := core.CoreV1().Pods(s.name).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if pod.Status.ContainerStatuses[0].RestartCount == 0 {
			return errors.New("it was not restarted")
		}
		return podReady(pod)
	})
}

// TestKubeletKilled: pods run on, and the next kubelet finds every volume.
func TestKubeletKilled(t *testing.T) {
	s := newSpace(t)
	s.useAllKinds()
	if err := kube.Kill(node, "kubelet"); err != nil {
		t.Fatal(err)
	}
	for _, kind := range allKinds {
		s.claim("clone-"+kind.name, kind, small, fromClaim(kind.name))
		s.pod("clone-"+kind.name, kind)
	}
	for _, kind := range allKinds {
		s.awaitPod("clone-" + kind.name)
		s.expectText("clone-"+kind.name, kind, kind.name)
		s.expectText(kind.name, kind, kind.name)
		s.expectNeverRestarted(kind.name)
	}
}

// TestUpgrade: while the driver is replaced, pods keep their volumes.
func TestUpgrade(t *testing.T) {
	s := newSpace(t)
	s.useAllKinds()
	const next = "e2e-next"
	if err := deploy("kind", next); err != nil {
		t.Fatal(err)
	}
	if image := driverPodField(t, "{.items[*].spec.containers[0].image}"); image != driverImage+":"+next {
		t.Errorf("the driver runs %s", image)
	}
	for _, kind := range allKinds {
		s.expectText(kind.name, kind, kind.name)
		s.write(kind.name, kind, "after the upgrade")
		s.snapshot(kind.name, kind.name, snapshotClass)
		s.awaitSnapshot(kind.name)
		s.expectText(kind.name, kind, "after the upgrade")
		s.expectNeverRestarted(kind.name)
	}
}

func (s space) expectNeverRestarted(name string) {
	s.Helper()
	pod, err := core.CoreV1().Pods(s.name).Get(s.Context(), name, metav1.GetOptions{})
	if err != nil {
		s.Fatal(err)
	}
	if n := pod.Status.ContainerStatuses[0].RestartCount; n != 0 {
		s.Errorf("pod %s was restarted %d times", name, n)
	}
}

func driverPodField(t testing.TB, jsonpath string) string {
	t.Helper()
	value, err := kubectl("-n", driverSpace, "get", "pods", "-l", driverLabel, "-o", "jsonpath="+jsonpath)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// TestDriverKilled: the driver is killed in the middle of a snapshot, and again
// in the middle of a restore. Both come to pass, once, and whole.
func TestDriverKilled(t *testing.T) {
	slow := slowSnapshotClass(t)
	for _, way := range []struct {
		name string
		kill func(testing.TB, string)
	}{
		{"process", killDriver},
		{"pod", deletePod},
	} {
		t.Run(way.name, func(t *testing.T) { testDriverKilled(t, slow, way.kill) })
	}
}

func testDriverKilled(t *testing.T, slow string, kill func(t testing.TB, pod string)) {
	s := newSpace(t)
	s.use("data", directoryKind, small, nil)
	want := s.writeNoise("data", 200)

	s.snapshot("snap", "data", slow)
	killAtWork(t, kill)
	s.awaitSnapshot("snap")
	if made := driverFiles(t, node, "snapshots"); len(made) != 1 {
		t.Errorf("there are the snapshots %v, want one", made)
	}

	s.claim("restored", directoryKind, small, fromSnapshot("snap"))
	s.pod("restored", directoryKind)
	killAtWork(t, kill)
	// The kubelet may lose the driver for a while (see the registrar's probe in
	// daemonset.yaml), and then waits longer with each attempt.
	s.awaitPodFor(3*patience, "restored")
	if got := s.checksum("restored"); got != want {
		t.Errorf("restored is %s, want %s", got, want)
	}
	if made := driverFiles(t, node, "volumes"); len(made) != 2 {
		t.Errorf("there are the volumes %v, want two", made)
	}
}

// killAtWork kills the driver as soon as it is building something.
func killAtWork(t testing.TB, kill func(t testing.TB, pod string)) {
	t.Helper()
	pod := driverPodField(t, "{.items[*].metadata.name}")
	awaitWork(t)
	kill(t, pod)
	if len(driverFiles(t, node, "staging")) == 0 {
		t.Fatal("the driver was done before it was killed; the test needs more data")
	}
}

// killDriver leaves the driver no time for anything. The kubelet starts its
// container again.
func killDriver(t testing.TB, _ string) {
	t.Helper()
	if err := kube.Kill(node, "snapdriver"); err != nil {
		t.Fatal(err)
	}
}

// deletePod takes the driver's pod out of the API at once, with all its
// sidecars. The kubelet still tells it to end, and meanwhile starts the next.
func deletePod(t testing.TB, pod string) {
	t.Helper()
	if err := core.CoreV1().Pods(driverSpace).Delete(t.Context(), pod, *metav1.NewDeleteOptions(0)); err != nil {
		t.Fatal(err)
	}
}

// awaitWork returns when the driver is building something.
func awaitWork(t testing.TB) {
	t.Helper()
	for deadline := time.Now().Add(patience); len(driverFiles(t, node, "staging")) == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the driver never built anything")
		}
	}
}
