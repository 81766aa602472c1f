package driver

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"path"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"k8s.io/klog/v2"

	"github.com/snapdriver/snapdriver/pkg/snapshotcore"
)

// metrics are the figures of one server, in a registry of its own.
type metrics struct {
	registry *prometheus.Registry
	calls    *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	running  *prometheus.GaugeVec
}

// newMetrics makes the metrics. The function returns the core, nil until it is
// open.
func newMetrics(version string, core func() *snapshotcore.Core) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "snapdriver_rpc_total", Help: "Finished CSI calls by method and gRPC code.",
		}, []string{"method", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "snapdriver_rpc_duration_seconds", Help: "Time that CSI calls took.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 9), // 1 ms to 65 s
		}, []string{"method"}),
		running: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "snapdriver_rpc_in_flight", Help: "CSI calls running now.",
		}, []string{"method"}),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "snapdriver_build_info", Help: "Always 1; the label tells the version.",
		ConstLabels: prometheus.Labels{"version": version},
	})
	build.Set(1)
	m.registry.MustRegister(m.calls, m.seconds, m.running, build, objects(core),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// objects collects what the core says about itself.
type objects func() *snapshotcore.Core

var figures = []struct {
	desc  *prometheus.Desc
	value func(snapshotcore.Stats) float64
}{
	{gauge("volumes", "Volumes that exist."), func(s snapshotcore.Stats) float64 { return float64(s.Volumes) }},
	{gauge("volume_bytes", "Sum of the volumes' sizes."), func(s snapshotcore.Stats) float64 { return float64(s.VolumeBytes) }},
	{gauge("snapshots", "Snapshots that exist."), func(s snapshotcore.Stats) float64 { return float64(s.Snapshots) }},
	{gauge("snapshot_bytes", "Sum of the sizes that restores of the snapshots need."), func(s snapshotcore.Stats) float64 { return float64(s.SnapshotBytes) }},
	{gauge("copies_in_flight", "Volumes and snapshots being created now."), func(s snapshotcore.Stats) float64 { return float64(s.Copies) }},
}

func gauge(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("snapdriver_"+name, help, nil, nil)
}

// Describe implements prometheus.Collector.
func (objects) Describe(descs chan<- *prometheus.Desc) {
	for _, figure := range figures {
		descs <- figure.desc
	}
}

// Collect implements prometheus.Collector. There is nothing before the core is
// open.
func (o objects) Collect(values chan<- prometheus.Metric) {
	core := o()
	if core == nil {
		return
	}
	stats := core.Stats()
	for _, figure := range figures {
		values <- prometheus.MustNewConstMetric(figure.desc, prometheus.GaugeValue, figure.value(stats))
	}
}

// measure counts and times calls.
func (m *metrics) measure(ctx context.Context, request any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	method, began := path.Base(info.FullMethod), time.Now()
	running := m.running.WithLabelValues(method)
	running.Inc()
	defer running.Dec()
	response, err := next(ctx, request)
	m.calls.WithLabelValues(method, status.Code(err).String()).Inc()
	m.seconds.WithLabelValues(method).Observe(time.Since(began).Seconds())
	return response, err
}

// serve serves /metrics and /healthz until stop is called.
func (m *metrics) serve(address string) (stop func(), err error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("serve metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "ok") })
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(listener) }() // ends when it is closed
	klog.InfoS("Serving metrics", "address", listener.Addr())
	return func() { _ = server.Close() }, nil
}
