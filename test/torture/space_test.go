package torture

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/snapdriver/snapdriver/internal/testenv"
	"github.com/snapdriver/snapdriver/test/torture/content"
)

// smallDisks are the sizes of filesystems that are filled: XFS has no smaller
// ones.
var smallDisks = map[string]int64{"ext4": 256 * mib, "xfs": 320 * mib}

// onSmallDisk runs a test on each filesystem that the hostpath backend can be
// given, small, and with nothing reserved for root, which the driver is. Full
// thin pools are the subject of test/poolfull.
func onSmallDisk(t *testing.T, run func(b *testbed)) {
	requireDriver(t)
	for _, s := range storages() {
		if s.name == "lvm" {
			continue
		}
		t.Run(s.name, func(t *testing.T) {
			b := newTestbed(t, s, smallDisks[s.name])
			if s.name == "ext4" {
				testenv.Run(t, "tune2fs", "-m", "0", deviceAt(t, b.dir))
			}
			b.Start()
			run(b)
		})
	}
}

// deviceAt returns the device that is mounted at a directory.
func deviceAt(t testing.TB, dir string) string {
	t.Helper()
	mounts, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(dir))
	if err != nil || len(mounts) != 1 {
		t.Fatalf("%s: %v, %v", dir, mounts, err)
	}
	return mounts[0].Source
}

// leastSize is how small volumes can be, for the driver refuses at once what is
// larger than the space that is free. The size of a directory is a mere number.
var leastSize = map[string]int64{"directory": 1, "compressed": 1, "image": 8 * mib, "block": mib}

// TestSpaceRunsOut has each request run out of space at every point of its way:
// with nothing left, a block, two, ..., and in larger steps up to what it needs.
// It succeeds, or gets RESOURCE_EXHAUSTED and leaves nothing; what was there
// before stays whole; and once there is space it succeeds.
func TestSpaceRunsOut(t *testing.T) {
	onSmallDisk(t, func(b *testbed) {
		for _, of := range b.kinds {
			of.size = leastSize[of.name]
			b.sub(of.name, func(b *testbed) {
				p := b.newPatient(of)
				for _, request := range []string{"create", "snapshot", "restore", "clone", "expand"} {
					b.sub(request, func(b *testbed) { p.runOut(b, request) })
				}
				p.dismiss()
				b.deleteAll()
			})
		}
	})
}

// askSpace makes a request that needs space, and returns how to take its effect
// away.
func (p *patient) askSpace(request string) (undo func() error, err error) {
	switch request {
	case "snapshot":
		id, err := p.volume.snapshot("new")
		return func() error { return errors.Join(p.proveSnapshot(id), p.deleteSnapshot(id)) }, err
	case "expand":
		size := p.size + mib
		_, err := p.Controller.ControllerExpandVolume(background, &csi.ControllerExpandVolumeRequest{
			VolumeId: p.id, CapacityRange: &csi.CapacityRange{RequiredBytes: size},
		})
		if err == nil {
			p.size = size
		}
		return func() error { return nil }, err
	}
	source := map[string]*csi.VolumeContentSource{"create": nil, "restore": fromSnapshot(p.snapshot), "clone": fromVolume(p.id)}[request]
	v, err := p.create(p.kind, "new", source)
	return func() error {
		var wrong error
		if source != nil {
			v.use(func(path string) error { wrong = p.tag.Check(path); return nil })
		}
		return errors.Join(wrong, p.deleteVolume(v.id))
	}, err
}

// proveSnapshot looks whether a snapshot has everything, for which it makes room.
func (p *patient) proveSnapshot(id string) error {
	p.leaveAllFree()
	restored, err := p.create(p.kind, "proof", fromSnapshot(id))
	if err != nil {
		return err
	}
	var wrong error
	restored.use(func(path string) error { wrong = p.tag.Check(path); return nil })
	return errors.Join(wrong, p.deleteVolume(restored.id))
}

// refusal is the code of a request for which there is no room.
func refusal(request string) codes.Code {
	if request == "expand" {
		return codes.OutOfRange // see snapshotcore.Core.ExpandVolume
	}
	return codes.ResourceExhausted
}

