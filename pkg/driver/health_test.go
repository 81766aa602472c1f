package driver

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/snapdriver/snapdriver/internal/testenv"
	"github.com/snapdriver/snapdriver/pkg/backend"
	"github.com/snapdriver/snapdriver/pkg/backend/hostpath"
	"github.com/snapdriver/snapdriver/pkg/backend/memory"
)

// startFaulty starts a server over memory whose health the test decides.
func startFaulty(t *testing.T, step backend.StepFunc) (client, *memory.Backend) {
	t.Helper()
	b, err := memory.Open(memory.NewDisk(100*gib), step)
	if err != nil {
		t.Fatal(err)
	}
	return start(t, b, nil), b
}

// afflict makes a volume have conditions.
func afflict(t *testing.T, b *memory.Backend, volume *csi.Volume, conditions ...backend.Condition) {
	t.Helper()
	id, err := backend.ParseVolumeID(volume.VolumeId)
	if err == nil {
		err = b.SetVolumeHealth(id, conditions...)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// entries returns what is wrong with a volume as "STATUS Reason", and fails the
// test unless it is the one asked about, and each entry is of a form that CSI
// allows.
func entries(t *testing.T, health *csi.VolumeHealth, id string) []string {
	t.Helper()
	if health == nil || health.VolumeId != id {
		t.Errorf("health of %v, want %s", health, id)
	}
	var all []string
	for _, e := range health.GetHealthStatuses() {
		all = append(all, fmt.Sprint(e.Status, " ", e.Reason))
		if e.Reason == "" || len(e.Message) > maxString || !utf8.ValidString(e.Message) {
			t.Errorf("entry %v", e)
		}
	}
	slices.Sort(all)
	if len(slices.Compact(slices.Clone(all))) != len(all) {
		t.Errorf("repeated: %q", all)
	}
	return all
}

// wantHealth asks both services about a volume, without paths.
func (c client) wantHealth(t *testing.T, id string, want ...string) {
	t.Helper()
	controller := must[*csi.ControllerGetVolumeHealthResponse](t)(c.ControllerGetVolumeHealth(background, &csi.ControllerGetVolumeHealthRequest{VolumeId: id}))
	if got := entries(t, controller.VolumeHealth, id); !slices.Equal(got, want) {
		t.Errorf("ControllerGetVolumeHealth: %v, want %q", controller, want)
	}
	node := must[*csi.NodeGetVolumeHealthResponse](t)(c.NodeGetVolumeHealth(background, &csi.NodeGetVolumeHealthRequest{VolumeId: id}))
	if got := entries(t, node.VolumeHealth, id); !slices.Equal(got, want) {
		t.Errorf("NodeGetVolumeHealth: %v, want %q", node, want)
	}
}

func TestVolumeHealth(t *testing.T) {
	c, b := startFaulty(t, nil)
	v := c.create(t, volumeRequest("v"))
	c.wantHealth(t, v.VolumeId)
	afflict(t, b, v,
		backend.Condition{Severity: backend.Degraded, Reason: "Slow", Message: strings.Repeat("ü", 100)},
		backend.Condition{Severity: backend.Inaccessible, Reason: "Gone"},
		backend.Condition{Severity: backend.Degraded, Reason: "Gone"},
		backend.Condition{Severity: backend.Degraded, Reason: "Slow", Message: "again"},
		backend.Condition{Severity: backend.DataLoss, Reason: "Lost"})
	c.wantHealth(t, v.VolumeId, "DATA_LOSS Lost", "DEGRADED Gone", "DEGRADED Slow", "INACCESSIBLE Gone")
	afflict(t, b, v)
	c.wantHealth(t, v.VolumeId)
}

func TestVolumeHealthCodes(t *testing.T) {
	c := startMemory(t)
	v := c.create(t, volumeRequest("v"))
	for name, test := range map[string]struct {
		request    *csi.NodeGetVolumeHealthRequest
		controller codes.Code
		node       codes.Code
	}{
		"no ID":            {&csi.NodeGetVolumeHealthRequest{}, codes.InvalidArgument, codes.InvalidArgument},
		"malformed":        {&csi.NodeGetVolumeHealthRequest{VolumeId: "no"}, codes.NotFound, codes.NotFound},
		"absent":           {&csi.NodeGetVolumeHealthRequest{VolumeId: backend.NewVolumeID(testNode, "absent").String()}, codes.NotFound, codes.NotFound},
		"on another node":  {&csi.NodeGetVolumeHealthRequest{VolumeId: elsewhere}, codes.FailedPrecondition, codes.NotFound},
		"relative staging": {&csi.NodeGetVolumeHealthRequest{VolumeId: v.VolumeId, StagingTargetPath: "a"}, codes.OK, codes.InvalidArgument},
		"relative target":  {&csi.NodeGetVolumeHealthRequest{VolumeId: v.VolumeId, VolumePublishPath: "a"}, codes.OK, codes.InvalidArgument},
		"upward target":    {&csi.NodeGetVolumeHealthRequest{VolumeId: v.VolumeId, VolumePublishPath: "/a/../b"}, codes.OK, codes.InvalidArgument},
		"paths not there":  {&csi.NodeGetVolumeHealthRequest{VolumeId: v.VolumeId, StagingTargetPath: "/none/a", VolumePublishPath: "/dev/null/b"}, codes.OK, codes.OK},
		"longest paths":    {&csi.NodeGetVolumeHealthRequest{VolumeId: v.VolumeId, StagingTargetPath: longPath, VolumePublishPath: longPath}, codes.OK, codes.OK},
		"longer path":      {&csi.NodeGetVolumeHealthRequest{VolumeId: v.VolumeId, VolumePublishPath: longPath + "x"}, codes.OK, codes.InvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := c.ControllerGetVolumeHealth(t.Context(), &csi.ControllerGetVolumeHealthRequest{VolumeId: test.request.VolumeId})
			wantCode(t, err, test.controller)
			_, err = c.NodeGetVolumeHealth(t.Context(), test.request)
			wantCode(t, err, test.node)
		})
	}
}

var longPath = "/" + strings.Repeat("x", maxPath-1)

// TestListVolumeHealth: the list is paged like ListVolumes, over those volumes
// that have something to report.
func TestListVolumeHealth(t *testing.T) {
	c, b := startFaulty(t, nil)
	list := func(max int32, token string) (ids []string, next string) {
		t.Helper()
		response := must[*csi.ControllerListVolumeHealthResponse](t)(c.ControllerListVolumeHealth(t.Context(), &csi.ControllerListVolumeHealthRequest{MaxEntries: max, StartingToken: token}))
		for _, entry := range response.Entries {
			ids = append(ids, entry.VolumeId)
			if len(entries(t, entry, entry.VolumeId)) == 0 {
				t.Errorf("%s is listed for nothing", entry.VolumeId)
			}
		}
		return ids, response.NextToken
	}
	if ids, next := list(0, ""); len(ids) > 0 || next != "" {
		t.Errorf("no volumes: %q, next %q", ids, next)
	}
	var ill []string
	for n := range 10 {
		v := c.create(t, volumeRequest(fmt.Sprint("v", n)))
		if n%2 == 0 {
			afflict(t, b, v, backend.Condition{Severity: backend.DataLoss, Reason: "Lost"})
			ill = append(ill, v.VolumeId)
		}
	}
	slices.Sort(ill)
	if ids, next := list(0, ""); !slices.Equal(ids, ill) || next != "" {
		t.Errorf("%q, next %q, want %q", ids, next, ill)
	}
	if ids, next := list(5, ""); !slices.Equal(ids, ill) || next != "" {
		t.Errorf("as many as there are: %q, next %q", ids, next)
	}
	ids, next := list(2, "")
	if !slices.Equal(ids, ill[:2]) || next == "" {
		t.Errorf("first page: %q, next %q", ids, next)
	}
	// Where the next page begins is told by a key: what is deleted does not shift it.
	must[*csi.DeleteVolumeResponse](t)(c.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: ill[1]}))
	if ids, next := list(0, next); !slices.Equal(ids, ill[2:]) || next != "" {
		t.Errorf("the rest: %q, next %q, want %q", ids, next, ill[2:])
	}
	_, err := c.ControllerListVolumeHealth(t.Context(), &csi.ControllerListVolumeHealthRequest{MaxEntries: -1})
	wantCode(t, err, codes.InvalidArgument)
	_, err = c.ControllerListVolumeHealth(t.Context(), &csi.ControllerListVolumeHealthRequest{StartingToken: "no"})
	wantCode(t, err, codes.Aborted)
}

