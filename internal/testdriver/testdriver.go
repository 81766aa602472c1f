// Package testdriver runs the built driver as what it is in production, a
// process that is reached through its socket, for tests from outside.
package testdriver

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/snapdriver/snapdriver/internal/testenv"
)

// Driver is the built binary on one root directory, started and ended again.
// The clients are of the last Start.
type Driver struct {
	Controller csi.ControllerClient
	Node       csi.NodeClient
	Root       string
	Flags      []string // beside those of endpoint, root and node; for the next start

	t              testing.TB
	binary, socket string
	process        *exec.Cmd
	log            string // a file
	connection     *grpc.ClientConn
}

// New builds the driver for a root directory, or takes $SNAPDRIVER_BINARY,
// where there is no compiler. It is killed, if it runs, when the test ends.
func New(t testing.TB, root string) *Driver {
	t.Helper()
	dir := testenv.TempDir(t)
	d := &Driver{t: t, Root: root, binary: os.Getenv("SNAPDRIVER_BINARY"), socket: filepath.Join(dir, "csi.sock"), log: filepath.Join(dir, "log")}
	if d.binary == "" {
		d.binary = filepath.Join(dir, "snapdriver")
		testenv.RequirePrograms(t, "go")
		testenv.Run(t, "go", "build", "-o", d.binary, "github.com/snapdriver/snapdriver/cmd/snapdriver")
	}
	t.Cleanup(func() {
		if d.process != nil {
			d.Kill()
		}
	})
	return d
}

// Launch starts the driver and does not wait. There are no clients yet.
func (d *Driver) Launch() {
	d.t.Helper()
	// A file, for a pipe would make this process work for each line.
	log, err := os.Create(d.log)
	if err != nil {
		d.t.Fatal(err)
	}
	defer log.Close()
	d.process = exec.Command(d.binary, append([]string{"--endpoint=unix://" + d.socket, "--root=" + d.Root, "--node-id=node"}, d.Flags...)...)
	d.process.Stderr = log
	if err := d.process.Start(); err != nil {
		d.t.Fatal(err)
	}
}

// Start starts the driver and waits until it is ready.
func (d *Driver) Start() {
	d.t.Helper()
	d.Launch()
	d.waitListening() // else gRPC backs off for a second after its first try
	connection, err := grpc.NewClient("unix://"+d.socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		d.t.Fatal(err)
	}
	d.connection = connection
	d.Controller, d.Node = csi.NewControllerClient(connection), csi.NewNodeClient(connection)
	d.waitReady(csi.NewIdentityClient(connection))
}

func (d *Driver) waitListening() {
	d.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		connection, err := net.Dial("unix", d.socket)
		if err == nil {
			_ = connection.Close()
			return
		}
		if time.Now().After(deadline) {
			d.Kill()
			d.t.Fatalf("the driver does not listen: %v\n%s", err, d.Log())
		}
	}
}

func (d *Driver) waitReady(identity csi.IdentityClient) {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		probe, err := identity.Probe(ctx, &csi.ProbeRequest{})
		if err == nil && probe.GetReady().GetValue() {
			return
		}
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			d.t.Fatalf("the driver does not become ready: %v\n%s", err, d.Log())
		}
	}
}

// Signal sends a signal to the driver, which may have ended already.
func (d *Driver) Signal(signal os.Signal) { _ = d.process.Process.Signal(signal) }

// Kill ends the driver as a crash would.
func (d *Driver) Kill() {
	d.Signal(syscall.SIGKILL)
	_ = d.process.Wait()
	if d.connection != nil {
		_ = d.connection.Close()
	}
	d.process = nil
}

// Stop ends the driver as Kubernetes does.
func (d *Driver) Stop() {
	d.t.Helper()
	d.Signal(syscall.SIGTERM)
	if err := d.process.Wait(); err != nil {
		d.t.Errorf("the driver ended with %v\n%s", err, d.Log())
	}
	_ = d.connection.Close()
	d.process = nil
}

// Socket is the path of the driver's socket.
func (d *Driver) Socket() string { return d.socket }

// Program is the path of the built binary.
func (d *Driver) Program() string { return d.binary }

// PID is the process ID of the running driver.
func (d *Driver) PID() int { return d.process.Process.Pid }

// Log is what the driver has logged since its last start.
func (d *Driver) Log() string {
	text, err := os.ReadFile(d.log)
	if err != nil {
		return err.Error()
	}
	return string(text)
}