// runOut makes a request again and again, with more and more space.
func (p *patient) runOut(b *testbed, request string) {
	volumes, snapshots := b.list()
	there := append(volumes, snapshots...)
	refused, granted := 0, 0
	for _, free := range p.levels() {
		b.leaveFree(free)
		before := b.used()
		undo, err := p.askSpace(request)
		switch status.Code(err) {
		case codes.OK:
			granted++
			if err := undo(); err != nil {
				b.Errorf("with %d bytes free: %v", free, err)
			}
		case refusal(request):
			refused++
			if after := b.used(); after > before+slack {
				b.Errorf("with %d bytes free: refused, and %d bytes more are used", free, after-before)
			}
			b.expectNothingStaged()
		default:
			b.Errorf("with %d bytes free: %v", free, err)
		}
		if err := p.tag.Check(p.target()); err != nil {
			b.Errorf("with %d bytes free: %v", free, err)
		}
		b.expectServed(there)
		if b.Failed() {
			break
		}
	}
	b.leaveAllFree()
	if undo, err := p.askSpace(request); err != nil {
		b.Errorf("with all space: %v", err)
	} else if err := undo(); err != nil {
		b.Errorf("with all space: %v", err)
	}
	b.Logf("%d times refused, %d times granted", refused, granted)
	if refused == 0 {
		b.Error("it never ran out of space")
	}
}

// expectNothingStaged checks that what was refused has left nothing half done.
func (b *testbed) expectNothingStaged() {
	b.Helper()
	for _, dir := range []string{"staging", "damaged"} {
		left, err := os.ReadDir(filepath.Join(b.root, dir))
		if err != nil && !errors.Is(err, os.ErrNotExist) || len(left) > 0 {
			b.Errorf("%s: %v, %v", dir, left, err)
		}
	}
}

// levels are how much space is left free, in bytes.
func (p *patient) levels() (levels []int64) {
	for free := int64(0); free < mib; free += 4 * kib * max(1, 8/int64(*scale)) {
		levels = append(levels, free)
	}
	for free := int64(mib); free <= p.size+4*mib; free += mib {
		levels = append(levels, free)
	}
	return levels
}

// expectServed checks that these are the objects that the driver has.
func (b *testbed) expectServed(ids []string) {
	b.Helper()
	volumes, snapshots := b.list()
	if have := len(volumes) + len(snapshots); have != len(ids) {
		b.Errorf("%d objects, expected %d", have, len(ids))
	}
}

func (b *testbed) ballast() string { return filepath.Join(b.dir, "ballast") }

// leaveFree fills the filesystem but for so many bytes, or a little less.
func (b *testbed) leaveFree(free int64) {
	b.Helper()
	b.leaveAllFree()
	file, err := os.Create(b.ballast())
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	var size int64
	for chunk := int64(64 * mib); chunk >= 4*kib; {
		err := unix.Fallocate(int(file.Fd()), 0, size, chunk)
		switch {
		case err == nil:
			size += chunk
		case errors.Is(err, unix.ENOSPC):
			chunk /= 2
		default:
			b.Fatal(err)
		}
	}
	if err := errors.Join(file.Truncate(max(0, size-free)), file.Sync()); err != nil {
		b.Fatal(err)
	}
	unix.Sync()
}

func (b *testbed) leaveAllFree() {
	b.Helper()
	// XFS gives back the blocks of what is truncated at once, and those of what is
	// removed when it has time.
	err := os.Truncate(b.ballast(), 0)
	if err == nil {
		err = os.Remove(b.ballast())
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		b.Fatal(err)
	}
	unix.Sync()
}

// TestSpaceDeletion: on a filesystem without a free byte, where somebody takes
// at once whatever becomes free, the driver starts, also with unfinished work to
// clear away, and everything can be deleted; and so it is where the driver dies
// at each step of that.
func TestSpaceDeletion(t *testing.T) {
	onSmallDisk(t, func(b *testbed) {
		for _, step := range []string{"none", "exchange", "remove spare", "sync"} {
			b.sub("dying at "+step, func(b *testbed) {
				deletions := b.fillWithObjects()
				b.Kill()
				b.leaveFree(0)
				stop := b.startEating()
				defer stop()
				b.Env = []string{"SNAPDRIVER_DIE_AT=1 " + step}
				b.Start()
				b.Env = nil
				supervised := b.supervise()
				for _, err := range atOnce(len(deletions), func(i int) error { return untilDone(deletions[i]) }) {
					if err != nil {
						b.Error(err)
					}
				}
				b.Logf("died %d times", supervised())
				stop()
				b.leaveAllFree()
				b.expectObjects()
			})
		}
	})
}

