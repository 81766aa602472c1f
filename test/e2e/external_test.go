package e2e

import (
	"cmp"
	"encoding/xml"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/onsi/ginkgo/v2/reporters"

	"github.com/snapdriver/snapdriver/test/e2e/external"
)

var all = flag.Bool("all", false, "run all of Kubernetes' storage tests that apply, not a choice of them")

var reports = flag.String("reports", "", "an absolute path to a directory for the reports of these tests, in JUnit's form")

// externalRun is a part of Kubernetes' tests.
type externalRun struct {
	name        string
	focus, skip string // regular expressions
	procs       int    // how many at once
	// least is how many apply, by the kind of volumes. Fewer mean that a capability
	// got lost: Kubernetes' tests of it do not fail then, but skip themselves.
	least         map[string]int
	leastUnmarked int // of those that pass
}

const (
	alone  = `\[Serial\]|\[Disruptive\]` // the marks of tests that bear no others beside them
	marked = alone + `|\[Slow\]`
)

// hostPathPasses is how many of the tests without a mark csi-driver-host-path
// passes on this cluster. More have to pass here.
const hostPathPasses = 42

var (
	// chosen are those of Kubernetes' tests that are about what this driver is for.
	chosen = []externalRun{
		{"chosen", `External.Storage.*(snapshottable|volume-expand|multiVolume)`, marked, 4, map[string]int{"directory": 14, "image": 14}, 0},
	}
	everything = []externalRun{
		{"parallel", `External.Storage`, alone, 4, map[string]int{"directory": 80, "image": 100}, hostPathPasses + 1},
		{"serial", `External.Storage.*(` + alone + `)`, "", 1, map[string]int{"directory": 16, "image": 16}, 0},
	}
)

// TestExternal runs Kubernetes' own storage tests.
func TestExternal(t *testing.T) {
	runs := chosen
	if *all {
		runs = everything
		serveSSH(t)
	}
	for _, layout := range []string{"directory", "image"} {
		for _, run := range runs {
			t.Run(layout+"/"+run.name, func(t *testing.T) {
				t.Cleanup(func() { expectNothingLeft(t) })
				report := filepath.Join(cmp.Or(*reports, t.TempDir()), "external-"+layout+"-"+run.name+".xml")
				out, err := runExternal(layout, report, run)
				if err != nil {
					t.Errorf("%v\n%s", err, out)
				}
				passed, failed := readReport(t, report)
				t.Logf("Kubernetes' storage tests of %s volumes: %d passed, %d failed", layout, len(passed), failed)
				if applied := len(passed) + failed; applied < run.least[layout] {
					t.Errorf("%d tests apply, %d did before:\n%s", applied, run.least[layout], out)
				}
				if unmarked := countUnmarked(passed); unmarked < run.leastUnmarked {
					t.Errorf("%d tests without a mark have passed, want %d", unmarked, run.leastUnmarked)
				}
			})
		}
	}
}

func runExternal(layout, report string, run externalRun) ([]byte, error) {
	definition, err := filepath.Abs(filepath.Join("external", layout+".yaml"))
	if err != nil {
		return nil, err
	}
	var skip []string
	if run.skip != "" {
		skip = append(skip, run.skip)
	}
	for _, left := range external.LeftOut {
		skip = append(skip, left.Pattern)
	}
	cmd := exec.Command(kube.Program("ginkgo"), "run", "--procs="+strconv.Itoa(run.procs), "--no-color", "--timeout=3h",
		"--focus="+run.focus, "--skip="+strings.Join(skip, "|"),
		"--junit-report="+filepath.Base(report), "--output-dir="+filepath.Dir(report), kube.Program("external.test"), "--",
		"-kubeconfig="+kube.Kubeconfig(), "-provider=local", "-storage.testdriver="+definition)
	cmd.Env = append(os.Environ(), "PATH="+kube.Bin+":"+os.Getenv("PATH"), "KUBE_SSH_USER=root", "KUBE_SSH_KEY_PATH="+kube.SSHKey())
	return cmd.CombinedOutput()
}

// serveSSH lets Kubernetes' tests into the node, for the time of a test.
func serveSSH(t *testing.T) {
	t.Helper()
	cmd, err := kube.Command(node, kube.Program("cluster"), "-root", kube.Root, "sshd")
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = t.Output()
	until, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(until.Close(), cmd.Wait()); err != nil {
			t.Error(err)
		}
	})
}

func countUnmarked(tests []string) (count int) {
	mark := regexp.MustCompile(marked)
	for _, name := range tests {
		if !mark.MatchString(name) {
			count++
		}
	}
	return count
}

// readReport says which tests of a report passed and how many did not, with
// which it fails the test.
func readReport(t testing.TB, path string) (passed []string, failed int) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var report reporters.JUnitTestSuites
	if err := xml.Unmarshal(content, &report); err != nil {
		t.Fatal(err)
	}
	for _, suite := range report.TestSuites {
		for _, test := range suite.TestCases {
			if !strings.HasPrefix(test.Name, "[It] ") {
				continue // it prepares or ends the tests
			}
			switch test.Status {
			case "passed":
				passed = append(passed, test.Name)
			case "skipped", "pending":
			default:
				failed++
				t.Errorf("%s: %s", test.Status, test.Name)
			}
		}
	}
	return passed, failed
}
