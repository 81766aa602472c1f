package driver

import (
	"context"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/klog/v2"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

// storageFigures collects what the backend tells about what all volumes lie on.
// Which figures there are is the backend's to know, so none are described.
type storageFigures struct{ *Server }

var storageCondition = prometheus.NewDesc("snapdriver_storage_condition",
	"1 for each condition that NodeGetStorageHealth reports.", []string{"severity", "reason"}, nil)

// Describe implements prometheus.Collector.
func (storageFigures) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector. There is nothing before the core is
// open, and no figure of storage that does not answer; that it does not, is a
// condition.
func (s storageFigures) Collect(values chan<- prometheus.Metric) {
	core := s.core()
	if core == nil {
		return
	}
	ctx := context.Background()
	// At once: who scrapes waits no longer than for one of them.
	var gauges []backend.Gauge
	var gaugesErr error
	var both sync.WaitGroup
	both.Go(func() { gauges, gaugesErr = s.gaugesAsked.ask(ctx, "gauges", patience, core.Gauges) })
	conditions, err := s.storageHealth(ctx)
	if err != nil {
		klog.ErrorS(err, "No conditions among the metrics")
	}
	for _, c := range unique(conditions) {
		values <- prometheus.MustNewConstMetric(storageCondition, prometheus.GaugeValue, 1, string(c.Severity), c.Reason)
	}
	both.Wait()
	if gaugesErr != nil {
		klog.ErrorS(gaugesErr, "No figures of the storage among the metrics")
	}
	for _, g := range gauges {
		values <- prometheus.MustNewConstMetric(gauge("storage_"+g.Name, g.Help), prometheus.GaugeValue, g.Value)
	}
}
