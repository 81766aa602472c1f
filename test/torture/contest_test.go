package torture

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/moby/sys/mountinfo"
	"google.golang.org/grpc/codes"

	"github.com/snapdriver/snapdriver/test/torture/content"
)

// contest is a volume with a content, a snapshot of it, and what callers were
// promised who do things with both at once.
type contest struct {
	*volume
	tag      content.Tag
	snapshot string

	mutex    sync.Mutex
	made     []string // IDs of other objects
	capacity int64
	deleted  map[string]bool // by ID
}

// made notes that an object was acknowledged.
func (c *contest) make(id string, err error) error {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if err == nil {
		c.made = append(c.made, id)
	}
	return err
}

func (c *contest) delete(id string, err error) error {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if err == nil {
		c.deleted[id] = true
	}
	return err
}

// move is what may be done, and which answers beside OK are right while others
// do something else or the same. The number tells the callers apart.
type move struct {
	what string
	do   func(c *contest, i int) error
	may  []codes.Code
}

func (m move) deletes() bool { return strings.HasPrefix(m.what, "delete") }

var moves = []move{
	{"create", func(c *contest, _ int) error {
		v, err := c.create(c.kind, c.name, nil)
		return c.make(v.id, err)
	}, []codes.Code{codes.Aborted}},
	{"delete", func(c *contest, _ int) error {
		return c.delete(c.id, c.deleteVolume(c.id))
	}, []codes.Code{codes.Aborted, codes.FailedPrecondition}},
	{"snapshot", func(c *contest, i int) error {
		return c.make(c.volume.snapshot(fmt.Sprint("cut ", i)))
	}, []codes.Code{codes.Aborted, codes.NotFound}},
	{"delete snapshot", func(c *contest, _ int) error {
		return c.delete(c.snapshot, c.deleteSnapshot(c.snapshot))
	}, []codes.Code{codes.Aborted}},
	{"clone", func(c *contest, i int) error {
		v, err := c.create(c.kind, fmt.Sprint("clone ", i), fromVolume(c.id))
		return c.make(v.id, err)
	}, []codes.Code{codes.Aborted, codes.NotFound}},
	{"restore", func(c *contest, i int) error {
		v, err := c.create(c.kind, fmt.Sprint("restored ", i), fromSnapshot(c.snapshot))
		return c.make(v.id, err)
	}, []codes.Code{codes.Aborted, codes.NotFound}},
	{"expand", func(c *contest, i int) error {
		size := c.size + int64(i+1)*mib
		_, err := c.Controller.ControllerExpandVolume(background, &csi.ControllerExpandVolumeRequest{
			VolumeId: c.id, CapacityRange: &csi.CapacityRange{RequiredBytes: size},
		})
		c.mutex.Lock()
		defer c.mutex.Unlock()
		if err == nil {
			c.capacity = max(c.capacity, size)
		}
		return err
	}, []codes.Code{codes.Aborted, codes.NotFound}},
	{
		"publish", func(c *contest, _ int) error { return c.publish() },
		[]codes.Code{codes.Aborted, codes.NotFound, codes.FailedPrecondition},
	},
	{
		"unpublish", func(c *contest, _ int) error { return c.unpublish() },
		[]codes.Code{codes.Aborted, codes.FailedPrecondition},
	},
}

// TestRaceOfTwo has every two moves on one volume made at once, each by several
// callers. Whoever wins, everyone gets a true answer, what is there afterwards
// is whole, and nothing is there that nobody asked for. Where requests take long,
// one of the two deletes, unless -torture.scale asks for as much.
func TestRaceOfTwo(t *testing.T) {
	onEach(t, func(t *testing.T, s storage) {
		b := started(t, s, 8*gib)
		random := newRandom(t)
		contests := 0
		for i, one := range moves {
			for _, other := range moves[i:] {
				if s.pace > *scale && !one.deletes() && !other.deletes() {
					continue
				}
				b.sub(one.what+" and "+other.what, func(b *testbed) {
					for range *scale {
						of := s.kinds[contests%len(s.kinds)]
						contests++
						b.contest(of, random, one, other)
						if b.Failed() {
							b.Fatalf("of kind %s", of.name)
						}
					}
				})
			}
		}
	})
}

func (b *testbed) contest(of kind, random *rand.Rand, two ...move) {
	c := &contest{volume: b.mustCreate(of, "contested"), tag: content.Tag(random.Uint64()), deleted: map[string]bool{}}
	c.use(c.tag.Write)
	c.snapshot = c.mustSnapshot("contested")
	const callers = 3
	var delays [2 * callers]time.Duration
	for i := range delays {
		delays[i] = upTo(random, c.long(5*time.Millisecond))
	}
	for i, err := range atOnce(len(delays), func(i int) error {
		time.Sleep(delays[i])
		return two[i%2].do(c, i)
	}) {
		if !expectCode(b, err, append(two[i%2].may, codes.OK)...) {
			b.Logf("of %s", two[i%2].what)
		}
	}
	c.settle(two[0].what == "create" && two[1].what == "delete")
}

// settle checks what has come out of it, and takes it away. The volume may have
// been deleted and made again.
func (c *contest) settle(anew bool) {
	c.Helper()
	volumes, snapshots := c.list()
	if mounted, err := mountinfo.Mounted(c.target()); err == nil && mounted && !slices.Contains(volumes, c.id) {
		c.Error("it is published and gone")
	}
	if err := c.unpublish(); err != nil {
		c.Errorf("unpublish: %v", err)
	}
	all := append(volumes, snapshots...)
	for _, id := range append(c.made, c.id, c.snapshot) {
		there := slices.Contains(all, id)
		if !there && !c.deleted[id] {
			c.Errorf("%s is not there", id)
		}
		if there && c.deleted[id] && !anew {
			c.Errorf("%s was deleted and is there", id)
		}
	}
	for _, id := range all {
		if !slices.Contains(append(c.made, c.id, c.snapshot), id) {
			c.Errorf("%s is there", id)
		}
	}
	for _, id := range snapshots {
		restored, err := c.create(c.kind, "proof of "+id, fromSnapshot(id))
		if err != nil {
			c.Errorf("restore %s: %v", id, err)
		} else {
			restored.use(c.tag.Check)
		}
	}
	for _, id := range volumes {
		v := *c.volume
		v.id = id
		v.use(func(path string) error {
			if anew {
				return nil
			}
			return c.tag.Check(path)
		})
	}
	c.expectCapacity()
	c.deleteAll()
	c.expectObjects()
}

// expectCapacity checks that the volume is as large as was acknowledged.
func (c *contest) expectCapacity() {
	c.Helper()
	response, err := c.Controller.ControllerGetVolume(background, &csi.ControllerGetVolumeRequest{VolumeId: c.id})
	if has := response.GetVolume().GetCapacityBytes(); err == nil && has < c.capacity {
		c.Errorf("it has %d bytes, %d were acknowledged", has, c.capacity)
	}
}