// fillWithObjects makes volumes and snapshots of all kinds, and something
// unfinished, and returns how to delete the objects. The driver is dead
// afterwards.
func (b *testbed) fillWithObjects() (deletions []func() error) {
	b.Helper()
	b.Kill()
	const count = 20
	b.Env = []string{fmt.Sprintf("SNAPDRIVER_DIE_AT=%d settle", 2*count*len(b.kinds)+1)}
	b.Start()
	b.Env = nil
	for i := range count {
		for _, of := range b.kinds {
			of.size = 8 * mib
			v := b.mustCreate(of, fmt.Sprint(of.name, i))
			if i == 0 {
				v.use(content.Tag(1).Write)
			}
			cut := v.mustSnapshot(v.name)
			deletions = append(deletions, func() error { return b.deleteSnapshot(cut) }, func() error { return b.deleteVolume(v.id) })
		}
	}
	_, err := b.create(kindOf(b.kinds, "directory"), "unfinished", nil)
	expectCode(b, err, codes.Unavailable)
	return deletions
}

// untilDone repeats a request while it may succeed later.
func untilDone(request func() error) error {
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		err := request()
		if code := status.Code(err); code != codes.Aborted && code != codes.Unavailable || time.Now().After(deadline) {
			return err
		}
	}
}

// startEating takes all space that becomes free, until it is stopped.
func (b *testbed) startEating() (stop func()) {
	b.Helper()
	file, err := os.OpenFile(b.ballast(), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(background)
	var done sync.WaitGroup
	done.Go(func() {
		block := make([]byte, 4*kib)
		for ctx.Err() == nil {
			if _, err := file.Write(block); err != nil {
				time.Sleep(time.Millisecond)
			}
		}
		file.Close()
	})
	stop = sync.OnceFunc(func() { cancel(); done.Wait() })
	b.Cleanup(stop)
	return stop
}

// TestSpaceInodes is TestSpaceRunsOut for the number of files, which ext4 limits
// in any case, and XFS to a share of its space.
func TestSpaceInodes(t *testing.T) {
	onSmallDisk(t, func(b *testbed) {
		if b.name == "xfs" {
			testenv.Run(b, "xfs_growfs", "-m", "1", b.dir) // percent
		}
		of := kindOf(b.kinds, "directory")
		p := b.newPatient(of)
		dir := filepath.Join(b.dir, "files")
		if err := os.Mkdir(dir, 0o755); err != nil {
			b.Fatal(err)
		}
		var taken []string
		volumes, snapshots := b.list()
		for _, request := range []string{"create", "snapshot", "restore", "clone", "expand"} {
			taken = takeInodes(b, dir, taken)
			for free := 0; ; free++ {
				undo, err := p.askSpace(request)
				expectCode(b, err, codes.OK, refusal(request))
				b.expectNothingStaged()
				if err == nil {
					b.Logf("%s: %d inodes were enough", request, free)
					err = undo()
				}
				b.expectServed(append(volumes, snapshots...))
				if b.Failed() {
					b.Fatalf("%s, with %d inodes free: %v", request, free, err)
				}
				if err == nil {
					break
				}
				if err := os.Remove(taken[len(taken)-1]); err != nil {
					b.Fatal(err)
				}
				unix.Sync() // XFS frees inodes in the background
				taken = taken[:len(taken)-1]
			}
		}
		p.dismiss()
		if err := os.RemoveAll(dir); err != nil {
			b.Error(err)
		}
	})
}

// takeInodes makes files in a directory, beside those that were made, until no
// more can be.
func takeInodes(t testing.TB, dir string, made []string) []string {
	t.Helper()
	for {
		path := filepath.Join(dir, fmt.Sprint(len(made)))
		file, err := os.Create(path)
		if errors.Is(err, unix.ENOSPC) {
			return made
		}
		if err != nil {
			t.Fatal(err)
		}
		file.Close()
		made = append(made, path)
	}
}
