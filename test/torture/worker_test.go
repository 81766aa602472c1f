package torture

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/snapdriver/snapdriver/test/torture/content"
)

// machine is where the driver runs. Where that has died, errors have the code
// Unavailable.
type machine interface {
	controller() csi.ControllerClient
	node() csi.NodeClient

	// write writes a content to a volume at a path, and check compares it.
	write(tag content.Tag, path string) error
	check(tag content.Tag, path string) error

	// checkSize is content.CheckSize.
	checkSize(path string, size, structures int64) error
}

// largest is how many times their first size volumes grow to.
const largest = 5

// worker has objects of its own, all of one kind, asks for changes, and
// remembers what it was promised.
type worker struct {
	kind
	t       *testing.T
	machine machine
	staging string // a directory on the machine, with one called "staging"
	enough  int    // how many volumes, and snapshots, it has at most
	random  *rand.Rand
	next    int

	volumes   map[string]object // acknowledged, by name
	snapshots map[string]object

	deletedVolumes, deletedSnapshots []string // acknowledged, by ID

	// pending is the request that was cut off: it may have had its effect or not.
	pending func() error

	acknowledged, cutOff map[string]int // how many requests, by what they ask for
}

type object struct {
	id       string
	capacity int64 // what was acknowledged
	content.Tag
}

func newWorker(t *testing.T, m machine, of kind, staging string, enough int, seed uint64) *worker {
	return &worker{
		kind: of, t: t, machine: m, staging: staging, enough: enough,
		random:  rand.New(rand.NewPCG(seed, seed)),
		volumes: map[string]object{}, snapshots: map[string]object{},
		acknowledged: map[string]int{}, cutOff: map[string]int{},
	}
}

// work asks for one change after the other until the driver dies.
func (w *worker) work() {
	for {
		what, request := w.choose()
		if err := request(); err != nil {
			if status.Code(err) != codes.Unavailable {
				w.t.Errorf("%s: %s: %v", w.name, what, err)
			}
			w.pending = request
			w.cutOff[what]++
			return
		}
		w.acknowledged[what]++
	}
}

// Whether the driver may die in the middle of a verification.
const (
	mayDie   = true
	mustLive = false
)

// verify repeats what was cut off and checks everything that was promised, and
// says whether it came to the end.
func (w *worker) verify(dying bool) bool {
	err := w.verifyAll()
	if err != nil && (!dying || status.Code(err) != codes.Unavailable) {
		w.t.Errorf("%s: %v", w.name, err)
	}
	return err == nil
}

// whole checks a volume where it is published. It grows by w.size at a time.
func (w *worker) whole(volume object, path string) error {
	return errors.Join(w.machine.check(volume.Tag, path), w.machine.checkSize(path, volume.capacity, w.size/2))
}

func (w *worker) verifyAll() error {
	if w.pending != nil {
		if err := w.pending(); err != nil {
			return fmt.Errorf("the repeat: %w", err)
		}
		w.pending = nil
	}
	for name, volume := range w.volumes {
		if err := w.staged(volume.id, func(path string) error { return w.whole(volume, path) }); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		response, err := w.machine.controller().ControllerGetVolume(background, &csi.ControllerGetVolumeRequest{VolumeId: volume.id})
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if has := response.GetVolume().GetCapacityBytes(); has < volume.capacity {
			return fmt.Errorf("%s has %d bytes, %d were acknowledged", name, has, volume.capacity)
		}
	}
	for name, snapshot := range w.snapshots {
		response, err := w.machine.controller().GetSnapshot(background, &csi.GetSnapshotRequest{SnapshotId: snapshot.id})
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if !response.GetSnapshot().GetReadyToUse() {
			return fmt.Errorf("%s is not ready", name)
		}
	}
	return w.verifyDeleted()
}

