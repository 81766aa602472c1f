package vm

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/snapdriver/snapdriver/internal/testenv"
	"github.com/snapdriver/snapdriver/internal/testvm"
)

// suites are the tests that run in the guest: a package of this module, and a
// pattern of those of its tests that run; empty for all.
var suites = []struct{ name, pkg, run string }{
	{"thinpool", "internal/testenv", ""},
	{"device-mapper", "internal/dm", ""},
	{"thin-metadata", "internal/thinmeta", ""},
	{"lvm", "pkg/backend/lvm", ""},
	{"csi-sanity", "test/sanity", ""},
	{"compatibility", "test/compat", "^TestLVM$"},
	{"pool-full", "test/poolfull", ""},
	{"command", "cmd/snapdriver", "LVM|^TestDemoInterrupted"},
	{"privileges", "test/privileges", "^TestLVM$"},
	{"grow", "pkg/driver", "^(TestExpand|TestGrowFar|TestLargerRestore|TestStageGoesOn)$"}, // needs CAP_SYS_RESOURCE
}

const (
	// limit is how long all suites may take together, for a guest that hangs.
	limit = 55 * time.Minute

	module = "github.com/snapdriver/snapdriver/"
)

// passed is how a test binary reports one that has run, under -test.v.
var passed = regexp.MustCompile(`(?m)^--- PASS: `)

// TestGuest runs the suites in the guest, or here, where the kernel has thin
// pools and SNAPDRIVER_REQUIRE_LVM=1 asks for it.
func TestGuest(t *testing.T) {
	if testing.Short() {
		t.Skip("takes minutes")
	}
	native := testenv.HasThinPools()
	if native && os.Getenv("SNAPDRIVER_REQUIRE_LVM") != "1" {
		t.Skip("this kernel has thin pools: these tests run without a virtual machine")
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	dir := compile(t, ctx)
	execute := func(binary string, args, env []string, out io.Writer) error {
		command := exec.CommandContext(ctx, filepath.Join(dir, binary), args...)
		command.Env = append(append(os.Environ(), env...), "SNAPDRIVER_BINARY="+filepath.Join(dir, "snapdriver"))
		command.Stdout, command.Stderr = out, out
		return command.Run()
	}
	if !native {
		vm := boot(t, ctx, dir)
		execute = func(binary string, args, env []string, out io.Writer) error {
			return vm.Run(testvm.Command{
				Args: append([]string{binary}, args...), Env: append(env, "SNAPDRIVER_BINARY=/vm/snapdriver"), Stdout: out, Stderr: out,
			})
		}
	}
	for _, suite := range suites {
		t.Run(suite.name, func(t *testing.T) {
			var out strings.Builder
			err := execute(binary(suite.pkg), []string{"-test.v", "-test.run=" + suite.run},
				[]string{"SNAPDRIVER_REQUIRE_ALL=1", "SNAPDRIVER_REQUIRE_LVM=1"}, io.MultiWriter(t.Output(), &out))
			if err != nil {
				t.Fatal(err)
			}
			if !passed.MatchString(out.String()) {
				t.Error("no test has run")
			}
		})
	}
}

// compile compiles the suites and the driver, statically linked, into a
// directory.
func compile(t *testing.T, ctx context.Context) string {
	t.Helper()
	testenv.RequirePrograms(t, "go")
	dir := t.TempDir()
	build := func(arguments ...string) {
		command := exec.CommandContext(ctx, "go", arguments...)
		command.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := command.CombinedOutput(); err != nil {
			t.Fatalf("go %q: %v\n%s", arguments, err, out)
		}
	}
	build("build", "-o", filepath.Join(dir, "snapdriver"), module+"cmd/snapdriver")
	for _, suite := range suites {
		if file := filepath.Join(dir, binary(suite.pkg)); !exists(file) {
			build("test", "-c", "-o", file, module+suite.pkg)
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

// boot boots the guest with the files of a directory; it ends with the test.
func boot(t *testing.T, ctx context.Context, dir string) *testvm.VM {
	t.Helper()
	image, err := testvm.Prepare(ctx)
	if err != nil {
		testenv.Skip(t, "no virtual machine: %v", err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	config := testvm.Config{Files: map[string]string{}}
	for _, file := range files {
		config.Files[filepath.Base(file)] = file
	}
	vm, err := image.Boot(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(vm.Kill)
	return vm
}
