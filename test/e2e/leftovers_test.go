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

// expectNothingLeft waits until there is no volume and no snapshot in the
// cluster, and no mount, loop device or file of one on the node.
func expectNothingLeft(t testing.TB) {
	t.Helper()
	for what, look := range map[string]func(context.Context) error{
		"objects": leftObjects, "mounts": leftMounts, "loop devices": leftLoops, "files": leftFiles,
	} {
		if err := poll(patience, look); err != nil {
			t.Errorf("left behind: %s: %v", what, err)
		}
	}
}

func leftObjects(ctx context.Context) error {
	volumes, err := core.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	contents, err := snaps.SnapshotV1().VolumeSnapshotContents().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	var left []error
	for _, v := range volumes.Items {
		left = append(left, fmt.Errorf("volume %s of %s: %s %v", v.Name, v.Spec.ClaimRef.Name, v.Status.Phase, v.Finalizers))
	}
	for _, c := range contents.Items {
		left = append(left, fmt.Errorf("content %s of %s: %v", c.Name, c.Spec.VolumeSnapshotRef.Name, c.Finalizers))
	}
	return errors.Join(left...)
}

// leftMounts finds what the driver or the kubelet has mounted of a volume.
func leftMounts(context.Context) error {
	return notMounted("kubernetes.io~csi", "kubernetes.io/csi", cluster.DriverRoot+"/")
}

// notMounted finds lines of the node's mount table that contain one of parts.
func notMounted(parts ...string) error {
	pid, err := kube.Pid(node)
	if err != nil {
		return err
	}
	table, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		return err
	}
	var left []error
	for line := range strings.Lines(string(table)) {
		for _, part := range parts {
			if strings.Contains(line, part) {
				left = append(left, errors.New(strings.TrimSpace(line)))
			}
		}
	}
	return errors.Join(left...)
}

func leftLoops(context.Context) error {
	devices, err := kube.LoopDevices(node)
	if err == nil && len(devices) > 0 {
		err = fmt.Errorf("%v", devices)
	}
	return err
}

func leftFiles(context.Context) error {
	pid, err := kube.Pid(node)
	if err != nil {
		return err
	}
	root := fmt.Sprintf("/proc/%d/root%s", pid, cluster.DriverRoot)
	left, err := filepath.Glob(root + "/*/*")
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("%v", left)
	}
	return err
}
