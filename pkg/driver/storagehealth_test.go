package driver

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/snapdriver/snapdriver/pkg/backend"
	"github.com/snapdriver/snapdriver/pkg/backend/memory"
)

func TestStorageHealth(t *testing.T) {
	c, b := startFaulty(t, nil)
	want := func(want ...string) {
		t.Helper()
		var got []string
		response := must[*csi.NodeGetStorageHealthResponse](t)(c.NodeGetStorageHealth(t.Context(), &csi.NodeGetStorageHealthRequest{}))
		for _, e := range response.BackendHealth {
			got = append(got, fmt.Sprint(e.Status, " ", e.Reason, " ", e.Message))
		}
		if !slices.Equal(got, want) {
			t.Errorf("storage: %q, want %q", got, want)
		}
	}
	want()
	full := backend.Condition{Severity: backend.Degraded, Reason: "SpaceLow", Message: "5 %"}
	b.SetStorageHealth(full, full, backend.Condition{Severity: backend.Inaccessible, Reason: "Gone"})
	want("STORAGE_DEGRADED SpaceLow 5 %", "STORAGE_UNREACHABLE Gone ")
	b.SetStorageHealth()
	want()
}

// TestStorageMetrics: what the backend tells of its storage is among the
// metrics, and a condition twice does not spoil them.
func TestStorageMetrics(t *testing.T) {
	c, b := startFaulty(t, nil)
	full := backend.Condition{Severity: backend.Degraded, Reason: "SpaceLow"}
	b.SetStorageHealth(full, full)
	answer := httptest.NewRecorder()
	promhttp.HandlerFor(c.server.metrics.registry, promhttp.HandlerOpts{}).ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	text, _ := io.ReadAll(answer.Body)
	for _, line := range []string{
		`snapdriver_storage_condition{reason="SpaceLow",severity="Degraded"} 1`,
		`snapdriver_storage_capacity_bytes 1.073741824e+11`,
		`snapdriver_storage_available_bytes 1.073741824e+11`,
	} {
		if !strings.Contains(string(text), line+"\n") {
			t.Errorf("metrics lack %s", line)
		}
	}
	if answer.Code != 200 {
		t.Errorf("status %d: %s", answer.Code, text)
	}
}

// hangingBackend has storage that does not answer until the test says so.
type hangingBackend struct {
	*memory.Backend
	answer chan struct{}
}

func (b hangingBackend) VolumeHealth(ctx context.Context, id backend.VolumeID) ([]backend.Condition, error) {
	<-b.answer
	return b.Backend.VolumeHealth(ctx, id)
}

func (b hangingBackend) StorageHealth(ctx context.Context) ([]backend.Condition, error) {
	<-b.answer
	return b.Backend.StorageHealth(ctx)
}

// TestStorageHangs: that the storage does not answer is an answer.
func TestStorageHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := memory.Open(memory.NewDisk(100*gib), nil)
		if err != nil {
			t.Fatal(err)
		}
		hanging := hangingBackend{b, make(chan struct{})}
		server, err := New(testConfig(t, hanging))
		if err != nil {
			t.Fatal(err)
		}
		core, err := server.config.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		server.opened.Store(core)
		c, n := &controller{Server: server}, &node{Server: server}
		v := must[*csi.CreateVolumeResponse](t)(c.CreateVolume(t.Context(), volumeRequest("v"))).Volume
		look := func() []string {
			listed := must[*csi.ControllerListVolumeHealthResponse](t)(c.ControllerListVolumeHealth(t.Context(), &csi.ControllerListVolumeHealthRequest{}))
			var all []string
			for _, entry := range listed.Entries {
				all = append(all, entries(t, entry, v.VolumeId)...)
			}
			asked := must[*csi.NodeGetVolumeHealthResponse](t)(n.NodeGetVolumeHealth(t.Context(), &csi.NodeGetVolumeHealthRequest{VolumeId: v.VolumeId}))
			all = append(all, entries(t, asked.VolumeHealth, v.VolumeId)...)
			storage := must[*csi.NodeGetStorageHealthResponse](t)(n.NodeGetStorageHealth(t.Context(), &csi.NodeGetStorageHealthRequest{}))
			for _, e := range storage.BackendHealth {
				all = append(all, fmt.Sprint(e.Status, " ", e.Reason))
			}
			return all
		}
		want := []string{"INACCESSIBLE NotResponding", "INACCESSIBLE NotResponding", "STORAGE_UNREACHABLE NotResponding"}
		if got := look(); !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
		close(hanging.answer)
		synctest.Wait()
		if got := look(); len(got) > 0 {
			t.Errorf("when it answers again: %q", got)
		}
		if err := core.Close(); err != nil {
			t.Error(err)
		}
	})
}
