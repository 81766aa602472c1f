package backend

// Severity says what a Condition means for those who use the storage.
type Severity string

// The severities. They are not steps of one scale: data may be lost of a volume
// that can be used, and a volume that cannot be used may have lost nothing.
const (
	// Degraded: it can be used, but worse than it should be, or not for much
	// longer unless somebody acts.
	Degraded Severity = "Degraded"
	// Inaccessible: it cannot be used as it should be: reading or writing fails.
	Inaccessible Severity = "Inaccessible"
	// DataLoss: data are lost for good, as far as this backend can tell.
	DataLoss Severity = "DataLoss"
)

// Condition is something that is wrong now. It is gone from the answers when
// it no longer is.
type Condition struct {
	Severity Severity

	// Reason names the condition in CamelCase, such as ImageTooShort. It is
	// for programs: it does not change from one answer to the next, nor from
	// one version to the next.
	Reason string

	// Message tells people what is wrong, with the figures, and what to do.
	// CSI cuts it off after 128 bytes: what matters most comes first.
	Message string
}

// Gauge is one figure about the storage, for Prometheus.
type Gauge struct {
	// Name is of lower-case letters, digits and underscores, begins with a
	// letter and ends with the unit, as Prometheus advises: available_bytes.
	// The driver puts a prefix before it.
	Name  string
	Help  string // one sentence
	Value float64
}