// verifyDeleted checks that what was acknowledged as deleted has not come back.
func (w *worker) verifyDeleted() error {
	for _, id := range w.deletedVolumes {
		_, err := w.machine.controller().ControllerGetVolume(background, &csi.ControllerGetVolumeRequest{VolumeId: id})
		if err := expectGone(id, err); err != nil {
			return err
		}
	}
	for _, id := range w.deletedSnapshots {
		_, err := w.machine.controller().GetSnapshot(background, &csi.GetSnapshotRequest{SnapshotId: id})
		if err := expectGone(id, err); err != nil {
			return err
		}
	}
	return nil
}

// expectGone is about the answer to a question after something deleted.
func expectGone(id string, err error) error {
	switch status.Code(err) {
	case codes.NotFound:
		return nil
	case codes.OK:
		return fmt.Errorf("%s was deleted, and is there", id)
	}
	return fmt.Errorf("%s was deleted: %w", id, err)
}

// choose picks a change that makes sense now: a name for the statistics, and
// the request, which can be repeated. What there is enough of is not made; what
// there is seldom an occasion for has more weight then.
func (w *worker) choose() (string, func() error) {
	volume, anyVolume := w.pick(w.volumes)
	snapshot, anySnapshot := w.pick(w.snapshots)
	room := len(w.volumes) < w.enough
	var names []string
	for _, change := range []struct {
		name     string
		possible bool
		weight   int
	}{
		{"create", room, 2},
		{"snapshot", anyVolume && len(w.snapshots) < w.enough, 2},
		{"clone", anyVolume && room, 1},
		{"restore", anySnapshot && room, 5},
		{"expand", anyVolume && w.volumes[volume].capacity < largest*w.size, 1},
		{"delete snapshot", anySnapshot, 1},
		{"delete volume", anyVolume, 2},
	} {
		if change.possible {
			names = append(names, slices.Repeat([]string{change.name}, change.weight)...)
		}
	}
	name := names[w.random.IntN(len(names))]
	return name, w.request(name, volume, snapshot)
}

// changes are all that a worker can ask for, in an order in which they can follow
// each other.
var changes = []string{"create", "snapshot", "clone", "restore", "expand", "delete volume", "delete snapshot"}

// request is a change to one of these two, or with it.
func (w *worker) request(change, volume, snapshot string) func() error {
	switch change {
	case "create":
		return w.create(nil, content.Tag(w.random.Uint64()), true)
	case "snapshot":
		return w.snapshot(w.volumes[volume])
	case "clone":
		return w.create(fromVolume(w.volumes[volume].id), w.volumes[volume].Tag, false)
	case "restore":
		return w.create(fromSnapshot(w.snapshots[snapshot].id), w.snapshots[snapshot].Tag, false)
	case "expand":
		return w.expand(volume)
	case "delete snapshot":
		return w.deleteSnapshot(snapshot)
	default:
		return w.deleteVolume(volume)
	}
}

// pick returns the name of any one of the objects.
func (w *worker) pick(objects map[string]object) (string, bool) {
	if len(objects) == 0 {
		return "", false
	}
	names := slices.Sorted(maps.Keys(objects))
	return names[w.random.IntN(len(names))], true
}

func (w *worker) newName(kind string) string {
	w.next++
	return fmt.Sprintf("%s %s %d", w.name, kind, w.next)
}

// create asks for a volume; an empty one is filled before it counts.
func (w *worker) create(source *csi.VolumeContentSource, filling content.Tag, fill bool) func() error {
	name := w.newName("volume")
	return func() error {
		response, err := w.machine.controller().CreateVolume(background, createRequest(w.kind, name, source))
		if err != nil {
			return err
		}
		id := response.GetVolume().GetVolumeId()
		if fill {
			err = w.staged(id, func(path string) error { return w.machine.write(filling, path) })
		}
		if err == nil {
			w.volumes[name] = object{id, response.GetVolume().GetCapacityBytes(), filling}
		}
		return err
	}
}

