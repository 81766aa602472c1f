package driver

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/klog/v2"
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
	conditions, err := s.storageHealth(ctx)
	if err != nil {
		klog.ErrorS(err, "No conditions among the metrics")
	}
	for _, c := range unique(conditions) {
		values <- prometheus.MustNewConstMetric(storageCondition, prometheus.GaugeValue, 1, string(c.Severity), c.Reason)
	}
	gauges, err := s.gauges.ask(ctx, "gauges", core.Gauges)
	if err != nil {
		klog.ErrorS(err, "No figures of the storage among the metrics")
	}
	for _, g := range gauges {
		values <- prometheus.MustNewConstMetric(gauge("storage_"+g.Name, g.Help), prometheus.GaugeValue, g.Value)
	}
}
