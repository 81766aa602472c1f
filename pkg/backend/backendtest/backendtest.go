package backendtest

import (
	"testing"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

// Storage is one place where a backend keeps its objects, and what only that
// backend's own tests can do with it.
type Storage interface {
	// Open opens the storage as a new process would. Recover has not been
	// called yet.
	Open(t testing.TB, step backend.StepFunc) backend.Backend

	// Crash frees what the kernel frees when a process dies, and nothing else.
	Crash(t testing.TB, b backend.Backend)

	// Write replaces what a volume holds, as a pod would, and leaves nothing
	// mounted or attached. Read returns what was written last.
	Write(t testing.TB, b backend.Backend, id backend.VolumeID, text string)
	Read(t testing.TB, b backend.Backend, id backend.VolumeID) string

	// Check fails t when the closed storage, which has no objects, is not
	// empty: staged data, devices, mounts, and deleted data that do not go
	// when they are given the time.
	Check(t testing.TB)
}

// Config says what to run the suite over.
type Config struct {
	// New returns fresh, empty storage.
	New func(t testing.TB) Storage

	// Profile is the kind of volume to test.
	Profile backend.Profile

	// Size is a small size, in bytes, that such a volume can have. Growing
	// tests double it.
	Size int64

	// SnapshotParameters are the kinds of snapshot to test; none: one kind,
	// without parameters.
	SnapshotParameters []map[string]string

	// Commands are what operations cost; nil: the backend runs none. If not
	// nil, the Storage is Counting.
	Commands *Commands
}

// Run runs the whole suite.
func Run(t *testing.T, config Config) {
	if len(config.SnapshotParameters) == 0 {
		config.SnapshotParameters = []map[string]string{nil}
	}
	type test struct {
		name string
		run  func(*fixture)
	}
	tests := []test{
		{"an object is after reopening what it was before", testReopen},
		{"a snapshot keeps what its volume held", testSnapshotKeeps},
		{"a clone and its source are independent", testClone},
		{"a restore may be larger than its source", testRestoreLarger},
		{"a volume grows, attached or not", testExpand},
		{"attaching and detaching may be repeated", testAttach},
		{"the limits admit what can be made", testLimits},
		{"every order of deletion works", testDeletionOrders},
		{"deleting what is absent succeeds", testDeleteAbsent},
		{"unknown parameters are refused by name", testUnknownParameters},
		{"what is absent is not found", testAbsent},
		{"healthy storage has no conditions", testHealthy},
		{"gauges have names that Prometheus takes", testGauges},
		{"a cancelled creation leaves nothing", testCancel},
		{"different objects may be changed at once", testConcurrent},
		{"a crash at any step leaves all or nothing", testCrash},
		{"a crash at any step of Recover leaves what was committed", testCrashRecover},
	}
	if config.Commands != nil {
		tests = append(tests, test{"no operation runs more commands than it has to", testCommands})
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { test.run(newFixture(t, config)) })
	}
}
