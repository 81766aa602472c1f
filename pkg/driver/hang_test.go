package driver

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/snapdriver/snapdriver/pkg/backend"
	"github.com/snapdriver/snapdriver/pkg/backend/memory"
)

// hangingBackend has storage of which parts do not answer until the test says so.
type hangingBackend struct {
	*memory.Backend
	hangs  map[string]bool // IDs of volumes, and wholeStorage
	answer chan struct{}
}

const wholeStorage = "storage"

func (b *hangingBackend) about(what string) {
	if b.hangs[what] {
		<-b.answer
	}
}

func (b *hangingBackend) VolumeHealth(ctx context.Context, id backend.VolumeID) ([]backend.Condition, error) {
	b.about(id.String())
	return b.Backend.VolumeHealth(ctx, id)
}

func (b *hangingBackend) StorageHealth(ctx context.Context) ([]backend.Condition, error) {
	b.about(wholeStorage)
	return b.Backend.StorageHealth(ctx)
}

func (b *hangingBackend) Available(ctx context.Context, profile backend.Profile) (int64, error) {
	b.about(wholeStorage)
	return b.Backend.Available(ctx, profile)
}

func (b *hangingBackend) Gauges(ctx context.Context) ([]backend.Gauge, error) {
	b.about(wholeStorage)
	return b.Backend.Gauges(ctx)
}

// hanging is a server on such storage, in a bubble with a clock of its own.
type hanging struct {
	*Server
	controller *controller
	node       *node
	backend    *hangingBackend
	ids        []string // of volumes, in order
	goOn       func()   // everything answers from now on
}

// onHanging runs a test on so many volumes, none of which hangs yet.
func onHanging(t *testing.T, volumes int, test func(t *testing.T, h hanging)) {
	synctest.Test(t, func(t *testing.T) {
		disk, err := memory.Open(memory.NewDisk(100*gib), nil)
		if err != nil {
			t.Fatal(err)
		}
		b := &hangingBackend{disk, map[string]bool{}, make(chan struct{})}
		server, err := New(testConfig(t, b))
		if err == nil {
			err = server.open(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		h := hanging{server, &controller{Server: server}, &node{Server: server}, b, nil, sync.OnceFunc(func() { close(b.answer) })}
		for n := range volumes {
			created := must[*csi.CreateVolumeResponse](t)(h.controller.CreateVolume(t.Context(), volumeRequest(fmt.Sprint(n))))
			h.ids = append(h.ids, created.Volume.VolumeId)
		}
		slices.Sort(h.ids)
		test(t, h)
		h.goOn()
		synctest.Wait()
		if err := h.core().Close(); err != nil {
			t.Error(err)
		}
	})
}

// hang makes volumes, or wholeStorage, hang.
func (h hanging) hang(what ...string) {
	for _, one := range what {
		h.backend.hangs[one] = true
	}
}

// expectListed compares the volumes of which the list of health tells that they do
// not respond, and returns how long that took.
func (h hanging) expectListed(t *testing.T, want ...string) time.Duration {
	t.Helper()
	began := time.Now()
	list := must[*csi.ControllerListVolumeHealthResponse](t)(h.controller.ControllerListVolumeHealth(t.Context(), &csi.ControllerListVolumeHealthRequest{}))
	took := time.Since(began)
	var ids []string
	for _, entry := range list.Entries {
		if got := entries(t, entry, entry.VolumeId); !slices.Equal(got, []string{"INACCESSIBLE NotResponding"}) {
			t.Errorf("%s: %q", entry.VolumeId, got)
		}
		ids = append(ids, entry.VolumeId)
	}
	if !slices.Equal(ids, want) {
		t.Errorf("%d volumes are listed: %q, want %d: %q", len(ids), ids, len(want), want)
	}
	return took
}

// expectStorage compares the conditions of the storage.
func (h hanging) expectStorage(t *testing.T, want ...string) {
	t.Helper()
	var got []string
	for _, e := range must[*csi.NodeGetStorageHealthResponse](t)(h.node.NodeGetStorageHealth(t.Context(), &csi.NodeGetStorageHealthRequest{})).BackendHealth {
		got = append(got, fmt.Sprint(e.Status, " ", e.Reason))
	}
	if !slices.Equal(got, want) {
		t.Errorf("the storage: %q, want %q", got, want)
	}
}

// TestStorageHangs: that the storage does not answer is an answer.
func TestStorageHangs(t *testing.T) {
	onHanging(t, 1, func(t *testing.T, h hanging) {
		h.hang(append(h.ids, wholeStorage)...)
		h.expectListed(t, h.ids...)
		asked := must[*csi.NodeGetVolumeHealthResponse](t)(h.node.NodeGetVolumeHealth(t.Context(), &csi.NodeGetVolumeHealthRequest{VolumeId: h.ids[0]}))
		if got := entries(t, asked.VolumeHealth, h.ids[0]); !slices.Equal(got, []string{"INACCESSIBLE NotResponding"}) {
			t.Errorf("NodeGetVolumeHealth: %q", got)
		}
		h.expectStorage(t, "STORAGE_UNREACHABLE NotResponding")
		h.goOn()
		synctest.Wait()
		h.expectListed(t)
		h.expectStorage(t)
	})
}

// TestListOfHangingVolumes: however many volumes do not answer, each is listed,
// in a time that callers have; and they do not keep the storage from being asked.
func TestListOfHangingVolumes(t *testing.T) {
	onHanging(t, maxInquiries+50, func(t *testing.T, h hanging) {
		h.hang(h.ids...)
		for again, longest := range []time.Duration{10 * time.Second, impatience} {
			if took := h.expectListed(t, h.ids...); took > longest {
				t.Errorf("list %d took %s", again, took)
			}
		}
		h.expectStorage(t)
	})
}

// TestListWithOneThatHangs: the others are not taken for hanging too.
func TestListWithOneThatHangs(t *testing.T) {
	onHanging(t, 20, func(t *testing.T, h hanging) {
		h.hang(h.ids[7])
		h.expectListed(t, h.ids[7])
	})
}

// TestPollsOfHangingStorage: who asks again and again joins the question that is
// open, and gets an answer in time.
func TestPollsOfHangingStorage(t *testing.T) {
	onHanging(t, 0, func(t *testing.T, h hanging) {
		h.hang(wholeStorage)
		for range 300 {
			_, err := (&identity{Server: h.Server}).Probe(t.Context(), &csi.ProbeRequest{})
			wantCode(t, statusOf(err), codes.FailedPrecondition)
			_, err = h.controller.GetCapacity(t.Context(), &csi.GetCapacityRequest{VolumeCapabilities: []*csi.VolumeCapability{blockCapability(writer)}})
			wantCode(t, statusOf(err), codes.Unavailable)
		}
		if open := len(h.capacityAsked.open); open != 2 { // for filesystems, and for blocks
			t.Errorf("%d questions are open", open)
		}
		began := time.Now()
		if _, err := h.metrics.registry.Gather(); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took > patience {
			t.Errorf("the metrics took %s", took)
		}
	})
}
