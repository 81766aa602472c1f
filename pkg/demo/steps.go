package demo

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	mib          = 1 << 20
	configBefore = "version = 1\n"
	configAfter  = "version = 2   # the upgrade that went wrong\n"
)

// capability is what a ReadWriteOnce claim asks for.
var capability = &csi.VolumeCapability{
	AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
	AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
}

func (w *walk) steps() []step {
	return []step{
		{
			"Who are you?",
			"The driver's pod starts. node-driver-registrar asks it for its name and tells the kubelet; " +
				"every sidecar waits until Probe says ready; the kubelet asks which node this is and how it is found in the topology.",
			w.introduce,
		},
		{
			"A volume",
			`Somebody applies a PersistentVolumeClaim "app-data" of 64 MiB. csi-provisioner sees it, makes up a name from ` +
				"the claim's UID, and asks for a volume. The answer becomes a PersistentVolume.",
			func(ctx context.Context) error { return w.create(ctx, &w.original, nil) },
		},
		{
			"The volume reaches a pod",
			`A pod "app" that uses the claim is scheduled to this node. Its kubelet stages the volume once for the node ` +
				"and publishes it once for each pod.",
			func(ctx context.Context) error { return w.publish(ctx, w.original) },
		},
		{
			"The pod writes",
			"No RPC: the pod sees an ordinary directory.",
			w.write,
		},
		{
			"The snapshot",
			`Before an upgrade somebody applies a VolumeSnapshot "before-upgrade" of the claim. The snapshot-controller makes a ` +
				"VolumeSnapshotContent, csi-snapshotter sees that and calls. The pod keeps running and writing.",
			w.cutAndShow,
		},
		{
			"The same request again",
			"csi-snapshotter did not hear the answer (a time-out, a restart) and repeats the call. The name makes it the same " +
				"request: the same snapshot comes back, with the same ID and creation_time. Nothing new lies on disk.",
			w.cutAgain,
		},
		{
			"The upgrade goes wrong",
			"No RPC: the pod changes one file and deletes another. The snapshot does not notice.",
			w.damage,
		},
		{
			"A volume from the snapshot",
			`Somebody applies a claim "app-data-restored" whose dataSource is the VolumeSnapshot. csi-provisioner finds the ` +
				"snapshot's ID and passes it as the content source.",
			func(ctx context.Context) error {
				return w.create(ctx, &w.restored, &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
					Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: w.snapshotID},
				}})
			},
		},
		{
			"The restored volume reaches a pod",
			`A pod "app-restored" uses it, beside the pod that uses the original.`,
			func(ctx context.Context) error { return w.publish(ctx, w.restored) },
		},
		{
			"Compare",
			"No RPC: what the two pods see.",
			w.compare,
		},
		{
			"Which snapshots are there?",
			"csi-snapshotter asks this for the status of a VolumeSnapshotContent, above all of one that an administrator wrote by hand " +
				"to import a snapshot.",
			w.list,
		},
		{
			"A volume in use is not deleted",
			`Somebody deletes the claim "app-data" while its pod runs. Kubernetes waits for the pod; were it to ask all the same, ` +
				"the driver looks into the mount table and refuses.",
			w.deleteTooEarly,
		},
		{
			"The first pod ends, its claim goes",
			`The kubelet unpublishes and unstages, in that order. Then csi-provisioner deletes the volume, ` +
				"since the reclaim policy is Delete. The snapshot outlives its volume.",
			func(ctx context.Context) error {
				return errors.Join(w.unpublish(ctx, w.original), w.delete(ctx, w.original))
			},
		},
		{
			"The snapshot goes",
			"Somebody deletes the VolumeSnapshot; its deletionPolicy is Delete. The volume made from it does not notice.",
			func(ctx context.Context) error {
				_, err := w.controller.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: w.snapshotID})
				return errors.Join(err, w.expectFile(w.restored, "app.conf", configBefore))
			},
		},
		{
			"The rest goes",
			"The second pod ends and its claim is deleted.",
			func(ctx context.Context) error {
				return errors.Join(w.unpublish(ctx, w.restored), w.delete(ctx, w.restored))
			},
		},
	}
}

func (w *walk) introduce(ctx context.Context) error {
	if _, err := w.identity.GetPluginInfo(ctx, &csi.GetPluginInfoRequest{}); err != nil {
		return err
	}
	if _, err := w.identity.Probe(ctx, &csi.ProbeRequest{}); err != nil {
		return err
	}
	_, err := w.node.NodeGetInfo(ctx, &csi.NodeGetInfoRequest{})
	return err
}

func (w *walk) create(ctx context.Context, v *volume, source *csi.VolumeContentSource) error {
	response, err := w.controller.CreateVolume(ctx, &csi.CreateVolumeRequest{
		Name:                v.name,
		CapacityRange:       &csi.CapacityRange{RequiredBytes: 64 * mib},
		VolumeCapabilities:  []*csi.VolumeCapability{capability},
		VolumeContentSource: source,
	})
	v.id = response.GetVolume().GetVolumeId()
	return err
}

