package e2e

import (
	"context"
	"fmt"
	"testing"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The classes that the manifests make, and one of ours (see makeXFSClass).
const (
	directoryClass = "snapdriver"
	imageClass     = "snapdriver-image" // ext4
	xfsClass       = "e2e-xfs"
	snapshotClass  = "snapdriver"
	retainClass    = "snapdriver-retain"
)

// makeXFSClass makes the class that the comment in snapdriver-image speaks of.
func makeXFSClass(ctx context.Context) error {
	class, err := core.StorageV1().StorageClasses().Get(ctx, imageClass, metav1.GetOptions{})
	if err != nil {
		return err
	}
	class.ObjectMeta = metav1.ObjectMeta{Name: xfsClass}
	class.Parameters["csi.storage.k8s.io/fstype"] = "xfs"
	_, err = core.StorageV1().StorageClasses().Create(ctx, class, metav1.CreateOptions{})
	return err
}

// small is the least that every kind of volume can be of: xfs takes no less.
const small = "300Mi"

// kindOfVolume is one of those that the driver has.
type kindOfVolume struct {
	name  string
	class string
	mode  corev1.PersistentVolumeMode
}

var (
	directoryKind = kindOfVolume{"directory", directoryClass, corev1.PersistentVolumeFilesystem}
	imageKind     = kindOfVolume{"image", imageClass, corev1.PersistentVolumeFilesystem}
	xfsKind       = kindOfVolume{"image-xfs", xfsClass, corev1.PersistentVolumeFilesystem}
	blockKind     = kindOfVolume{"block", directoryClass, corev1.PersistentVolumeBlock}

	allKinds = []kindOfVolume{directoryKind, imageKind, xfsKind, blockKind}
)

// eachKind runs a test with each kind of volume, all at once.
func eachKind(t *testing.T, test func(space, kindOfVolume)) {
	t.Cleanup(func() { expectNothingLeft(t) })
	for _, kind := range allKinds {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			test(newSpaceBesideOthers(t), kind)
		})
	}
}

// use makes a claim and a pod of the same name, and waits until the pod runs.
func (s space) use(claim string, kind kindOfVolume, size string, source *corev1.TypedLocalObjectReference) {
	s.Helper()
	s.claim(claim, kind, size, source)
	s.pod(claim, kind)
	s.awaitPod(claim)
}

// claim makes a claim for a volume of a kind. A source is a snapshot's name, or
// nil.
func (s space) claim(name string, kind kindOfVolume, size string, source *corev1.TypedLocalObjectReference) {
	s.Helper()
	s.createClaim(newClaim(name, kind, size, source))
}

func newClaim(name string, kind kindOfVolume, size string, source *corev1.TypedLocalObjectReference) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: &kind.class,
			VolumeMode:       &kind.mode,
			AccessModes:      []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			DataSource:       source,
			Resources: corev1.VolumeResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)},
			},
		},
	}
}

func (s space) createClaim(claim *corev1.PersistentVolumeClaim) {
	s.Helper()
	if _, err := core.CoreV1().PersistentVolumeClaims(s.name).Create(s.Context(), claim, metav1.CreateOptions{}); err != nil {
		s.Fatal(err)
	}
}

// fromSnapshot and fromClaim are sources of claims.
func fromSnapshot(name string) *corev1.TypedLocalObjectReference {
	group := snapshotv1.GroupName
	return &corev1.TypedLocalObjectReference{APIGroup: &group, Kind: "VolumeSnapshot", Name: name}
}

func fromClaim(name string) *corev1.TypedLocalObjectReference {
	return &corev1.TypedLocalObjectReference{Kind: "PersistentVolumeClaim", Name: name}
}

// Where pods have their volume.
const (
	mountPath  = "/data"
	devicePath = "/dev/volume"
)

// pod starts a pod that sleeps with the volume of the claim of the same name,
// and does not wait for it.
func (s space) pod(claim string, kind kindOfVolume) {
	s.Helper()
	s.createPod(podWith(claim, kind))
}

