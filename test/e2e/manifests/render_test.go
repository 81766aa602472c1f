package manifests

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	snapshots "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	apps "k8s.io/api/apps/v1"
	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	rbac "k8s.io/api/rbac/v1"
	storage "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

const repository = "../../.."

// kustomizations returns the directories that users apply.
func kustomizations(t *testing.T) []string {
	t.Helper()
	overlays, err := filepath.Glob(repository + "/deploy/overlays/*")
	if err != nil || len(overlays) == 0 {
		t.Fatalf("no overlays: %v", err)
	}
	return append(overlays, repository+"/deploy/snapshot-controller")
}

// render builds a kustomization as "kubectl apply -k" does.
func render(t *testing.T, dir string) []byte {
	t.Helper()
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		t.Fatalf("build %s: %v", dir, err)
	}
	text, err := built.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// kinds are the types of all objects that may be in manifests.
var kinds = map[string]func() runtime.Object{
	"v1/Namespace":                                     func() runtime.Object { return &core.Namespace{} },
	"v1/ServiceAccount":                                func() runtime.Object { return &core.ServiceAccount{} },
	"v1/ConfigMap":                                     func() runtime.Object { return &core.ConfigMap{} },
	"v1/Service":                                       func() runtime.Object { return &core.Service{} },
	"v1/Pod":                                           func() runtime.Object { return &core.Pod{} },
	"v1/PersistentVolumeClaim":                         func() runtime.Object { return &core.PersistentVolumeClaim{} },
	"apps/v1/DaemonSet":                                func() runtime.Object { return &apps.DaemonSet{} },
	"apps/v1/Deployment":                               func() runtime.Object { return &apps.Deployment{} },
	"apps/v1/StatefulSet":                              func() runtime.Object { return &apps.StatefulSet{} },
	"batch/v1/CronJob":                                 func() runtime.Object { return &batch.CronJob{} },
	"rbac.authorization.k8s.io/v1/Role":                func() runtime.Object { return &rbac.Role{} },
	"rbac.authorization.k8s.io/v1/RoleBinding":         func() runtime.Object { return &rbac.RoleBinding{} },
	"rbac.authorization.k8s.io/v1/ClusterRole":         func() runtime.Object { return &rbac.ClusterRole{} },
	"rbac.authorization.k8s.io/v1/ClusterRoleBinding":  func() runtime.Object { return &rbac.ClusterRoleBinding{} },
	"storage.k8s.io/v1/CSIDriver":                      func() runtime.Object { return &storage.CSIDriver{} },
	"storage.k8s.io/v1/StorageClass":                   func() runtime.Object { return &storage.StorageClass{} },
	"snapshot.storage.k8s.io/v1/VolumeSnapshot":        func() runtime.Object { return &snapshots.VolumeSnapshot{} },
	"snapshot.storage.k8s.io/v1/VolumeSnapshotClass":   func() runtime.Object { return &snapshots.VolumeSnapshotClass{} },
	"snapshot.storage.k8s.io/v1/VolumeSnapshotContent": func() runtime.Object { return &snapshots.VolumeSnapshotContent{} },
}

// decode reads manifests and fails the test on a field that Kubernetes does not
// know.
func decode(t *testing.T, text []byte) []runtime.Object {
	t.Helper()
	var objects []runtime.Object
	documents := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return objects
		}
		if err != nil {
			t.Fatal(err)
		}
		var kind struct{ APIVersion, Kind string }
		if err := yaml.Unmarshal(document, &kind); err != nil {
			t.Fatal(err)
		}
		newObject, known := kinds[kind.APIVersion+"/"+kind.Kind]
		if !known {
			t.Fatalf("there is a %s %s; add it to kinds if that is right", kind.APIVersion, kind.Kind)
		}
		object := newObject()
		if err := yaml.UnmarshalStrict(document, object); err != nil {
			t.Errorf("%s: %v\n%s", kind.Kind, err, document)
		}
		objects = append(objects, object)
	}
}

// pods returns the pods that objects make, by the name of what makes them.
func pods(objects []runtime.Object) map[string]core.PodSpec {
	found := map[string]core.PodSpec{}
	for _, object := range objects {
		switch o := object.(type) {
		case *core.Pod:
			found[o.Name] = o.Spec
		case *apps.DaemonSet:
			found[o.Name] = o.Spec.Template.Spec
		case *apps.Deployment:
			found[o.Name] = o.Spec.Template.Spec
		case *apps.StatefulSet:
			found[o.Name] = o.Spec.Template.Spec
		case *batch.CronJob:
			found[o.Name] = o.Spec.JobTemplate.Spec.Template.Spec
		}
	}
	return found
}

// sources returns the manifests as they are written, by path.
func sources(t *testing.T, below string) map[string][]byte {
	t.Helper()
	found := map[string][]byte{}
	err := filepath.WalkDir(filepath.Join(repository, below), func(path string, _ os.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".yaml" {
			return err
		}
		found[strings.TrimPrefix(path, repository+"/")], err = os.ReadFile(path)
		return err
	})
	if err != nil || len(found) == 0 {
		t.Fatalf("%d manifests in %s: %v", len(found), below, err)
	}
	return found
}
