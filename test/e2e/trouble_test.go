package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// snapshotClassWith makes a class of parameters for the time of a test. It has to
// outlive the test's space: without its class a snapshot that has not come to
// pass can be neither taken nor deleted.
func snapshotClassWith(t testing.TB, name string, parameters map[string]string) string {
	t.Helper()
	classes := snaps.SnapshotV1().VolumeSnapshotClasses()
	_, err := classes.Create(t.Context(), &snapshotv1.VolumeSnapshotClass{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Driver: driverName,
		DeletionPolicy: snapshotv1.VolumeSnapshotContentDelete, Parameters: parameters,
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := classes.Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	return name
}

// slowSnapshotClass makes snapshots that share nothing and take time and space.
func slowSnapshotClass(t testing.TB) string {
	return snapshotClassWith(t, "e2e-compressed", map[string]string{"format": "tar.zst"})
}

// TestFailingSnapshots: eight snapshots that can never be taken say why, and
// can be deleted together, and then their claim, if need be with the help that
// the documentation tells of.
func TestFailingSnapshots(t *testing.T) {
	class := snapshotClassWith(t, "e2e-impossible", map[string]string{"format": "papyrus"})
	s := newSpace(t)
	s.use("data", directoryKind, small, nil)
	const count = 8
	for i := range count {
		s.snapshot(fmt.Sprint("snap-", i), "data", class)
	}
	for i := range count {
		s.awaitError(fmt.Sprint("snap-", i), "papyrus")
	}
	s.kubectl("delete", "volumesnapshots", "--all", "--timeout=120s") // see --resync-period in daemonset.yaml
	s.kubectl("delete", "pod", "data")
	if _, err := kubectl("-n", s.name, "delete", "pvc", "data", "--timeout=60s"); err != nil {
		s.freeForgotten("data", err)
	}
}

// freeForgotten does what docs/deploy.md says of a claim that is not deleted for
// one reason alone: the snapshot controller has seen, with the last snapshot of
// it, others in its cache that were gone, and does not come back. On a busy
// machine that happens also to one worker. Anything else is an error.
func (s space) freeForgotten(claim string, why error) {
	s.Helper()
	left := s.kubectl("get", "volumesnapshots", "-o", "name")
	finalizers := s.kubectl("get", "pvc", claim, "-o", "jsonpath={.metadata.finalizers[*]}")
	if left != "" || finalizers != "snapshot.storage.kubernetes.io/pvc-as-source-protection" {
		s.Fatalf("%v; there are snapshots %q, and finalizers %q of the claim", why, left, finalizers)
	}
	s.Logf("the snapshot controller has forgotten claim %s: taking its finalizer off", claim)
	s.kubectl("patch", "pvc", claim, "--type=json", `--patch=[{"op":"remove","path":"/metadata/finalizers"}]`)
	s.kubectl("wait", "pvc/"+claim, "--for=delete", "--timeout=60s")
}

// awaitError waits until a snapshot's status says what is wrong.
func (s space) awaitError(snapshot, text string) {
	s.Helper()
	s.await("the error of "+snapshot, func(ctx context.Context) error {
		found, err := snaps.SnapshotV1().VolumeSnapshots(s.name).Get(ctx, snapshot, metav1.GetOptions{})
		if err != nil {
			return err
		}
		status := found.Status
		if status == nil || status.Error == nil || status.Error.Message == nil || !strings.Contains(*status.Error.Message, text) {
			return fmt.Errorf("its status is %+v", status)
		}
		return nil
	})
}

// TestNamespaceDeleted: a namespace goes while snapshots are taken in it.
func TestNamespaceDeleted(t *testing.T) {
	slow := slowSnapshotClass(t)
	s := newSpace(t)
	s.use("data", directoryKind, small, nil)
	s.writeNoise("data", 50)
	for i := range 8 {
		s.snapshot(fmt.Sprint("snap-", i), "data", slow)
	}
	awaitWork(t)
	s.delete()
}

// TestFullDisk: what the disk has no room for says so, hurts nothing, and
// succeeds when there is room again.
func TestFullDisk(t *testing.T) {
	slow := slowSnapshotClass(t)
	s := newSpace(t)
	s.use("data", directoryKind, small, nil)
	want := s.writeNoise("data", 100)

	filler := fillDisk(t, 40<<20)
	s.snapshot("snap", "data", slow)
	s.awaitError("snap", "no space left")
	s.awaitEventIn(metav1.NamespaceDefault, s.contentOf("snap").Name, "no space left") // a content has no namespace
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	s.awaitSnapshot("snap")
	s.use("restored", directoryKind, small, fromSnapshot("snap"))
	if got := s.checksum("restored"); got != want {
		t.Errorf("restored is %s, want %s", got, want)
	}
}

// fillDisk leaves so many bytes free on the driver's filesystem, for at most
// the time of the test. It returns the file that takes up the rest.
func fillDisk(t testing.TB, free int64) string {
	t.Helper()
	root, err := driverRoot(node)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(root, "filler")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	t.Cleanup(func() { _ = os.Remove(path) })
	var stat unix.Statfs_t
	if err := unix.Fstatfs(int(file.Fd()), &stat); err != nil {
		t.Fatal(err)
	}
	if err := unix.Fallocate(int(file.Fd()), 0, 0, int64(stat.Bavail)*stat.Bsize-free); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestDeletionOrders: a volume, its snapshot and a restore of that are deleted
// in every order, and what is left stays readable.
func TestDeletionOrders(t *testing.T) {
	t.Cleanup(func() { expectNothingLeft(t) })
	for i, order := range [][]string{
		{"data", "snap", "restored"},
		{"data", "restored", "snap"},
		{"snap", "data", "restored"},
		{"snap", "restored", "data"},
		{"restored", "data", "snap"},
		{"restored", "snap", "data"},
	} {
		kind := []kindOfVolume{directoryKind, imageKind, blockKind}[i%3]
		t.Run(strings.Join(order, "-"), func(t *testing.T) {
			t.Parallel()
			s := newSpaceBesideOthers(t)
			s.use("data", kind, small, nil)
			s.write("data", kind, "text")
			s.snapshot("snap", "data", snapshotClass)
			s.awaitSnapshot("snap")
			s.use("restored", kind, small, fromSnapshot("snap"))
			s.deleteInOrder(order, kind)
		})
	}
}

func (s space) deleteInOrder(order []string, kind kindOfVolume) {
	s.Helper()
	for i, name := range order {
		if name == "snap" {
			s.kubectl("delete", "volumesnapshot", name, "--timeout=60s")
		} else {
			s.kubectl("delete", "pod", name)
			s.kubectl("delete", "pvc", name, "--timeout=60s")
		}
		for _, left := range order[i+1:] {
			if left != "snap" {
				s.expectText(left, kind, "text")
				continue
			}
			s.use("again", kind, small, fromSnapshot("snap"))
			s.expectText("again", kind, "text")
			s.kubectl("delete", "pod", "again")
			s.kubectl("delete", "pvc", "again", "--timeout=60s")
		}
	}
}
