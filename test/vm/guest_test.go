package vm

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/snapdriver/snapdriver/internal/testenv"
	"github.com/snapdriver/snapdriver/internal/testvm"
)

// suite is a set of tests that run one after the other in a guest of its own.
type suite struct {
	name     string
	packages []string // of this module
	tests    []string // those of their tests that run, a subtest perhaps; empty: all
	skip     string   // a pattern of those that do not
}

// suites are all that run in guests.
var suites = []suite{
	{name: "ext4", packages: []string{"pkg/backend/lvm"}, tests: []string{"TestConformance/ext4"}},
	{name: "lvm", packages: []string{"pkg/backend/lvm"}, skip: "^TestConformance$"},
	{name: "xfs", packages: []string{"pkg/backend/lvm"}, tests: []string{"TestConformance/xfs"}},
	{name: "btrfs", packages: []string{"pkg/backend/lvm"}, tests: []string{"TestConformance/btrfs"}},
	{name: "block", packages: []string{"pkg/backend/lvm"}, tests: []string{"TestConformance/block"}},
	{name: "books", packages: []string{"test/torture"}, tests: []string{"TestBooks", "TestKill"}},
	{name: "torture", packages: []string{"test/torture"}, tests: []string{"TestCommandsOfLVM", "TestDieAtEachStep", "TestListTokens", "TestPublishTable", "TestRaceSameName", "TestReboot", "TestStorageLost"}},
	{name: "races and input", packages: []string{"test/torture"}, tests: []string{
		"TestInputNotUTF8", "TestInputSecrets", "TestListsWhileObjectsComeAndGo", "TestRaceMany", "TestRaceOfTwo",
	}},
	{name: "failing disks", packages: []string{"test/torture"}, tests: []string{"TestFilesystemFails", "TestUnreadableFile"}},
	{name: "csi-sanity", packages: []string{"test/sanity"}},
	{name: "compatibility", packages: []string{"test/compat"}, tests: []string{"TestLVM"}},
	{name: "pool-full", packages: []string{"test/poolfull"}},
	{name: "command", packages: []string{"cmd/snapdriver"}, tests: []string{
		"TestDemoOnLVM", "TestInterruptedDemoOnLVM", "TestDemoInterruptedWhileItMakesItsPool", "TestLVMInit", "TestWrongUseOfLVM",
	}},
	{name: "import", packages: []string{"pkg/importer"}, tests: []string{"TestImportOnLVM"}},
	{name: "container", packages: []string{"test/container"}},
	{name: "privileges", packages: []string{"test/privileges"}, tests: []string{"TestLVM"}},
	{name: "grow", packages: []string{"pkg/driver"}, tests: []string{"TestExpand", "TestGrowFar", "TestLargerRestore", "TestStageGoesOn"}}, // needs CAP_SYS_RESOURCE
	{name: "kernel", packages: []string{"internal/testenv", "internal/dm", "internal/thinmeta"}},
}

// pattern is what -test.run makes of the tests.
func (s suite) pattern() string {
	if len(s.tests) == 1 {
		return "^" + strings.ReplaceAll(s.tests[0], "/", "$/^") + "$"
	}
	return "^(" + strings.Join(s.tests, "|") + ")$"
}

const (
	patience = "50m" // for one package; then it shows where it is stuck
	module   = "github.com/snapdriver/snapdriver/"
	driver   = "snapdriver"
)

// ended is how a test binary reports one that has run, under -test.v.
var ended = regexp.MustCompile(`(?m)^ *--- (PASS|SKIP): (\S+) \(`)

// begun is where a test begins that is no subtest, and succeeded how it ends,
// unless it has failed.
var (
	begun     = regexp.MustCompile(`\n=== RUN   \w+\n`)
	succeeded = regexp.MustCompile(`(?m)^--- (PASS|SKIP): `)
)

// skips are the tests that have nothing to do in a guest.
var skips = []string{"TestKernelWithoutDeviceMapper"}

// TestGuest runs each suite in a guest of its own, as many at a time as there
// are processors. Where the kernel has thin pools and SNAPDRIVER_REQUIRE_LVM=1
// asks for it, they run here, one after the other.
func TestGuest(t *testing.T) {
	if testing.Short() {
		t.Skip("takes minutes")
	}
	native := testenv.HasThinPools()
	if native && os.Getenv("SNAPDRIVER_REQUIRE_LVM") != "1" {
		t.Skip("this kernel has thin pools: these tests run without a virtual machine")
	}
	dir := compile(t)
	for _, suite := range suites {
		t.Run(suite.name, func(t *testing.T) {
			if !native {
				t.Parallel()
			}
			ctx := testenv.Context(t)
			execute := here(ctx, dir)
			if !native {
				execute = inGuest(t, ctx, dir, suite)
			}
			for _, pkg := range suite.packages {
				runTests(t, execute, pkg, suite)
			}
		})
	}
}

