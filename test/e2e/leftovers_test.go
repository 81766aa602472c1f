package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/snapdriver/snapdriver/test/e2e/cluster"
)

// leftovers say what there is of volumes and snapshots: nil for nothing.
var leftovers = map[string]func(context.Context) error{
	"objects": leftObjects, "mounts": leftMounts, "loop devices": leftLoops, "files": leftFiles,
}

// expectNothingLeft waits until there is no volume and no snapshot in the
// cluster, and no mount, loop device or file of one on the node.
func expectNothingLeft(t testing.TB) {
	t.Helper()
	for what, left := range leftovers {
		if err := poll(patience, left); err != nil {
			t.Errorf("left behind: %s: %v", what, err)
		}
	}
}

// expectLeftovers is for a time when volumes of all kinds are in use: what finds
// nothing then would never find anything.
func expectLeftovers(t testing.TB) {
	t.Helper()
	for what, left := range leftovers {
		if left(t.Context()) == nil {
			t.Errorf("%s of volumes in use are not found", what)
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

// notMounted finds mounts in whose line is one of parts.
func notMounted(parts ...string) error {
	var found []error
	for _, n := range nodes {
		mounts, err := mountsWith(n, parts...)
		if err != nil {
			return err
		}
		if len(mounts) > 0 {
			found = append(found, fmt.Errorf("%s: %s", n.Name, strings.Join(mounts, "\n")))
		}
	}
	return errors.Join(found...)
}

// mountsWith returns the lines of a node's mount table that contain one of
// parts.
func mountsWith(n cluster.Node, parts ...string) ([]string, error) {
	pid, err := kube.Pid(n)
	if err != nil {
		return nil, err
	}
	table, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		return nil, err
	}
	var found []string
	for line := range strings.Lines(string(table)) {
		if slices.ContainsFunc(parts, func(part string) bool { return strings.Contains(line, part) }) {
			found = append(found, strings.TrimSpace(line))
		}
	}
	return found, nil
}

func leftLoops(context.Context) error {
	var found []error
	for _, n := range nodes {
		devices, err := kube.LoopDevices(n)
		if err != nil {
			return err
		}
		if len(devices) > 0 {
			found = append(found, fmt.Errorf("%s: %v", n.Name, devices))
		}
	}
	return errors.Join(found...)
}

func leftFiles(context.Context) error {
	var found []error
	for _, n := range nodes {
		root, err := driverRoot(n)
		if err != nil {
			return err
		}
		files, err := filepath.Glob(root + "/*/*")
		if err != nil {
			return err
		}
		if len(files) > 0 {
			found = append(found, fmt.Errorf("%s: %v", n.Name, files))
		}
	}
	return errors.Join(found...)
}

// driverRoot is the driver's root directory on a node, as this process sees it.
func driverRoot(n cluster.Node) (string, error) {
	pid, err := kube.Pid(n)
	return fmt.Sprintf("/proc/%d/root%s", pid, cluster.DriverRoot), err
}

// driverFiles lists a directory of the driver's root on a node.
func driverFiles(t testing.TB, n cluster.Node, dir string) []string {
	t.Helper()
	root, err := driverRoot(n)
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(filepath.Join(root, dir))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}
