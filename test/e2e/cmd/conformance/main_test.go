package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const test = `[It] External Storage [Driver: csi.snapdriver.dev] [Testpattern: Dynamic PV (default fs)] `

const parallel = `<testsuites><testsuite>
<testcase name="[SynchronizedBeforeSuite]" status="passed"/>
<testcase name="` + test + `volumes should store data" status="passed"/>
<testcase name="` + test + `volumes should allow exec" status="failed"/>
<testcase name="` + test + `[Feature:VolumeSnapshotDataSource] snapshottable should restore" status="passed"/>
<testcase name="` + test + `disruptive [Disruptive] should survive" status="skipped"><skipped message="skipped"/></testcase>
<testcase name="` + test + `multiVolume should share" status="skipped"><skipped message="skipped - no RWX"/></testcase>
<testcase name="[It] [sig-apps] nothing of ours" status="skipped"><skipped message="skipped"/></testcase>
</testsuite></testsuites>`

const serial = `<testsuites><testsuite>
<testcase name="` + test + `volumes should store data" status="skipped"><skipped message="skipped"/></testcase>
<testcase name="` + test + `disruptive [Disruptive] should survive" status="passed"/>
</testsuite></testsuites>`

func TestReadExternal(t *testing.T) {
	got, err := readExternal("directory", []string{write(t, parallel), write(t, serial)})
	if err != nil {
		t.Fatal(err)
	}
	want := layout{
		Name: "directory", All: tally{3, 1}, Common: tally{2, 1},
		Suites:  []suite{{"disruptive", tally{1, 0}}, {"snapshottable", tally{1, 0}}, {"volumes", tally{1, 1}}},
		Skipped: []reason{{1, "no RWX"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestReadSanity(t *testing.T) {
	got, err := readSanity(write(t, "=== RUN\ndirectory on xfs: 54 specs passed\n\t2 skipped: no such RPC\n\t1 skipped: off\nblock: 3 specs passed\nok\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := []sanityRun{{"directory on xfs", 54, []reason{{2, "no such RPC"}, {1, "off"}}}, {"block", 3, nil}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if _, err := readSanity(write(t, "block: 3 specs passed\n--- FAIL: TestSanity\n")); err == nil {
		t.Error("a failure is not seen")
	}
	if _, err := readSanity(write(t, "block: 3 specs passed\n\x1b[0m...block: 3 specs passed\n")); err == nil {
		t.Error("a line that cannot be read is not seen")
	}
}

func write(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "report")
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}
