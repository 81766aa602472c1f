package torture

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/snapdriver/snapdriver/test/torture/content"
)

// failure is a way in which a filesystem gives up.
type failure struct {
	name       string
	filesystem string
	disk       func(t *testing.T, filesystem string, size int64) *disk
	happen     func(d *disk)
}

var failures = []failure{
	{"shut down", "ext4", loopDisk, (*disk).shutDown},
	{"shut down", "xfs", loopDisk, (*disk).shutDown},
	{"read-only", "ext4", loopDisk, (*disk).makeReadOnly},
	{"write errors", "ext4", mappedDisk, (*disk).failWrites},
	{"write errors", "xfs", mappedDisk, (*disk).failWrites},
	{"errors", "ext4", mappedDisk, (*disk).fail},
	{"errors", "xfs", mappedDisk, (*disk).fail},
}

// TestFilesystemFails has the filesystem of the root give up while workers work,
// in several ways. The driver answers everything with an error then, but for
// what it knows without the filesystem; pods can be taken down; and when the
// filesystem is repaired, everything acknowledged is whole, and what failed can
// be repeated.
func TestFilesystemFails(t *testing.T) {
	requireDriver(t)
	for _, f := range failures {
		t.Run(f.name+" "+f.filesystem, func(t *testing.T) {
			var d *disk
			s := onHostpath(f.filesystem, func(t *testing.T, size int64) place {
				d = f.disk(t, f.filesystem, size)
				return placeAt(t, d.dir)
			})
			b := started(t, s, 4*gib)
			random := newRandom(t)
			workers := b.newWorkers(random, 4, 3)
			for _, w := range workers {
				w.machine = onFailing{local{b}, d}
			}
			for range 2 * *scale {
				failed := make(chan struct{})
				time.AfterFunc(upTo(random, 500*time.Millisecond), func() {
					defer close(failed)
					d.failing.Store(true)
					f.happen(d)
				})
				forAll(workers, (*worker).workUntilAnyError)
				<-failed
				b.expectAlive(workers)
				b.Kill()
				b.takeAway()
				d.repair()
				b.Start()
				forAll(workers, func(w *worker) { w.verify(mustLive) })
				b.expectObjects(ids(workers)...)
				if t.Failed() {
					t.Fatalf("the driver's last words:\n%s", b.Logged())
				}
			}
		})
	}
}

// onFailing is a driver on a disk that fails.
type onFailing struct {
	local
	disk *disk
}

// write takes no success for one while the disk fails: fsync then lies to a pod
// as it does to the driver, see stillWrites in pkg/backend/hostpath. A pod has no
// way to know.
func (m onFailing) write(tag content.Tag, path string) error {
	err := m.local.write(tag, path)
	if err == nil && m.disk.failing.Load() {
		err = errors.New("the disk has failed meanwhile")
	}
	return err
}

// workUntilAnyError is work where requests may fail.
func (w *worker) workUntilAnyError() {
	for {
		what, request := w.choose()
		if err := request(); err != nil {
			w.pending = request
			w.cutOff[what]++
			return
		}
		w.acknowledged[what]++
	}
}

// TestRemountedReadOnly: somebody makes the filesystem of the root read-only, which
// the kernel allows while nothing there is open for writing, and then writable
// again. Meanwhile pods read, and can be taken down; what writes is refused; and
// afterwards the driver goes on without having been started anew.
func TestRemountedReadOnly(t *testing.T) {
	requireDriver(t)
	for _, s := range storages() {
		if s.name == "lvm" {
			continue // which has no filesystem of its own
		}
		t.Run(s.name, func(t *testing.T) {
			b := started(t, s, 4*gib)
			workers := b.newWorkers(newRandom(t), 4, 3)
			reader, tag := b.mustCreate(kindOf(s.kinds, "directory"), "reader"), content.Tag(1)
			reader.use(tag.Write)
			for range 2 * *scale {
				b.workAll(workers, time.Second)
				if err := reader.publish(); err != nil {
					t.Fatal(err)
				}
				b.remountReadOnly()
				b.expectAlive(workers)
				if err := errors.Join(tag.Check(reader.target()), reader.unpublish()); err != nil {
					t.Error(err)
				}
				if err := unix.Mount("", b.dir, "", unix.MS_REMOUNT, ""); err != nil {
					t.Fatal(err)
				}
				forAll(workers, func(w *worker) { w.verify(mustLive) })
				b.expectObjects(append(ids(workers), reader.id)...)
			}
		})
	}
}

