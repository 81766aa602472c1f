package e2e

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestWalk is what everybody does first, with each kind of volume: claim, pod,
// snapshot, a change after it, restore, pod.
func TestWalk(t *testing.T) {
	eachKind(t, func(s space, kind kindOfVolume) {
		s.use("data", kind, small, nil)
		s.write("data", kind, "before")

		s.snapshot("snap", "data", snapshotClass)
		snapshot := s.awaitSnapshot("snap")
		if size := snapshot.Status.RestoreSize; size == nil || size.String() != small {
			s.Errorf("restoreSize is %v, want %s: the same manifest must restore", size, small)
		}
		if snapshot.Status.CreationTime.IsZero() {
			s.Error("the snapshot has no creation time")
		}
		s.write("data", kind, "after")

		s.use("restored", kind, small, fromSnapshot("snap"))
		s.expectText("restored", kind, "before")
		s.expectText("data", kind, "after")
		s.logStart("restored")
	})
}

// logStart shows how a pod came to its volume: by which kubelet, and which
// mounts that made.
func (s space) logStart(name string) {
	s.Helper()
	s.Log(s.kubectl("get", "nodes", "-o", "wide"))
	s.Log(s.kubectl("get", "events", "--field-selector", "involvedObject.name="+name))
	volume := s.kubectl("get", "pvc", name, "-o", "jsonpath={.spec.volumeName}")
	mounts, err := mountsWith(node, volume)
	if err != nil || len(mounts) == 0 {
		s.Errorf("the node has no mount of %s: %v", volume, err)
	}
	s.Log(strings.Join(mounts, "\n"))
}

// TestClone makes a claim from another one that is in use.
func TestClone(t *testing.T) {
	eachKind(t, func(s space, kind kindOfVolume) {
		s.use("data", kind, small, nil)
		s.write("data", kind, "before")
		s.use("clone", kind, small, fromClaim("data"))
		s.write("data", kind, "after")
		s.expectText("clone", kind, "before")
		s.expectText("data", kind, "after")
	})
}

// TestRefusals: what cannot be is said where the user looks, in an event.
func TestRefusals(t *testing.T) {
	s := newSpace(t)
	s.use("data", imageKind, small, nil)
	s.snapshot("snap", "data", snapshotClass)
	s.awaitSnapshot("snap")

	for _, refused := range []struct {
		claim  string
		kind   kindOfVolume
		size   string
		source string
		event  string
	}{
		{"smaller", imageKind, "200Mi", "snap", "less than the size"},
		{"other", blockKind, small, "snap", "modifies the mode of the source volume"}, // the provisioner's own words
		{"nothing", imageKind, small, "no-such", "no-such"},
	} {
		s.claim(refused.claim, refused.kind, refused.size, fromSnapshot(refused.source))
		s.pod(refused.claim, refused.kind)
		s.awaitEvent(refused.claim, refused.event)
	}
}

// TestGrow restores in a larger size and lets a volume in use grow.
func TestGrow(t *testing.T) {
	eachKind(t, func(s space, kind kindOfVolume) {
		s.use("data", kind, small, nil)
		s.write("data", kind, "kept")
		s.snapshot("snap", "data", snapshotClass)
		s.awaitSnapshot("snap")

		s.use("larger", kind, "512Mi", fromSnapshot("snap"))
		s.expectText("larger", kind, "kept")
		s.expectSize("larger", kind, 512)

		s.kubectl("patch", "pvc", "data", "-p", growTo("1Gi"))
		if kind == imageKind && !maySetResources(s) {
			s.awaitClaim("data", func(claim *corev1.PersistentVolumeClaim) bool {
				return slices.ContainsFunc(claim.Status.Conditions, func(c corev1.PersistentVolumeClaimCondition) bool {
					return c.Type == corev1.PersistentVolumeClaimFileSystemResizePending
				})
			})
			// As that condition says; but a kubelet that finds the next pod at once
			// does not stage the volume anew.
			s.kubectl("delete", "pod", "data", "larger")
			s.await("no mount of it", s.unmounted)
			s.pod("data", kind)
			s.awaitPod("data")
		}
		s.awaitClaim("data", func(claim *corev1.PersistentVolumeClaim) bool {
			return claim.Status.Capacity.Storage().String() == "1Gi"
		})
		s.expectSize("data", kind, 1024)
		s.expectText("data", kind, "kept")
	})
}

// maySetResources says whether privileged containers of this machine have
// CAP_SYS_RESOURCE, without which no kernel grows an ext4 that is mounted.
func maySetResources(t testing.TB) bool {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, bounding, _ := strings.Cut(string(status), "CapBnd:")
	var set uint64
	if _, err := fmt.Sscanf(strings.TrimSpace(bounding), "%x", &set); err != nil {
		t.Fatal(err)
	}
	return set&(1<<unix.CAP_SYS_RESOURCE) != 0
}

// unmounted says what is still mounted of the claims of a space.
func (s space) unmounted(ctx context.Context) error {
	claims, err := core.CoreV1().PersistentVolumeClaims(s.name).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, claim := range claims.Items {
		volume, err := core.CoreV1().PersistentVolumes().Get(ctx, claim.Spec.VolumeName, metav1.GetOptions{})
		if err != nil {
			return err
		}
		staging := fmt.Sprintf("/%x/globalmount", sha256.Sum256([]byte(volume.Spec.CSI.VolumeHandle)))
		if err := notMounted(staging); err != nil {
			return err
		}
	}
	return nil
}

// expectSize compares what a pod sees of its volume's size, in MiB. A
// filesystem takes up to a fifth for itself; a directory volume has no size.
func (s space) expectSize(pod string, kind kindOfVolume, want int) {
	s.Helper()
	var got int
	switch {
	case kind.mode == corev1.PersistentVolumeBlock:
		got = s.number(pod, "blockdev --getsize64 "+devicePath) >> 20
	case kind.class != directoryClass:
		got = s.number(pod, "df -Pm "+mountPath+" | awk 'END {print $2}'")
	default:
		return
	}
	if got > want || got < want*8/10 {
		s.Errorf("%s sees a volume of %d MiB, want about %d", pod, got, want)
	}
}

func (s space) number(pod, line string) int {
	s.Helper()
	var n int
	if _, err := fmt.Sscan(s.sh(pod, line), &n); err != nil {
		s.Fatalf("%s: %s: %v", pod, line, err)
	}
	return n
}