// TestFailures: what a suite's failure shows is what has failed.
func TestFailures(t *testing.T) {
	const (
		preface = "I1130 02:41:35.760001 before all tests\n"
		passed  = "=== RUN   TestA\n=== RUN   TestA/b\n--- PASS: TestA (0.00s)\n    --- PASS: TestA/b (0.00s)\n"
		skipped = "=== RUN   TestB\n    b_test.go:1: a reason\n--- SKIP: TestB (0.00s)\n"
		failed  = "=== RUN   TestC\n=== RUN   TestC/d\n    c_test.go:1: a reason\n--- FAIL: TestC (0.00s)\n    --- PASS: TestC/d (0.00s)\n"
		hanging = "=== RUN   TestD\npanic: test timed out\n"
	)
	for out, want := range map[string]string{
		passed + skipped:                    "",
		preface + passed:                    preface,
		passed + failed + skipped + passed:  failed,
		failed + passed + hanging:           failed + hanging,
		skipped + failed + failed + hanging: failed + failed + hanging,
	} {
		if got := failures(out); got != want {
			t.Errorf("of\n%s\nshown is\n%s\nwanted\n%s", out, got, want)
		}
	}
}

// executor runs one of the compiled programs.
type executor func(program string, arguments, env []string, out io.Writer) error

func here(ctx context.Context, dir string) executor {
	return func(program string, arguments, env []string, out io.Writer) error {
		command := exec.CommandContext(ctx, filepath.Join(dir, program), arguments...)
		command.Env = append(append(os.Environ(), env...), "SNAPDRIVER_BINARY="+filepath.Join(dir, driver))
		command.Stdout, command.Stderr = out, out
		return command.Run()
	}
}

// inGuest boots a guest, which ends with the test.
func inGuest(t *testing.T, ctx context.Context, dir string, suite suite) executor {
	t.Helper()
	image, err := testvm.Prepare(ctx)
	if err != nil {
		testenv.Skip(t, "no virtual machine: %v", err)
	}
	config := testvm.Config{Files: map[string]string{driver: filepath.Join(dir, driver)}}
	for _, pkg := range suite.packages {
		config.Files[binary(pkg)] = filepath.Join(dir, binary(pkg))
	}
	vm, err := image.Boot(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(vm.Kill)
	return func(program string, arguments, env []string, out io.Writer) error {
		return vm.Run(testvm.Command{
			Args: append([]string{program}, arguments...), Env: append(env, "SNAPDRIVER_BINARY=/vm/"+driver), Stdout: out, Stderr: out,
		})
	}
}

func runTests(t *testing.T, execute executor, pkg string, suite suite) {
	t.Helper()
	var out strings.Builder
	arguments := []string{"-test.v", "-test.timeout=" + patience, "-test.skip=" + suite.skip}
	if len(suite.tests) > 0 {
		arguments = append(arguments, "-test.run="+suite.pattern())
	}
	watch := io.Discard
	if testing.Verbose() {
		watch = t.Output()
	}
	err := execute(binary(pkg), arguments, []string{"SNAPDRIVER_REQUIRE_ALL=1", "SNAPDRIVER_REQUIRE_LVM=1"}, io.MultiWriter(watch, &out))
	if err != nil {
		t.Fatalf("%v\n%s", err, failures(out.String()))
	}
	var passed []string
	for _, test := range ended.FindAllStringSubmatch(out.String(), -1) {
		if test[1] == "PASS" {
			passed = append(passed, test[2])
		} else if !slices.Contains(skips, test[2]) {
			t.Errorf("%s: %s was skipped", pkg, test[2])
		}
	}
	if len(passed) == 0 {
		t.Errorf("%s: no test has run", pkg)
	}
	for _, test := range suite.tests {
		if !slices.Contains(passed, test) {
			t.Errorf("%s: %s has not run", pkg, test)
		}
	}
}

// failures is what was printed by the tests that have failed or not ended, and
// outside of tests. Among the hundreds of lines of the others it is overlooked.
func failures(out string) string {
	var failed strings.Builder
	for out != "" {
		end := len(out)
		if next := begun.FindStringIndex(out); next != nil {
			end = next[0] + 1
		}
		if !succeeded.MatchString(out[:end]) {
			failed.WriteString(out[:end])
		}
		out = out[end:]
	}
	return failed.String()
}

// compile compiles the suites and the driver, statically linked, into a
// directory.
func compile(t *testing.T) string {
	t.Helper()
	testenv.RequirePrograms(t, "go")
	dir := t.TempDir()
	build := func(arguments ...string) {
		command := exec.CommandContext(t.Context(), "go", arguments...)
		command.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := command.CombinedOutput(); err != nil {
			t.Fatalf("go %q: %v\n%s", arguments, err, out)
		}
	}
	// It can be told at which step to die.
	build("build", "-tags=steps", "-o", filepath.Join(dir, driver), module+"cmd/snapdriver")
	for _, suite := range suites {
		for _, pkg := range suite.packages {
			if file := filepath.Join(dir, binary(pkg)); !exists(file) {
				build("test", "-c", "-o", file, module+pkg)
			}
		}
	}
	return dir
}

// binary is the name of a package's compiled tests.
func binary(pkg string) string { return strings.ReplaceAll(pkg, "/", "-") + ".test" }

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
