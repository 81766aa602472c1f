package e2e

import (
	"encoding/xml"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

var all = flag.Bool("all", false, "run all of Kubernetes' storage tests that apply, not a choice of them")

const (
	// chosen are those of Kubernetes' tests that are about what this driver is for.
	chosen = `External.Storage.*(snapshottable|volume-expand|multiVolume)`
	// notOurs are never run: of other systems, and those that take the node down,
	// which TestReboot and its neighbours do here.
	notOurs = `\[Disruptive\]|Feature:Windows|\(ntfs\)|volumegroup|snapshotmetadata`
	// notChosen take long; with -all they run too.
	notChosen = `|\[Slow\]|\[Serial\]`
)

// TestExternal runs Kubernetes' own storage tests.
func TestExternal(t *testing.T) {
	for _, layout := range []string{"directory", "image"} {
		t.Run(layout, func(t *testing.T) {
			t.Cleanup(func() { expectNothingLeft(t) })
			report := filepath.Join(t.TempDir(), "report.xml")
			out, err := runExternal(layout, report)
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			}
			passed, failed := readReport(t, report)
			t.Logf("Kubernetes' storage tests of %s volumes: %d passed, %d failed", layout, passed, failed)
			if passed == 0 {
				t.Errorf("no test ran:\n%s", out)
			}
		})
	}
}

func runExternal(layout, report string) ([]byte, error) {
	definition, err := filepath.Abs(filepath.Join("external", layout+".yaml"))
	if err != nil {
		return nil, err
	}
	focus, skip := chosen, notOurs+notChosen
	if *all {
		focus, skip = "External.Storage", notOurs
	}
	cmd := exec.Command(kube.Program("ginkgo"), "run", "--procs=4", "--no-color", "--timeout=3h", "--focus="+focus, "--skip="+skip,
		"--junit-report="+filepath.Base(report), "--output-dir="+filepath.Dir(report), kube.Program("external.test"), "--",
		"-kubeconfig="+kube.Kubeconfig(), "-provider=local", "-storage.testdriver="+definition)
	cmd.Env = append(os.Environ(), "PATH="+kube.Bin+":"+os.Getenv("PATH"))
	return cmd.CombinedOutput()
}

// readReport counts what a report in JUnit's form says.
func readReport(t testing.TB, path string) (passed, failed int) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var report struct {
		Suites []struct {
			Cases []struct {
				Name   string `xml:"name,attr"`
				Status string `xml:"status,attr"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(content, &report); err != nil {
		t.Fatal(err)
	}
	for _, suite := range report.Suites {
		for _, test := range suite.Cases {
			switch test.Status {
			case "passed":
				passed++
			case "skipped", "pending":
			default:
				failed++
				t.Errorf("%s: %s", test.Status, test.Name)
			}
		}
	}
	return passed, failed
}
