package placement

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/cache"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

const selectedNode = "volume.kubernetes.io/selected-node"

const snapshotGroup = "snapshot.storage.k8s.io"

var (
	claimResource    = schema.GroupVersionResource{Version: "v1", Resource: "persistentvolumeclaims"}
	volumeResource   = schema.GroupVersionResource{Version: "v1", Resource: "persistentvolumes"}
	classResource    = schema.GroupVersionResource{Group: "storage.k8s.io", Version: "v1", Resource: "storageclasses"}
	snapshotResource = schema.GroupVersionResource{Group: snapshotGroup, Version: "v1", Resource: "volumesnapshots"}
	contentResource  = schema.GroupVersionResource{Group: snapshotGroup, Version: "v1", Resource: "volumesnapshotcontents"}
)

// text returns a field of an object, "" if it is not there.
func text(object *unstructured.Unstructured, path ...string) string {
	value, _, _ := unstructured.NestedString(object.Object, path...)
	return value
}

func isBound(claim *unstructured.Unstructured) bool { return text(claim, "spec", "volumeName") != "" }

// waits says whether a claim has a source and neither a volume nor a node.
func waits(claim *unstructured.Unstructured) bool {
	return (isRestore(claim) || isClone(claim)) && !isBound(claim) && claim.GetDeletionTimestamp() == nil &&
		claim.GetAnnotations()[selectedNode] == "" && text(claim, "spec", "storageClassName") != ""
}

// The apiserver fills dataSource from dataSourceRef, but for sources in another
// namespace, which the driver's provisioner is not told to serve.
func isRestore(claim *unstructured.Unstructured) bool {
	return text(claim, "spec", "dataSource", "apiGroup") == snapshotGroup && text(claim, "spec", "dataSource", "kind") == "VolumeSnapshot"
}

func isClone(claim *unstructured.Unstructured) bool {
	return text(claim, "spec", "dataSource", "apiGroup") == "" && text(claim, "spec", "dataSource", "kind") == "PersistentVolumeClaim"
}

func (p *placer) hash() string { return backend.NodeHash(p.Node) }

// nodeHash returns what the ID of a claim's source says of its node.
// errNotOurs when the source is another driver's.
func (p *placer) nodeHash(ctx context.Context, claim *unstructured.Unstructured) (string, error) {
	name := text(claim, "spec", "dataSource", "name")
	if isRestore(claim) {
		return p.hashOfSnapshot(ctx, claim.GetNamespace(), name)
	}
	return p.hashOfClaim(ctx, claim.GetNamespace(), name)
}

func (p *placer) hashOfSnapshot(ctx context.Context, namespace, name string) (string, error) {
	snapshot, err := p.Client.Resource(snapshotResource).Namespace(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return "", fmt.Errorf("its source: %w", err)
	}
	contentName := text(snapshot, "status", "boundVolumeSnapshotContentName")
	if contentName == "" {
		return "", errors.New("its source has no VolumeSnapshotContent")
	}
	content, err := p.Client.Resource(contentResource).Get(ctx, contentName, metav1.GetOptions{})
	if err != nil {
		return "", fmt.Errorf("its source: %w", err)
	}
	if text(content, "spec", "driver") != p.Driver {
		return "", errNotOurs
	}
	handle := cmp.Or(text(content, "status", "snapshotHandle"), text(content, "spec", "source", "snapshotHandle"))
	if handle == "" {
		return "", errors.New("its source has not been taken")
	}
	id, err := backend.ParseSnapshotID(handle)
	if err != nil {
		return "", errNotOurs // nor any other node's
	}
	return id.NodeHash(), nil
}

func (p *placer) hashOfClaim(ctx context.Context, namespace, name string) (string, error) {
	source := p.claim(cache.NewObjectName(namespace, name))
	if source == nil || !isBound(source) {
		return "", errors.New("its source is not a claim that is bound")
	}
	volume, err := p.Client.Resource(volumeResource).Get(ctx, text(source, "spec", "volumeName"), metav1.GetOptions{})
	if err != nil {
		return "", fmt.Errorf("its source: %w", err)
	}
	if text(volume, "spec", "csi", "driver") != p.Driver {
		return "", errNotOurs
	}
	id, err := backend.ParseVolumeID(text(volume, "spec", "csi", "volumeHandle"))
	if err != nil {
		return "", errNotOurs // nor any other node's
	}
	return id.NodeHash(), nil
}
