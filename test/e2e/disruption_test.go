package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/snapdriver/snapdriver/test/e2e/cluster"
)

// writers makes a claim and a pod of each kind, and writes its name to each.
func (s space) writers() []kindOfVolume {
	s.Helper()
	kinds := []kindOfVolume{directoryKind, imageKind, xfsKind, blockKind}
	for _, kind := range kinds {
		s.claim(kind.name, kind, small, nil)
		s.pod(kind.name, kind.name, kind)
	}
	for _, kind := range kinds {
		s.awaitPod(kind.name)
		s.write(kind.name, kind, kind.name)
	}
	return kinds
}

// TestReboot: after the node's reboot every pod has its data, and what was
// snapshotted before can be restored.
func TestReboot(t *testing.T) {
	s := newSpace(t)
	kinds := s.writers()
	for _, kind := range kinds {
		s.snapshot(kind.name, kind.name, snapshotClass)
		s.awaitSnapshot(kind.name)
	}
	if err := kube.Reboot(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	for _, kind := range kinds {
		s.awaitRestart(kind.name)
		s.expectText(kind.name, kind, kind.name)
		s.claim(kind.name+"-restored", kind, small, fromSnapshot(kind.name))
		s.pod(kind.name+"-restored", kind.name+"-restored", kind)
	}
	for _, kind := range kinds {
		s.awaitPod(kind.name + "-restored")
		s.expectText(kind.name+"-restored", kind, kind.name)
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
	kinds := s.writers()
	if err := kube.KillKubelet(node); err != nil {
		t.Fatal(err)
	}
	for _, kind := range kinds {
		s.claim(kind.name+"-clone", kind, small, fromClaim(kind.name))
		s.pod(kind.name+"-clone", kind.name+"-clone", kind)
	}
	for _, kind := range kinds {
		s.awaitPod(kind.name + "-clone")
		s.expectText(kind.name+"-clone", kind, kind.name)
	}
	s.expectNeverRestarted(kinds)
}

// TestUpgrade: while the driver is replaced, pods keep their volumes.
func TestUpgrade(t *testing.T) {
	const next = "e2e-next"
	s := newSpace(t)
	kinds := s.writers()
	if err := deploy(next); err != nil {
		t.Fatal(err)
	}
	if image := driverPodField(t, "{.items[*].spec.containers[0].image}"); image != driverImage+":"+next {
		t.Errorf("the driver runs %s", image)
	}
	for _, kind := range kinds {
		s.write(kind.name, kind, "after the upgrade")
		s.snapshot(kind.name, kind.name, snapshotClass)
		s.awaitSnapshot(kind.name)
		s.expectText(kind.name, kind, "after the upgrade")
	}
	s.expectNeverRestarted(kinds)
}

func (s space) expectNeverRestarted(kinds []kindOfVolume) {
	s.Helper()
	for _, kind := range kinds {
		pod, err := core.CoreV1().Pods(s.name).Get(s.Context(), kind.name, metav1.GetOptions{})
		if err != nil {
			s.Fatal(err)
		}
		if n := pod.Status.ContainerStatuses[0].RestartCount; n != 0 {
			s.Errorf("pod %s was restarted %d times", kind.name, n)
		}
		s.read(kind.name, kind)
	}
}

func driverPodField(t testing.TB, jsonpath string) string {
	t.Helper()
	value, err := kubectl("-n", driverSpace, "get", "pods", "-l", "app.kubernetes.io/name=snapdriver", "-o", "jsonpath="+jsonpath)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// TestDriverKilled: the driver is killed in the middle of a snapshot, and again
// in the middle of a restore. Both come to pass, once, and whole.
func TestDriverKilled(t *testing.T) {
	slow := slowSnapshotClass(t)
	s := newSpace(t)
	s.claim("data", directoryKind, small, nil)
	s.pod("app", "data", directoryKind)
	s.awaitPod("app")
	s.sh("app", "dd if=/dev/urandom of=/data/noise bs=1M count=200 2>/dev/null; sync")
	want := s.sh("app", "sha256sum </data/noise")

	s.snapshot("snap", "data", slow)
	killAtWork(t)
	s.awaitSnapshot("snap")
	if made := driverFiles(t, "snapshots"); len(made) != 1 {
		t.Errorf("there are the snapshots %v, want one", made)
	}

	s.claim("restored", directoryKind, small, fromSnapshot("snap"))
	s.pod("reader", "restored", directoryKind)
	killAtWork(t)
	s.awaitPod("reader")
	if got := s.sh("reader", "sha256sum </data/noise"); got != want {
		t.Errorf("restored is %s, want %s", got, want)
	}
	if made := driverFiles(t, "volumes"); len(made) != 2 {
		t.Errorf("there are the volumes %v, want two", made)
	}
}

// killAtWork kills the driver as soon as it is building something.
func killAtWork(t testing.TB) {
	t.Helper()
	container := strings.TrimPrefix(driverPodField(t, "{.items[0].status.containerStatuses[?(@.name=='driver')].containerID}"), "containerd://")
	for limit := t.Context(); len(driverFiles(t, "staging")) == 0; {
		if limit.Err() != nil {
			t.Fatal("the driver never built anything")
		}
	}
	cmd, err := kube.Command(node, "ctr", "tasks", "kill", "--signal", "SIGKILL", container)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", cmd, err, out)
	}
	if len(driverFiles(t, "staging")) == 0 {
		t.Fatal("the driver was done before it was killed; the test needs more data")
	}
}

// driverFiles lists a directory of the driver's root.
func driverFiles(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(driverRoot(t), dir))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

// driverRoot is the driver's root directory as this process sees it.
func driverRoot(t testing.TB) string {
	t.Helper()
	pid, err := kube.Pid(node)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("/proc/%d/root%s", pid, cluster.DriverRoot)
}
