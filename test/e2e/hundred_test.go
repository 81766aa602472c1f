package e2e

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestHundred creates a hundred claims, a snapshot of each, and a claim from
// each of these, all at once, with the pods that use them. All become ready: no
// error on the way is one that is not tried again.
func TestHundred(t *testing.T) {
	const pods, each = 10, 10
	s := newSpace(t)
	start := time.Now()
	var snapshots []string
	for p := range pods {
		var sources, restores []string
		for i := range each {
			n := p*each + i
			source, snap, restore := fmt.Sprint("source-", n), fmt.Sprint("snap-", n), fmt.Sprint("restore-", n)
			s.claim(source, directoryKind, small, nil)
			s.snapshot(snap, source, snapshotClass)
			s.claim(restore, directoryKind, small, fromSnapshot(snap))
			sources, restores, snapshots = append(sources, source), append(restores, restore), append(snapshots, snap)
		}
		s.podOfMany(fmt.Sprint("writer-", p), sources)
		s.podOfMany(fmt.Sprint("reader-", p), restores)
	}
	created := time.Since(start)
	const limit = 10 * time.Minute
	s.awaitFor(limit, "all snapshots", s.allReady)
	snapped := time.Since(start)
	s.awaitFor(limit, "all pods", func(ctx context.Context) error {
		list, err := core.CoreV1().Pods(s.name).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, pod := range list.Items {
			err = errors.Join(err, podReady(&pod))
		}
		return err
	})
	t.Logf("%d claims, snapshots and restores: created after %v, all snapshots ready after %v, all pods after %v",
		len(snapshots), created.Round(time.Second), snapped.Round(time.Second), time.Since(start).Round(time.Second))
	s.logWarnings()
}

func (s space) allReady(ctx context.Context) error {
	list, err := snaps.SnapshotV1().VolumeSnapshots(s.name).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	waiting := 0
	for _, snapshot := range list.Items {
		if status := snapshot.Status; status == nil || status.ReadyToUse == nil || !*status.ReadyToUse {
			waiting++
		}
	}
	if waiting > 0 {
		return fmt.Errorf("%d of %d are not ready", waiting, len(list.Items))
	}
	return nil
}

// logWarnings counts the warnings of a space by their reason.
func (s space) logWarnings() {
	s.Helper()
	list, err := core.CoreV1().Events(s.name).List(s.Context(), metav1.ListOptions{FieldSelector: "type=Warning"})
	if err != nil {
		s.Fatal(err)
	}
	counts := map[string]int{}
	for _, event := range list.Items {
		counts[event.InvolvedObject.Kind+" "+event.Reason]++
	}
	s.Logf("warnings that were only passing: %v", counts)
}

// podOfMany starts a pod with several claims.
func (s space) podOfMany(name string, claims []string) {
	s.Helper()
	pod := sleepingPod(name)
	for _, claim := range claims {
		pod.Spec.Volumes = append(pod.Spec.Volumes, volumeOf(claim))
		pod.Spec.Containers[0].VolumeMounts = append(pod.Spec.Containers[0].VolumeMounts,
			corev1.VolumeMount{Name: claim, MountPath: mountPath + "/" + claim})
	}
	s.createPod(pod)
}