func podWith(claim string, kind kindOfVolume) *corev1.Pod {
	pod := sleepingPod(claim)
	pod.Spec.Volumes = []corev1.Volume{volumeOf(claim)}
	container := &pod.Spec.Containers[0]
	if kind.mode == corev1.PersistentVolumeBlock {
		container.VolumeDevices = []corev1.VolumeDevice{{Name: claim, DevicePath: devicePath}}
	} else {
		container.VolumeMounts = []corev1.VolumeMount{{Name: claim, MountPath: mountPath}}
	}
	return pod
}

func sleepingPod(name string) *corev1.Pod {
	grace := int64(0)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: &grace,
			Containers: []corev1.Container{
				{Name: "main", Image: "docker.io/library/busybox:1.37.0", Command: []string{"sleep", "infinity"}},
			},
		},
	}
}

// volumeOf is a pod's volume with the name of its claim.
func volumeOf(claim string) corev1.Volume {
	return corev1.Volume{Name: claim, VolumeSource: corev1.VolumeSource{
		PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim},
	}}
}

func (s space) createPod(pod *corev1.Pod) {
	s.Helper()
	if _, err := core.CoreV1().Pods(s.name).Create(s.Context(), pod, metav1.CreateOptions{}); err != nil {
		s.Fatal(err)
	}
}

// snapshot makes a snapshot of a claim, and does not wait for it.
func (s space) snapshot(name, claim, class string) {
	s.Helper()
	_, err := snaps.SnapshotV1().VolumeSnapshots(s.name).Create(s.Context(), &snapshotv1.VolumeSnapshot{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: snapshotv1.VolumeSnapshotSpec{
			VolumeSnapshotClassName: &class,
			Source:                  snapshotv1.VolumeSnapshotSource{PersistentVolumeClaimName: &claim},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		s.Fatal(err)
	}
}

// contentOf returns the content of a snapshot that has one.
func (s space) contentOf(snapshot string) *snapshotv1.VolumeSnapshotContent {
	s.Helper()
	found, err := snaps.SnapshotV1().VolumeSnapshots(s.name).Get(s.Context(), snapshot, metav1.GetOptions{})
	if err != nil {
		s.Fatal(err)
	}
	content, err := snaps.SnapshotV1().VolumeSnapshotContents().Get(s.Context(), *found.Status.BoundVolumeSnapshotContentName, metav1.GetOptions{})
	if err != nil {
		s.Fatal(err)
	}
	return content
}

// write puts text on a pod's volume so that it outlives a power cut; read
// returns it.
func (s space) write(pod string, kind kindOfVolume, text string) {
	s.Helper()
	if kind.mode == corev1.PersistentVolumeBlock {
		s.sh(pod, "echo '"+text+"' | dd of="+devicePath+" bs=4096 conv=sync,fsync 2>/dev/null")
	} else {
		s.sh(pod, "echo '"+text+"' >"+mountPath+"/text && sync")
	}
}

func (s space) read(pod string, kind kindOfVolume) string {
	s.Helper()
	if kind.mode == corev1.PersistentVolumeBlock {
		return s.sh(pod, "head -n 1 "+devicePath)
	}
	return s.sh(pod, "cat "+mountPath+"/text")
}

func (s space) expectText(pod string, kind kindOfVolume, want string) {
	s.Helper()
	if got := s.read(pod, kind); got != want {
		s.Fatalf("%s reads %q, want %q", pod, got, want)
	}
}

// writeNoise puts so many MiB on a pod's directory volume that no two files
// share, nor any compression makes less, and returns their checksum.
func (s space) writeNoise(pod string, size int) string {
	s.Helper()
	s.sh(pod, fmt.Sprintf("dd if=/dev/urandom of=%s/noise bs=1M count=%d 2>/dev/null; sync", mountPath, size))
	return s.checksum(pod)
}

func (s space) checksum(pod string) string {
	s.Helper()
	return s.sh(pod, "sha256sum <"+mountPath+"/noise")
}

// growTo is the patch of a claim that asks for another size.
func growTo(size string) string {
	return `{"spec":{"resources":{"requests":{"storage":"` + size + `"}}}}`
}
