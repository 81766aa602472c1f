package driver

import (
	"context"
	"flag"
	"io"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"k8s.io/klog/v2"

	"github.com/snapdriver/snapdriver/internal/testenv"
	"github.com/snapdriver/snapdriver/pkg/backend"
	"github.com/snapdriver/snapdriver/pkg/backend/memory"
	"github.com/snapdriver/snapdriver/pkg/driver/mounts"
	"github.com/snapdriver/snapdriver/pkg/snapshotcore"
)

const (
	mib      = 1 << 20
	gib      = 1 << 30
	testNode = "node-a"
)

// TestMain keeps the log out of the way, unless go test -v asks for it.
func TestMain(m *testing.M) {
	flag.Parse()
	if !testing.Verbose() {
		flags := flag.NewFlagSet("klog", flag.PanicOnError)
		klog.InitFlags(flags)
		_ = flags.Parse([]string{"-logtostderr=false", "-stderrthreshold=FATAL"})
		klog.SetOutput(io.Discard)
	}
	m.Run()
}

// background is for calls in the clean-up of a test, when its own context is
// over.
var background = context.Background()

// client talks to a server through its socket, as a sidecar does.
type client struct {
	csi.IdentityClient
	csi.ControllerClient
	csi.NodeClient
	conn   *grpc.ClientConn
	server *Server // nil where a test runs it itself
}

// start serves a backend on a socket until the test ends.
func start(t *testing.T, b backend.Backend, change func(*Config)) client {
	t.Helper()
	config := testConfig(t, b)
	if change != nil {
		change(&config)
	}
	server, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	testenv.InBackground(t, server.Run)
	c := dial(t, config.Endpoint)
	c.server = server
	c.awaitReady(t)
	return c
}

func testConfig(t *testing.T, b backend.Backend) Config {
	return Config{
		Endpoint: "unix://" + filepath.Join(testenv.TempDir(t), "csi.sock"),
		Name:     DefaultName,
		Version:  "test",
		NodeID:   testNode,
		Open: func(ctx context.Context) (*snapshotcore.Core, error) {
			return snapshotcore.Open(ctx, b, snapshotcore.Options{NodeID: testNode, InUse: mounts.InUse})
		},
	}
}

func dial(t *testing.T, endpoint string) client {
	t.Helper()
	// Tried again soon, but given the time that a busy machine needs.
	soon := grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: 10 * time.Millisecond, MaxDelay: 10 * time.Millisecond},
		MinConnectTimeout: time.Minute,
	}
	// A test's name, which is in the path, may have what a URL may not.
	target := url.URL{Scheme: "unix", Path: strings.TrimPrefix(endpoint, "unix://")}
	conn, err := grpc.NewClient(target.String(), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithConnectParams(soon))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return client{csi.NewIdentityClient(conn), csi.NewControllerClient(conn), csi.NewNodeClient(conn), conn, nil}
}

func (c client) awaitReady(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		response, err := c.Probe(ctx, &csi.ProbeRequest{}, grpc.WaitForReady(true))
		if err != nil {
			t.Fatal(err)
		}
		if response.GetReady().GetValue() {
			return
		}
	}
}

func startMemory(t *testing.T) client {
	t.Helper()
	b, err := memory.Open(memory.NewDisk(100*gib), nil)
	if err != nil {
		t.Fatal(err)
	}
	return start(t, b, nil)
}

// wantCode fails the test unless err has the code, a message unless it is OK,
// and no details, as CSI has it.
func wantCode(t *testing.T, err error, want codes.Code) {
	t.Helper()
	got := status.Convert(err)
	if got.Code() != want {
		t.Errorf("code %v (%s), want %v", got.Code(), got.Message(), want)
	}
	if want != codes.OK && got.Message() == "" {
		t.Error("the status has no message")
	}
	if len(got.Details()) > 0 {
		t.Errorf("the status has details: %v", got.Details())
	}
}

func must[Response any](t *testing.T) func(Response, error) Response {
	return func(response Response, err error) Response {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return response
	}
}

// capability makes a filesystem capability.
func capability(mode csi.VolumeCapability_AccessMode_Mode, flags ...string) *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: mode},
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{MountFlags: flags}},
	}
}

// blockCapability makes a raw block capability.
func blockCapability(mode csi.VolumeCapability_AccessMode_Mode) *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: mode},
		AccessType: &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}},
	}
}

const (
	writer      = csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER
	oneWriter   = csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER
	manyWriters = csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER
	oneReader   = csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY
	readers     = csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY
)

// volumeRequest makes a request for a filesystem volume of 16 MiB.
func volumeRequest(name string) *csi.CreateVolumeRequest {
	return &csi.CreateVolumeRequest{
		Name:               name,
		CapacityRange:      &csi.CapacityRange{RequiredBytes: 16 * mib},
		VolumeCapabilities: []*csi.VolumeCapability{capability(writer)},
	}
}

func fromSnapshot(id string) *csi.VolumeContentSource {
	return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: id}}}
}

func fromVolume(id string) *csi.VolumeContentSource {
	return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: id}}}
}

func (c client) create(t *testing.T, r *csi.CreateVolumeRequest) *csi.Volume {
	t.Helper()
	return must[*csi.CreateVolumeResponse](t)(c.CreateVolume(t.Context(), r)).GetVolume()
}

func (c client) snapshot(t *testing.T, name, source string) *csi.Snapshot {
	t.Helper()
	return must[*csi.CreateSnapshotResponse](t)(c.CreateSnapshot(t.Context(), &csi.CreateSnapshotRequest{Name: name, SourceVolumeId: source})).GetSnapshot()
}
