package torture

import (
	"fmt"
	"sync"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

// atOnce calls do with each number below count, all at the same time, and
// returns the errors.
func atOnce(count int, do func(i int) error) []error {
	errs := make([]error, count)
	var all sync.WaitGroup
	start := make(chan struct{})
	for i := range count {
		all.Go(func() {
			<-start
			errs[i] = do(i)
		})
	}
	close(start)
	all.Wait()
	return errs
}

// TestRaceSameName: however many ask for one name at once, there is one object.
// Those who ask for another under that name are told so.
func TestRaceSameName(t *testing.T) {
	onEach(t, func(t *testing.T, s storage) {
		b := started(t, s, 8*gib)
		for _, of := range s.kinds {
			b.sub(of.name, func(b *testbed) {
				another := of
				another.how = proto.CloneOf(of.how)
				another.how.AccessMode.Mode = csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER
				volume := expectOne(b, func(which int) (string, error) {
					v, err := b.create([]kind{of, another}[which], "same", nil)
					return v.id, err
				})
				other := b.mustCreate(of, "other")
				snapshot := expectOne(b, func(which int) (string, error) {
					source := *other
					if which == 0 {
						source.id = volume
					}
					return source.snapshot("same")
				})
				b.expectObjects(volume, other.id, snapshot)
				b.deleteAll()
			})
		}
	})
}

// expectOne asks 100 times at once for two different objects under one name,
// and again once it is settled which of the two came to be.
func expectOne(t testing.TB, ask func(which int) (id string, err error)) (id string) {
	t.Helper()
	const calls = 100
	ids := make([]string, calls)
	try := func(i int) (err error) {
		ids[i], err = ask(i % 2)
		return err
	}
	first := -1
	for i, err := range atOnce(calls, try) {
		if expectCode(t, err, codes.OK, codes.AlreadyExists, codes.Aborted); err != nil {
			continue
		}
		if first < 0 {
			first, id = i, ids[i]
		}
		if i%2 != first%2 || ids[i] != id {
			t.Errorf("call %d got %q and call %d %q: there is to be one", first, id, i, ids[i])
		}
	}
	settled := atOnce(2, try)
	if (settled[0] == nil) == (settled[1] == nil) {
		t.Errorf("of two different objects under one name, one is to be: %v", settled)
	}
	for i, err := range settled {
		if expectCode(t, err, codes.OK, codes.AlreadyExists); err == nil && ids[i] != id {
			t.Errorf("it was %q and is %q", id, ids[i])
		}
	}
	return id
}

// TestRaceMany makes many volumes at once, and then a snapshot of each: with the
// scale 3, a thousand.
func TestRaceMany(t *testing.T) {
	onEach(t, func(t *testing.T, s storage) {
		b := started(t, s, 16*gib)
		count := s.many * *scale
		volumes, snapshots := make([]*volume, count), make([]string, count)
		for step, do := range []func(i int) error{
			func(i int) (err error) {
				volumes[i], err = b.create(s.kinds[i%len(s.kinds)], fmt.Sprint(i), nil)
				return err
			},
			func(i int) (err error) {
				snapshots[i], err = volumes[i].snapshot(fmt.Sprint(i))
				return err
			},
		} {
			for i, err := range atOnce(count, do) {
				if err != nil {
					t.Fatalf("step %d of %d: %v", step, i, err)
				}
			}
		}
		for _, v := range volumes {
			snapshots = append(snapshots, v.id)
		}
		b.expectObjects(snapshots...)
	})
}
