package torture

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/snapdriver/snapdriver/internal/testenv"
	"github.com/snapdriver/snapdriver/internal/testvm"
	"github.com/snapdriver/snapdriver/test/torture/content"
)

// guest is a driver in a virtual machine with a disk of its own. The clients
// are of the last boot.
type guest struct {
	t       *testing.T
	storage guestStorage
	image   *testvm.Image
	config  testvm.Config
	disk    *testvm.Disk

	vm         *testvm.VM
	bootTime   time.Duration // how long the last boot took
	connection *grpc.ClientConn
	log        *logBuffer
}

// newGuest compiles what runs in the guest and makes its disk.
func newGuest(t *testing.T, s guestStorage) *guest {
	t.Helper()
	image, err := testvm.Prepare(t.Context())
	if err != nil {
		testenv.Skip(t, "no virtual machine: %v", err)
	}
	dir := t.TempDir()
	disk, err := testvm.NewDisk(filepath.Join(dir, "disk"), diskSize)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(disk.Close)
	g := &guest{t: t, storage: s, image: image, disk: disk, config: testvm.Config{Disks: []*testvm.Disk{disk}, Files: map[string]string{}}}
	for name, source := range map[string]string{"snapdriver": "cmd/snapdriver", "content": "test/torture/content/cmd"} {
		g.config.Files[name] = filepath.Join(dir, name)
		build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", g.config.Files[name], "github.com/snapdriver/snapdriver/"+source)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v\n%s", name, err, out)
		}
	}
	g.boot()
	g.sh(s.create)
	return g
}

// boot boots the machine; it ends with the test.
func (g *guest) boot() {
	g.t.Helper()
	began := time.Now()
	vm, err := g.image.Boot(testenv.Context(g.t), g.config)
	if err != nil {
		g.t.Fatal(err)
	}
	g.vm, g.bootTime = vm, time.Since(began)
	g.t.Cleanup(g.vm.Kill)
}

// start starts the driver and waits until it is ready.
func (g *guest) start(directories ...string) {
	g.t.Helper()
	g.sh("mkdir -p " + strings.Join(directories, " "))
	g.sh(g.storage.open)
	const socket = "/run/csi.sock"
	vm, log := g.vm, &logBuffer{}
	g.log = log
	ctx, cancel := context.WithTimeout(g.t.Context(), time.Minute)
	go func() {
		defer cancel() // the log says why it has ended
		_ = vm.Run(testvm.Command{Args: append([]string{"snapdriver", "--endpoint=unix://" + socket, "--node-id=node"}, g.storage.flags...), Stderr: log})
	}()
	var err error
	g.connection, err = grpc.NewClient("passthrough:guest", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(dialOnce(vm, socket)),
		// On a busy machine the first connection, which is the only one, takes long.
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: time.Minute}))
	if err != nil {
		g.t.Fatal(err)
	}
	for ready := false; !ready; {
		probe, err := csi.NewIdentityClient(g.connection).Probe(ctx, &csi.ProbeRequest{}, grpc.WaitForReady(true))
		if err != nil {
			g.t.Fatalf("the driver does not become ready: %v\n%s", err, log)
		}
		ready = probe.GetReady().GetValue()
	}
}

// dialOnce connects to the guest; a second time there is nothing to connect to.
func dialOnce(vm *testvm.VM, socket string) func(context.Context, string) (net.Conn, error) {
	var once sync.Once
	return func(context.Context, string) (connection net.Conn, err error) {
		err = errors.New("the machine is dead")
		once.Do(func() { connection, err = vm.Dial(socket), nil })
		return connection, err
	}
}

// cut cuts the power, and returns how many blocks are lost by it.
func (g *guest) cut(random *rand.Rand) (lost int) {
	g.t.Helper()
	g.vm.Kill()
	_ = g.connection.Close()
	lost, of, err := g.disk.Cut(random, g.storage.inOrder)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Logf("power cut: %d of %d blocks that were not flushed are lost", lost, of)
	return lost
}

// sh runs a script in the guest and returns what it prints.
func (g *guest) sh(script string) string {
	g.t.Helper()
	var out bytes.Buffer
	if err := g.vm.Run(testvm.Command{Args: []string{"sh", "-ec", script}, Stdout: &out, Stderr: &out}); err != nil {
		g.t.Fatalf("%s: %v\n%s", script, err, &out)
	}
	return out.String()
}

func (g *guest) controller() csi.ControllerClient { return csi.NewControllerClient(g.connection) }
func (g *guest) node() csi.NodeClient             { return csi.NewNodeClient(g.connection) }

func (g *guest) write(tag content.Tag, path string) error {
	return g.content("write", path, uint64(tag))
}

func (g *guest) check(tag content.Tag, path string) error {
	return g.content("check", path, uint64(tag))
}

func (g *guest) checkSize(path string, size, structures int64) error {
	return g.content("size", path, uint64(size), uint64(structures))
}

func (g *guest) content(what, path string, numbers ...uint64) error {
	arguments := []string{"content", what, path}
	for _, number := range numbers {
		arguments = append(arguments, fmt.Sprint(number))
	}
	var out bytes.Buffer
	err := g.vm.Run(testvm.Command{Args: arguments, Stdout: &out, Stderr: &out})
	if exit := (*testvm.ExitError)(nil); err == nil || errors.As(err, &exit) {
		return errors.Join(err, errorOf(out.String()))
	}
	return status.Error(codes.Unavailable, err.Error())
}

func errorOf(text string) error {
	if text == "" {
		return nil
	}
	return errors.New(text)
}

// logBuffer is written and read at the same time.
type logBuffer struct {
	mutex sync.Mutex
	text  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return l.text.Write(p)
}

func (l *logBuffer) String() string {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return l.text.String()
}
