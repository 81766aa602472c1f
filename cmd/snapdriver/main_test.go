package main

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/snapdriver/snapdriver/internal/testdriver"
	"github.com/snapdriver/snapdriver/internal/testenv"
)

const nobody = 65534

// build returns the built binary, which any user may run, and an empty
// directory, which any user may write to, that the demo has for temporary files.
func build(t *testing.T) (binary, temporary string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "snapdriver-test-") // the parents of t.TempDir are private
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	binary, temporary = filepath.Join(dir, "snapdriver"), filepath.Join(dir, "tmp")
	if built := os.Getenv("SNAPDRIVER_BINARY"); built != "" { // there is no compiler
		testenv.Run(t, "cp", built, binary)
	} else {
		testenv.RequirePrograms(t, "go")
		testenv.Run(t, "go", "build", "-o", binary, ".")
	}
	for _, err := range []error{os.Chmod(dir, 0o755), os.Mkdir(temporary, 0o777), os.Chmod(temporary, 0o777)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return binary, temporary
}

func demoOf(binary, temporary string, uid int, arguments ...string) *exec.Cmd {
	command := exec.Command(binary, append([]string{"demo"}, arguments...)...)
	command.Env = append(os.Environ(), "TMPDIR="+temporary)
	if uid != os.Getuid() {
		command.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	}
	return command
}

func expectNothingLeft(t *testing.T, dir string) {
	t.Helper()
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
	if leaks, err := testenv.Leaks(dir); err != nil || len(leaks) > 0 {
		t.Errorf("left behind: %q, %v", leaks, err)
	}
}

func TestDemo(t *testing.T) {
	testenv.RequireRoot(t)
	binary, temporary := build(t)
	for name, uid := range map[string]int{"as root": 0, "as an ordinary user": nobody} {
		t.Run(name, func(t *testing.T) {
			out, err := demoOf(binary, temporary, uid).CombinedOutput()
			if err != nil {
				if strings.Contains(string(out), "user namespaces") {
					testenv.Skip(t, "this kernel gives ordinary users no namespaces: %s", out)
				}
				t.Fatalf("%v\n%s", err, out)
			}
			for _, part := range []string{
				"[1/15]", "[15/15]", "csi-snapshotter calls csi.v1.Controller/CreateSnapshot", "ready_to_use: true",
				"+ ROOT/snapshots/", "byte for byte", "= FailedPrecondition", "nothing is left on disk",
			} {
				if !strings.Contains(string(out), part) {
					t.Errorf("the story lacks %q:\n%s", part, out)
				}
			}
			expectNothingLeft(t, temporary)
		})
	}
}

func TestInterruptedDemoLeavesNothing(t *testing.T) {
	testenv.RequireRoot(t)
	binary, temporary := build(t)
	interruptDemo(t, demoOf(binary, temporary, 0, "--pause"), 3) // by then the volume is published
	expectNothingLeft(t, temporary)
}

// interruptDemo runs a demo that pauses, and interrupts it after so many steps.
func interruptDemo(t *testing.T, command *exec.Cmd, steps int) {
	t.Helper()
	stdin, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	command.Stderr = &stderr
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	for range steps {
		waitFor(t, stdout, "-- Enter --")
		if _, err := io.WriteString(stdin, "\n"); err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, stdout, "-- Enter --")
	if err := command.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, stdout); err != nil {
		t.Fatal(err)
	}
	if err := command.Wait(); err == nil || !strings.Contains(stderr.String(), "interrupted") {
		t.Errorf("ended with %v, %s", err, &stderr)
	}
}

// waitFor reads until a text has come.
func waitFor(t *testing.T, from io.Reader, text string) {
	t.Helper()
	var read strings.Builder
	for one := make([]byte, 1); !strings.HasSuffix(read.String(), text); {
		if _, err := from.Read(one); err != nil {
			t.Fatalf("%v before %q:\n%s", err, text, &read)
		}
		read.Write(one)
	}
}

func TestSecondProcessOnOneRootIsRefused(t *testing.T) {
	root := filepath.Join(testenv.TempDir(t), "root")
	first := testdriver.New(t, root)
	first.Start()
	binary, _ := build(t)
	second := exec.Command(binary, "--endpoint="+filepath.Join(t.TempDir(), "csi.sock"), "--root="+root, "--node-id=node")
	out, err := second.CombinedOutput()
	if err == nil || !strings.Contains(string(out), root) || !strings.Contains(string(out), "another process") {
		t.Errorf("ended with %v, expected a refusal that names the root:\n%s", err, out)
	}
	first.Stop()
}

// TestEndpointOfTheEnvironment: CSI_ENDPOINT is honoured, as CSI asks, in a
// directory that nobody has made.
func TestEndpointOfTheEnvironment(t *testing.T) {
	binary, temporary := build(t)
	socket := filepath.Join(temporary, "run", "csi.sock")
	command := exec.Command(binary, "--root="+filepath.Join(temporary, "root"), "--node-id=node")
	command.Env = append(os.Environ(), "CSI_ENDPOINT=unix://"+socket)
	stderr, err := command.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, stderr, `"Listening" socket="`+socket+`"`)
	if err := command.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, stderr); err != nil {
		t.Fatal(err)
	}
	if err := command.Wait(); err != nil {
		t.Error(err)
	}
}

func TestWrongUse(t *testing.T) {
	binary, temporary := build(t)
	for _, test := range []struct {
		argument, expect string
	}{
		{"--endpoint=tcp://127.0.0.1:1", "Unix socket"},
		{"--backend=zfs", "hostpath"},
		{"--driver-name=Not A Name", "DNS name"},
		{"--node-id=", "node ID"},
		{"--no-such-flag", "unknown flag"},
		{"no-such-command", "unknown command"},
	} {
		out, err := exec.Command(binary, "--endpoint="+temporary+"/s", "--root="+temporary+"/root", test.argument).CombinedOutput()
		if err == nil || !strings.Contains(string(out), test.expect) {
			t.Errorf("%s: %v, expected a word on %q:\n%s", test.argument, err, test.expect, out)
		}
	}
	if out := testenv.Run(t, binary, "--version"); out != "snapdriver dev\n" {
		t.Errorf("--version: %q", out)
	}
}
