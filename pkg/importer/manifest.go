package importer

import (
	"fmt"
	"io"
)

// manifest takes a number to name the content after, the node, the driver, the
// snapshot's ID, and namespace and name of the VolumeSnapshot, these two twice.
const manifest = `apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshotContent
metadata:
  name: import-%[1]s
  labels: # where a csi-snapshotter runs on each node, this is the one
    snapshot.storage.kubernetes.io/managed-by: %[2]q
spec:
  driver: %[3]q
  deletionPolicy: Retain # with Delete, the snapshot goes when its VolumeSnapshot does
  sourceVolumeMode: Filesystem
  source:
    snapshotHandle: %[4]q
  volumeSnapshotRef:
    namespace: %[5]q
    name: %[6]q
---
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshot
metadata:
  namespace: %[5]q
  name: %[6]q
spec:
  source:
    volumeSnapshotContentName: import-%[1]s
`

// WriteManifest writes what makes the snapshot known to Kubernetes, for kubectl
// apply: a VolumeSnapshotContent, and the VolumeSnapshot of that name.
func (i Imported) WriteManifest(out io.Writer, namespace, name string) error {
	_, err := fmt.Fprintf(out, manifest, i.Digest[:16], i.Node, i.Driver, i.Handle, namespace, name)
	return err
}
