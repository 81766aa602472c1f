package main

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const printed = `goos: linux
BenchmarkDirectory/fs=xfs/tree=20000-small-files/op=Snapshot-2   5   1.2 cpu-ms  9.5 peak-MiB  130 tar-ms  195.04 ms  0 new-MiB  1.5 x-tar  0.9 x-tar+sync
BenchmarkDirectory/fs=ext4/tree=go-toolchain/op=SecondSnapshot-2   5   1.04 x-first
BenchmarkScale/objects=100000/op=CreateVolume-2   5   20 ms  16 few-ms  1.25 x-few
BenchmarkScale/objects=100000/op=Expand-2   5   28 ms  20 few-ms  1.4 x-few
BenchmarkLoops/fs=xfs-2   1   80.5 loops/s
BenchmarkStart   1   12 ms
PASS
`

// What was measured comes out in all forms, the worst of several that a goal is
// about, and goals that were missed are marked, in both directions.
func TestReport(t *testing.T) {
	dir := t.TempDir()
	var out strings.Builder
	if err := report(strings.NewReader(strings.Replace(printed, "80.5", "8.05", 1)), dir, &out); err != nil {
		t.Fatal(err)
	}
	for _, expected := range []string{
		"against tar cf | <= 1.2 | **1.5** | 0.9 |",
		"against the one before | <= 1 | 1 |  |",
		"| <= 1.3 | **1.4 (Expand)** |  |",
		"loops a second, xfs | >= 72 | **8.1** |",
		"Start to ready, ms | <= 50 | 12 |",
	} {
		if !strings.Contains(out.String(), expected) {
			t.Errorf("not in what it prints: %s", expected)
		}
	}
	if strings.Contains(out.String(), "Snapshot on ext4") {
		t.Error("it prints goals that nothing was measured for")
	}
	expectIn(t, filepath.Join(dir, "results.md"), out.String(), "| xfs | 20000-small-files | Snapshot | 195 | tar 1.5 (0.9) | 1.2 | 9.5 | 0 |  |")
	expectIn(t, filepath.Join(dir, "snapshot.svg"), ">195</text>", ">tar cf</text>")
	checkXML(t, filepath.Join(dir, "snapshot.svg"))
	var found struct{ Results []result }
	text, err := os.ReadFile(filepath.Join(dir, "results.json"))
	if err == nil {
		err = json.Unmarshal(text, &found)
	}
	if err != nil || len(found.Results) != 6 || found.Results[2].value("op") != "CreateVolume" {
		t.Errorf("results.json: %v %+v", err, found)
	}
	if _, err := os.Stat(filepath.Join(dir, "device.svg")); err == nil {
		t.Error("a figure of nothing was drawn")
	}
}

func TestReportOfAFailure(t *testing.T) {
	for _, in := range []string{"", "PASS\n", printed + "FAIL\n"} {
		if err := report(strings.NewReader(in), t.TempDir(), io.Discard); err == nil {
			t.Errorf("no error for %.20q", in)
		}
	}
}

func expectIn(t *testing.T, path string, expected ...string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range expected {
		if !strings.Contains(string(text), e) {
			t.Errorf("%s lacks %q:\n%s", path, e, text)
		}
	}
}

func checkXML(t *testing.T, path string) {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for decoder := xml.NewDecoder(file); ; {
		if _, err := decoder.Token(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
	}
}