// staged runs use while the volume is published, as a directory or as a device.
// What a call that was cut off has left is undone first.
func (w *worker) staged(id string, use func(path string) error) error {
	staging, target := filepath.Join(w.staging, "staging"), filepath.Join(w.staging, "target")
	undo := func() error {
		_, err := w.machine.node().NodeUnpublishVolume(background, &csi.NodeUnpublishVolumeRequest{VolumeId: id, TargetPath: target})
		if err == nil {
			_, err = w.machine.node().NodeUnstageVolume(background, &csi.NodeUnstageVolumeRequest{VolumeId: id, StagingTargetPath: staging})
		}
		return err
	}
	if err := undo(); err != nil {
		return err
	}
	if _, err := w.machine.node().NodeStageVolume(background, &csi.NodeStageVolumeRequest{
		VolumeId: id, StagingTargetPath: staging, VolumeCapability: w.how,
	}); err != nil {
		return err
	}
	if _, err := w.machine.node().NodePublishVolume(background, &csi.NodePublishVolumeRequest{
		VolumeId: id, StagingTargetPath: staging, TargetPath: target, VolumeCapability: w.how,
	}); err != nil {
		return err
	}
	return errors.Join(use(target), undo())
}

func (w *worker) snapshot(source object) func() error {
	name := w.newName("snapshot")
	return func() error {
		response, err := w.machine.controller().CreateSnapshot(background, &csi.CreateSnapshotRequest{Name: name, SourceVolumeId: source.id, Parameters: w.snapshotParameters})
		if err == nil {
			w.snapshots[name] = object{response.GetSnapshot().GetSnapshotId(), response.GetSnapshot().GetSizeBytes(), source.Tag}
		}
		return err
	}
}

func (w *worker) expand(name string) func() error {
	grown := w.volumes[name]
	grown.capacity += w.size
	return func() error {
		_, err := w.machine.controller().ControllerExpandVolume(background, &csi.ControllerExpandVolumeRequest{
			VolumeId: grown.id, CapacityRange: &csi.CapacityRange{RequiredBytes: grown.capacity},
		})
		if err == nil {
			w.volumes[name] = grown
		}
		return err
	}
}

func (w *worker) deleteVolume(name string) func() error {
	id := w.volumes[name].id
	return func() error {
		_, err := w.machine.controller().DeleteVolume(background, &csi.DeleteVolumeRequest{VolumeId: id})
		if err == nil {
			w.deletedVolumes = append(w.deletedVolumes, id)
		}
		delete(w.volumes, name) // it may be gone, acknowledged or not
		return err
	}
}

func (w *worker) deleteSnapshot(name string) func() error {
	id := w.snapshots[name].id
	return func() error {
		_, err := w.machine.controller().DeleteSnapshot(background, &csi.DeleteSnapshotRequest{SnapshotId: id})
		if err == nil {
			w.deletedSnapshots = append(w.deletedSnapshots, id)
		}
		delete(w.snapshots, name)
		return err
	}
}

// proveSnapshots restores each snapshot, to see that it is whole.
func (w *worker) proveSnapshots() {
	for name, snapshot := range w.snapshots {
		response, err := w.machine.controller().CreateVolume(background, createRequest(w.kind, "proof of "+name, fromSnapshot(snapshot.id)))
		id := response.GetVolume().GetVolumeId()
		if err == nil {
			err = w.staged(id, func(path string) error { return w.whole(snapshot, path) })
		}
		if err == nil {
			_, err = w.machine.controller().DeleteVolume(background, &csi.DeleteVolumeRequest{VolumeId: id})
		}
		if err != nil {
			w.t.Errorf("%s: restore: %v", name, err)
		}
	}
}

func (w *worker) deleteAll() {
	w.verify(mustLive)
	for name := range w.snapshots {
		// Restored once more, to see that it is whole.
		snapshot := w.snapshots[name]
		if err := w.create(fromSnapshot(snapshot.id), snapshot.Tag, false)(); err != nil {
			w.t.Errorf("%s: restore: %v", name, err)
		}
		if err := w.deleteSnapshot(name)(); err != nil {
			w.t.Errorf("%s: delete: %v", name, err)
		}
	}
	w.verify(mustLive)
	for name := range w.volumes {
		if err := w.deleteVolume(name)(); err != nil {
			w.t.Errorf("%s: delete: %v", name, err)
		}
	}
}
