package driver

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/snapdriver/snapdriver/pkg/backend"
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