// TestHealthDuringCopy: a volume that is being copied, and one that is being
// made, keep nobody from asking.
func TestHealthDuringCopy(t *testing.T) {
	copying, begun, goOn := false, make(chan struct{}), make(chan struct{})
	c, _ := startFaulty(t, func(step string) {
		if copying && strings.HasPrefix(step, "build") {
			close(begun)
			<-goOn
		}
	})
	source := c.create(t, volumeRequest("source"))
	copying = true
	clone := volumeRequest("clone")
	clone.VolumeContentSource = fromVolume(source.VolumeId)
	done := make(chan error)
	go func() {
		_, err := c.CreateVolume(background, clone)
		done <- err
	}()
	<-begun
	c.wantHealth(t, source.VolumeId)
	must[*csi.ControllerListVolumeHealthResponse](t)(c.ControllerListVolumeHealth(t.Context(), &csi.ControllerListVolumeHealthRequest{}))
	must[*csi.NodeGetStorageHealthResponse](t)(c.NodeGetStorageHealth(t.Context(), &csi.NodeGetStorageHealthRequest{}))
	_, err := c.ControllerGetVolumeHealth(t.Context(), &csi.ControllerGetVolumeHealthRequest{VolumeId: backend.NewVolumeID(testNode, "clone").String()})
	wantCode(t, err, codes.NotFound)
	close(goOn)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// interferingBackend does something whenever it was asked whether a volume is
// attached, before the answer arrives.
type interferingBackend struct {
	backend.Backend
	interfere func()
}

func (b *interferingBackend) Attached(ctx context.Context, id backend.VolumeID) (backend.Mount, bool, error) {
	mount, attached, err := b.Backend.Attached(ctx, id)
	if interfere := b.interfere; interfere != nil {
		b.interfere = nil
		interfere()
	}
	return mount, attached, err
}

// TestHealthOfVolumeBeingDeleted: a volume that goes while it is asked about is
// gone, and spoils no list.
func TestHealthOfVolumeBeingDeleted(t *testing.T) {
	opened, err := hostpath.Open(filepath.Join(testenv.TempDir(t), "root"), hostpath.Options{})
	if err != nil {
		t.Fatal(err)
	}
	b := &interferingBackend{Backend: opened}
	c := start(t, b, nil)
	for range 2 {
		v := c.create(t, volumeRequest("v"))
		remove := func() {
			if _, err := c.DeleteVolume(background, &csi.DeleteVolumeRequest{VolumeId: v.VolumeId}); err != nil {
				t.Error(err)
			}
		}
		b.interfere = remove
		list := must[*csi.ControllerListVolumeHealthResponse](t)(c.ControllerListVolumeHealth(t.Context(), &csi.ControllerListVolumeHealthRequest{}))
		if len(list.Entries) > 0 {
			t.Errorf("listed: %v", list)
		}
		v = c.create(t, volumeRequest("v"))
		b.interfere = remove
		_, err := c.ControllerGetVolumeHealth(t.Context(), &csi.ControllerGetVolumeHealthRequest{VolumeId: v.VolumeId})
		wantCode(t, err, codes.NotFound)
	}
}
