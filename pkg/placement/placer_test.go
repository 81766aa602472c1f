package placement_test

import (
	"context"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic/fake"

	"github.com/snapdriver/snapdriver/pkg/backend"
	"github.com/snapdriver/snapdriver/pkg/placement"
)

const (
	here         = "node-a"
	ours         = "csi.snapdriver.dev"
	selectedNode = "volume.kubernetes.io/selected-node"
)

var claims = schema.GroupVersionResource{Version: "v1", Resource: "persistentvolumeclaims"}

// cluster has on each of two nodes a volume, the claim for it, and a snapshot of
// it; another driver has the same.
func cluster() []runtime.Object {
	objects := []runtime.Object{class("ours", ours), class("foreign", "other.example")}
	for _, node := range []string{here, "node-b"} {
		objects = append(objects, sources(node, ours, backend.NewVolumeID(node, "v").String(), backend.NewSnapshotID(node, "s").String())...)
	}
	return append(objects, sources("foreign", "other.example", "1", "2")...)
}

func sources(name, driver, volumeHandle, snapshotHandle string) []runtime.Object {
	return []runtime.Object{
		object("v1", "PersistentVolume", name, nil, map[string]any{"csi": map[string]any{"driver": driver, "volumeHandle": volumeHandle}}),
		object("v1", "PersistentVolumeClaim", name, nil, map[string]any{"volumeName": name, "storageClassName": "ours"}),
		object(snapshotAPI, "VolumeSnapshotContent", name, map[string]any{"snapshotHandle": snapshotHandle}, map[string]any{"driver": driver}),
		object(snapshotAPI, "VolumeSnapshot", name, map[string]any{"boundVolumeSnapshotContentName": name}, nil),
	}
}

const snapshotAPI = "snapshot.storage.k8s.io/v1"

func class(name, provisioner string) *unstructured.Unstructured {
	class := object("storage.k8s.io/v1", "StorageClass", name, nil, nil)
	class.Object["provisioner"] = provisioner
	return class
}

func object(version, kind, name string, status, spec map[string]any) *unstructured.Unstructured {
	o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": version, "kind": kind}}
	o.SetName(name)
	if kind == "VolumeSnapshot" || kind == "PersistentVolumeClaim" {
		o.SetNamespace("default")
	}
	if spec != nil {
		o.Object["spec"] = spec
	}
	if status != nil {
		o.Object["status"] = status
	}
	return o
}

func restore(class, snapshot string) map[string]any {
	return map[string]any{"storageClassName": class, "dataSource": map[string]any{
		"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": snapshot,
	}}
}

func clone(class, claim string) map[string]any {
	return map[string]any{"storageClassName": class, "dataSource": map[string]any{"kind": "PersistentVolumeClaim", "name": claim}}
}

func TestPlaces(t *testing.T) {
	client := start(t)
	for name, want := range map[string]struct {
		spec     map[string]any
		selected string // before
		want     string
	}{
		"restore":                     {spec: restore("ours", here), want: here},
		"clone":                       {spec: clone("ours", here), want: here},
		"restore-of-another-node":     {spec: restore("ours", "node-b")},
		"clone-of-another-node":       {spec: clone("ours", "node-b")},
		"restore-of-another-driver":   {spec: restore("ours", "foreign")},
		"clone-of-another-driver":     {spec: clone("ours", "foreign")},
		"class-of-another-driver":     {spec: restore("foreign", here)},
		"without-a-source":            {spec: map[string]any{"storageClassName": "ours"}},
		"the-scheduler-was-there":     {spec: restore("ours", here), selected: "node-b", want: "node-b"},
		"of-a-snapshot-not-there-yet": {spec: restore("ours", "no-such")},
	} {
		t.Run(name, func(t *testing.T) {
			claim := object("v1", "PersistentVolumeClaim", name, nil, want.spec)
			if want.selected != "" {
				claim.SetAnnotations(map[string]string{selectedNode: want.selected})
			}
			create(t, client, claim)
			if want.want == "" {
				// What comes later in the queue is placed: this one was looked at.
				create(t, client, object("v1", "PersistentVolumeClaim", name+"-next", nil, restore("ours", here)))
				await(t, client, name+"-next", here)
			}
			await(t, client, name, want.want)
		})
	}
}

// TestPlacesAgain: what the provisioner gives back to the scheduler, as it does
// when the driver has no room, is placed again.
func TestPlacesAgain(t *testing.T) {
	client := start(t)
	claim := object("v1", "PersistentVolumeClaim", "claim", nil, restore("ours", here))
	create(t, client, claim)
	for range 3 {
		await(t, client, "claim", here)
		if _, err := client.Resource(claims).Namespace("default").Update(t.Context(), claim, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	await(t, client, "claim", here)
}

// TestWaitsForTheSnapshot: the claim may be made before its source.
func TestWaitsForTheSnapshot(t *testing.T) {
	client := start(t)
	create(t, client, object("v1", "PersistentVolumeClaim", "claim", nil, restore("ours", "late")))
	late := sources("late", ours, "", backend.NewSnapshotID(here, "late").String())
	for _, o := range late[2:] {
		if err := client.Tracker().Add(o); err != nil {
			t.Fatal(err)
		}
	}
	await(t, client, "claim", here)
}

// start runs a placer on a cluster for the time of a test.
func start(t *testing.T) *fake.FakeDynamicClient {
	t.Helper()
	client := fake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), map[schema.GroupVersionResource]string{
		claims: "PersistentVolumeClaimList",
	}, cluster()...)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- placement.Run(ctx, placement.Config{Driver: ours, Node: here, Client: client}) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return client
}

func create(t *testing.T, client *fake.FakeDynamicClient, claim *unstructured.Unstructured) {
	t.Helper()
	if _, err := client.Resource(claims).Namespace("default").Create(t.Context(), claim, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// await waits until a claim has been sent to a node, "" for none.
func await(t *testing.T, client *fake.FakeDynamicClient, name, want string) {
	t.Helper()
	var got string
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		claim, err := client.Resource(claims).Namespace("default").Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got = claim.GetAnnotations()[selectedNode]; got == want {
			return
		}
	}
	t.Fatalf("%s was sent to %q, want %q", name, got, want)
}