// remountReadOnly makes the filesystem read-only once nothing is open for writing.
func (b *testbed) remountReadOnly() {
	b.Helper()
	err := unix.Mount("", b.dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
	for deadline := time.Now().Add(time.Minute); errors.Is(err, unix.EBUSY) && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond) // the driver still removes what was deleted
		err = unix.Mount("", b.dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
	}
	if err != nil {
		b.Fatalf("make %s read-only: %v", b.dir, err)
	}
}

// expectAlive asks for everything on a filesystem that has failed. Nothing that
// writes succeeds, and the errors say which filesystem it is; nothing hangs; and
// pods can be taken down.
func (b *testbed) expectAlive(workers []*worker) {
	b.Helper()
	ctx, cancel := context.WithTimeout(background, time.Minute)
	defer cancel()
	b.list()
	for _, w := range workers {
		_, err := b.Controller.CreateVolume(ctx, createRequest(w.kind, "impossible", nil))
		b.expectClear(w.name+": create", err)
		for name, volume := range w.volumes {
			_, err := b.Controller.CreateSnapshot(ctx, &csi.CreateSnapshotRequest{Name: "impossible", SourceVolumeId: volume.id})
			b.expectClear(name+": snapshot", err)
			for what, err := range map[string]error{
				"unpublish": func() error {
					_, err := b.Node.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: volume.id, TargetPath: w.staging + "/target"})
					return err
				}(),
				"unstage": func() error {
					_, err := b.Node.NodeUnstageVolume(ctx, &csi.NodeUnstageVolumeRequest{VolumeId: volume.id, StagingTargetPath: w.staging + "/staging"})
					return err
				}(),
			} {
				if err != nil && w.how.GetBlock() == nil { // see docs/design.md: a raw device stays while its record cannot be read
					b.Errorf("%s: %s: %v", name, what, err)
				}
			}
		}
	}
}

// expectClear checks that an error tells of a failure, and where.
func (b *testbed) expectClear(what string, err error) {
	b.Helper()
	if !isFailure(err) || !strings.Contains(err.Error(), "filesystem of "+b.root) {
		b.Errorf("%s: %v", what, err)
	}
}

// isFailure says whether an error tells of a failure, and not of a request or of
// a driver that is gone.
func isFailure(err error) bool {
	switch status.Code(err) {
	case codes.Internal, codes.FailedPrecondition, codes.ResourceExhausted:
		return true
	}
	return false
}

// TestUnreadableFile: a file of which the device can read nothing is not copied
// as something else. A copy either fails and leaves nothing, or shares blocks
// with the file, and has all of it when the device can read it again.
func TestUnreadableFile(t *testing.T) {
	requireDriver(t)
	for _, filesystem := range []string{"ext4", "xfs"} {
		for _, of := range hostpathKinds {
			t.Run(filesystem+" "+of.name, func(t *testing.T) {
				d := mappedDisk(t, filesystem, gib)
				b := started(t, onHostpath(filesystem, func(t *testing.T, _ int64) place { return placeAt(t, d.dir) }), 0)
				v := b.mustCreate(of, "unreadable")
				tag := content.Tag(1)
				v.use(tag.Write)
				file := filepath.Join(b.root, "volumes", v.id, "image")
				if of.parameters == nil && of.how.GetBlock() == nil {
					file = filepath.Join(b.root, "volumes", v.id, "data", "dir", "large")
				}
				d.failFile(file)
				cut, snapshotErr := v.snapshot("cut")
				clone, cloneErr := b.create(of, "clone", fromVolume(v.id))
				d.change(d.whole())

				t.Logf("snapshot: %v; clone: %v", snapshotErr, cloneErr)
				expected := []string{v.id}
				if snapshotErr == nil {
					expected = append(expected, cut)
				}
				if cloneErr == nil {
					expected = append(expected, clone.id)
					clone.use(tag.Check)
				}
				b.expectObjects(expected...)
				cut = v.mustSnapshot("cut")
				restored, err := b.create(of, "restored", fromSnapshot(cut))
				if err != nil {
					t.Fatal(err)
				}
				restored.use(tag.Check)
			})
		}
	}
}
