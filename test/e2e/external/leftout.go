package external

// LeftOut are those of Kubernetes' storage tests that are never run here, by a
// regular expression of their names, and why.
var LeftOut = []struct{ Pattern, Why string }{
	{`Feature:Windows|\(ntfs\)`, "not Linux"},
	{`any volume data source`, "the validator and the populator of other projects are not in the test cluster"},
	{`volumegroup|snapshotmetadata`, "optional services that the driver does not have"},
}
