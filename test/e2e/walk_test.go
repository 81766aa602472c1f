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
		s.claim("data", kind, small, nil)
		s.pod("app", "data", kind)
		s.awaitPod("app")
		s.write("app", kind, "before")

		s.snapshot("snap", "data", snapshotClass)
		snapshot := s.awaitSnapshot("snap")
		if size := snapshot.Status.RestoreSize; size == nil || size.String() != small {
			s.Errorf("restoreSize is %v, want %s: the same manifest must restore", size, small)
		}
		if snapshot.Status.CreationTime.IsZero() {
			s.Error("the snapshot has no creation time")
		}
		s.write("app", kind, "after")

		s.claim("restored", kind, small, fromSnapshot("snap"))
		s.pod("reader", "restored", kind)
		s.awaitPod("reader")
		s.expectText("reader", kind, "before")
		s.expectText("app", kind, "after")
	})
}

// TestClone makes a claim from another one that is in use.
func TestClone(t *testing.T) {
	eachKind(t, func(s space, kind kindOfVolume) {
		s.claim("data", kind, small, nil)
		s.pod("app", "data", kind)
		s.awaitPod("app")
		s.write("app", kind, "before")
		s.claim("clone", kind, small, fromClaim("data"))
		s.pod("reader", "clone", kind)
		s.awaitPod("reader")
		s.write("app", kind, "after")
		s.expectText("reader", kind, "before")
	})
}

// TestRefusals: what cannot be is said where the user looks, in an event.
func TestRefusals(t *testing.T) {
	s := newSpace(t)
	s.claim("data", imageKind, small, nil)
	s.pod("app", "data", imageKind)
	s.awaitPod("app")
	s.snapshot("snap", "data", snapshotClass)
	s.awaitSnapshot("snap")

	s.claim("smaller", imageKind, "200Mi", fromSnapshot("snap"))
	s.pod("smaller", "smaller", imageKind)
	s.awaitEvent("smaller", "less than the size")

	s.claim("other", blockKind, small, fromSnapshot("snap"))
	s.pod("other", "other", blockKind)
	s.awaitEvent("other", "modifies the mode of the source volume") // the provisioner's own words

	s.claim("nothing", imageKind, small, fromSnapshot("no-such"))
	s.pod("nothing", "nothing", imageKind)
	s.awaitEvent("nothing", "no-such")
}

// TestGrow restores in a larger size and lets a volume in use grow.
func TestGrow(t *testing.T) {
	eachKind(t, func(s space, kind kindOfVolume) {
		s.claim("data", kind, small, nil)
		s.pod("app", "data", kind)
		s.awaitPod("app")
		s.write("app", kind, "kept")
		s.snapshot("snap", "data", snapshotClass)
		s.awaitSnapshot("snap")

		s.claim("larger", kind, "512Mi", fromSnapshot("snap"))
		s.pod("reader", "larger", kind)
		s.awaitPod("reader")
		s.expectText("reader", kind, "kept")
		s.expectSize("reader", kind, 512)

		s.kubectl("patch", "pvc", "data", "-p", growTo("1Gi"))
		if kind == imageKind && !maySetResources(s) {
			s.awaitClaim("data", func(claim *corev1.PersistentVolumeClaim) bool {
				return slices.ContainsFunc(claim.Status.Conditions, func(c corev1.PersistentVolumeClaimCondition) bool {
					return c.Type == corev1.PersistentVolumeClaimFileSystemResizePending
				})
			})
			// As that condition says; but a kubelet that finds the next pod at once
			// does not stage the volume anew.
			s.kubectl("delete", "pod", "app", "reader")
			s.await("no mount of it", s.unmounted)
			s.pod("app", "data", kind)
			s.awaitPod("app")
		}
		s.awaitClaim("data", func(claim *corev1.PersistentVolumeClaim) bool {
			return claim.Status.Capacity.Storage().String() == "1Gi"
		})
		s.expectSize("app", kind, 1024)
		s.expectText("app", kind, "kept")
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