func (w *walk) publish(ctx context.Context, v volume) error {
	// The staging directory is the kubelet's to make, the target is the driver's.
	if err := os.MkdirAll(w.staging(v), 0o750); err != nil {
		return err
	}
	if _, err := w.node.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{
		VolumeId: v.id, StagingTargetPath: w.staging(v), VolumeCapability: capability,
	}); err != nil {
		return err
	}
	_, err := w.node.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
		VolumeId: v.id, StagingTargetPath: w.staging(v), TargetPath: w.target(v), VolumeCapability: capability,
	})
	return err
}

func (w *walk) unpublish(ctx context.Context, v volume) error {
	if _, err := w.node.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: v.id, TargetPath: w.target(v)}); err != nil {
		return err
	}
	if _, err := w.node.NodeUnstageVolume(ctx, &csi.NodeUnstageVolumeRequest{VolumeId: v.id, StagingTargetPath: w.staging(v)}); err != nil {
		return err
	}
	return os.Remove(w.staging(v))
}

func (w *walk) delete(ctx context.Context, v volume) error {
	_, err := w.controller.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: v.id})
	return err
}

func (w *walk) write(context.Context) error {
	w.shell("app:/data", "echo 'version = 1' > app.conf")
	w.shell("app:/data", "dd if=/dev/urandom of=database bs=1M count=32")
	return errors.Join(
		os.WriteFile(filepath.Join(w.target(w.original), "app.conf"), []byte(configBefore), 0o644),
		os.WriteFile(filepath.Join(w.target(w.original), "database"), database(), 0o600))
}

// database is 32 MiB that no compression or deduplication makes small.
func database() []byte {
	content := make([]byte, 0, 32*mib)
	for block := sha256.Sum256(nil); len(content) < 32*mib; block = sha256.Sum256(block[:]) {
		content = append(content, block[:]...)
	}
	return content
}

func (w *walk) damage(context.Context) error {
	w.shell("app:/data", "echo 'version = 2   # the upgrade that went wrong' > app.conf")
	w.shell("app:/data", "rm database")
	return errors.Join(
		os.WriteFile(filepath.Join(w.target(w.original), "app.conf"), []byte(configAfter), 0o644),
		os.Remove(filepath.Join(w.target(w.original), "database")))
}

func (w *walk) cut(ctx context.Context) error {
	response, err := w.controller.CreateSnapshot(ctx, &csi.CreateSnapshotRequest{Name: w.snapshot, SourceVolumeId: w.original.id})
	w.snapshotID = response.GetSnapshot().GetSnapshotId()
	return err
}

func (w *walk) cutAndShow(ctx context.Context) error {
	if err := w.cut(ctx); err != nil {
		return err
	}
	return w.Store.showSnapshot(w.narrator, w.snapshotID)
}

func (w *walk) cutAgain(ctx context.Context) error {
	first := w.snapshotID
	if err := w.cut(ctx); err != nil {
		return err
	}
	if w.snapshotID != first {
		return fmt.Errorf("the repeated request made another snapshot, %s", w.snapshotID)
	}
	return nil
}

func (w *walk) compare(context.Context) error {
	for _, v := range []volume{w.original, w.restored} {
		w.shell(v.pod+":/data", "ls -s; cat app.conf")
		entries, err := os.ReadDir(w.target(v))
		if err != nil {
			return err
		}
		for _, entry := range entries {
			info, err := entry.Info()
			if err != nil {
				return err
			}
			w.printf("    %10d  %s\n", info.Size(), entry.Name())
		}
		text, err := os.ReadFile(filepath.Join(w.target(v), "app.conf"))
		if err != nil {
			return err
		}
		w.printf("    %s", text)
	}
	err := errors.Join(
		w.expectFile(w.original, "app.conf", configAfter),
		w.expectFile(w.restored, "app.conf", configBefore),
		w.expectFile(w.restored, "database", string(database())))
	if err == nil {
		w.printf("\n  The restored volume is, byte for byte, what the original was at the cut.\n")
	}
	return err
}

func (w *walk) expectFile(v volume, name, content string) error {
	got, err := os.ReadFile(filepath.Join(w.target(v), name))
	if err == nil && string(got) != content {
		err = fmt.Errorf("%s of pod %s is not what it should be", name, v.pod)
	}
	return err
}

func (w *walk) list(ctx context.Context) error {
	response, err := w.controller.ListSnapshots(ctx, &csi.ListSnapshotsRequest{SourceVolumeId: w.original.id})
	if err == nil && len(response.GetEntries()) != 1 {
		err = fmt.Errorf("%d snapshots are listed, there is one", len(response.GetEntries()))
	}
	return err
}

func (w *walk) deleteTooEarly(ctx context.Context) error {
	err := w.delete(ctx, w.original)
	if status.Code(err) != codes.FailedPrecondition {
		return fmt.Errorf("expected a refusal, got: %w", err)
	}
	return nil
}
