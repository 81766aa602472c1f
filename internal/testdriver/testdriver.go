// Package testdriver runs the built driver as what it is in production, a
// process that is reached through its socket, for tests from outside.
package testdriver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/snapdriver/snapdriver/internal/testenv"
)

// Driver is the built binary on one root directory, started and ended again.
// The clients stay, and reach whichever process runs; while none does, they get
// the code Unavailable.
type Driver struct {
	Identity   csi.IdentityClient
	Controller csi.ControllerClient
	Node       csi.NodeClient
	Connection *grpc.ClientConn

	// For the next start:

	Root   string
	Flags  []string // beside those of endpoint, root and node
	Env    []string // beside this process's
	Within []string // a program that becomes the driver, with its arguments, such as setpriv

	t              testing.TB
	binary, socket string
	log            string // a file
	metrics        string // host:port

	mutex   sync.Mutex
	process *process
}

// process is a driver that was started. The error of its end may be read once
// ended is closed.
type process struct {
	*exec.Cmd
	ended chan struct{}
	err   error
}

// New builds the driver for a root directory, or takes $SNAPDRIVER_BINARY,
// where there is no compiler. It is killed, if it runs, when the test ends.
func New(t testing.TB, root string) *Driver {
	t.Helper()
	dir := testenv.TempDir(t)
	d := &Driver{t: t, Root: root, binary: os.Getenv("SNAPDRIVER_BINARY"), socket: filepath.Join(dir, "csi.sock"), log: filepath.Join(dir, "log"), metrics: freeAddress(t)}
	if d.binary == "" {
		d.binary = filepath.Join(dir, "snapdriver")
		testenv.RequirePrograms(t, "go")
		testenv.Run(t, "go", "build", "-o", d.binary, "github.com/snapdriver/snapdriver/cmd/snapdriver")
	}
	d.Connection = d.Dial()
	d.Identity, d.Controller, d.Node = csi.NewIdentityClient(d.Connection), csi.NewControllerClient(d.Connection), csi.NewNodeClient(d.Connection)
	t.Cleanup(func() {
		if d.Running() {
			d.Kill()
		}
	})
	return d
}

// Dial returns another connection to the driver, which is made anew whenever
// the driver is. It is closed when the test ends.
func (d *Driver) Dial() *grpc.ClientConn {
	d.t.Helper()
	soon := backoff.Config{BaseDelay: time.Millisecond, Multiplier: 1, MaxDelay: time.Millisecond}
	connection, err := grpc.NewClient("unix://"+d.socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: soon, MinConnectTimeout: time.Minute}))
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { _ = connection.Close() })
	return connection
}

// Launch starts the driver and does not wait.
func (d *Driver) Launch() {
	d.t.Helper()
	// A file, for a pipe would make this process work for each line.
	log, err := os.Create(d.log)
	if err != nil {
		d.t.Fatal(err)
	}
	defer log.Close()
	command := slices.Concat(d.Within, []string{
		d.binary, "--endpoint=unix://" + d.socket, "--root=" + d.Root, "--node-id=node", "--metrics-address=" + d.metrics,
	}, d.Flags)
	p := &process{ended: make(chan struct{}), Cmd: exec.Command(command[0], command[1:]...)}
	p.Stderr = log
	p.Env = append(os.Environ(), d.Env...)
	if err := p.Start(); err != nil {
		d.t.Fatal(err)
	}
	go func() {
		p.err = p.Wait()
		close(p.ended)
	}()
	d.mutex.Lock()
	defer d.mutex.Unlock()
	d.process = p
}

// started is the process that was started last and has not been seen to its
// end; nil: there is none.
func (d *Driver) started() *process {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	return d.process
}

// Start starts the driver and waits until it is ready.
func (d *Driver) Start() {
	d.t.Helper()
	d.Launch()
	if err := d.AwaitReady(); err != nil {
		d.t.Fatalf("%v\n%s", err, d.Logged())
	}
}

// AwaitReady waits until the driver that was launched is ready. It returns an
// error when the driver has ended, or takes longer than a minute.
func (d *Driver) AwaitReady() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	ended := d.started().ended
	go func() {
		select {
		case <-ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	for {
		probe, err := d.Identity.Probe(ctx, &csi.ProbeRequest{}, grpc.WaitForReady(true))
		if err == nil && probe.GetReady().GetValue() {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the driver does not become ready: %w", errors.Join(err, ctx.Err()))
		case <-time.After(time.Millisecond):
		}
	}
}

// Signal sends a signal to the driver, which may have ended already.
func (d *Driver) Signal(signal os.Signal) {
	if p := d.started(); p != nil {
		_ = p.Process.Signal(signal)
	}
}

// Running says whether the driver was started and neither killed nor stopped.
func (d *Driver) Running() bool { return d.started() != nil }

// Ended is closed when the driver that was started last has ended.
func (d *Driver) Ended() <-chan struct{} { return d.started().ended }

// Kill ends the driver as a crash would.
func (d *Driver) Kill() {
	d.Signal(syscall.SIGKILL)
	_ = d.end()
}

// Stop ends the driver as Kubernetes does.
func (d *Driver) Stop() {
	d.t.Helper()
	d.Signal(syscall.SIGTERM)
	if err := d.end(); err != nil {
		d.t.Errorf("the driver ended with %v\n%s", err, d.Logged())
	}
}

// end waits for the driver's end.
func (d *Driver) end() error {
	p := d.started()
	<-p.ended
	d.checkLog()
	d.mutex.Lock()
	defer d.mutex.Unlock()
	d.process = nil
	return p.err
}

// checkLog fails the test when the driver's log tells of a defect that no
// answer need have shown.
func (d *Driver) checkLog() {
	log := d.Logged()
	for _, sign := range []string{"\"Panic", "DATA RACE", "fatal error: "} {
		if at := strings.Index(log, sign); at >= 0 {
			d.t.Errorf("the driver has logged:\n%.8000s", log[at:])
		}
	}
}

// Socket is the path of the driver's socket.
func (d *Driver) Socket() string { return d.socket }

// Program is the path of the built binary.
func (d *Driver) Program() string { return d.binary }

// PID is the process ID of the running driver.
func (d *Driver) PID() int { return d.started().Process.Pid }

// Logged is what the driver has logged since its last start.
func (d *Driver) Logged() string {
	text, err := os.ReadFile(d.log)
	if err != nil {
		return err.Error()
	}
	return string(text)
}
