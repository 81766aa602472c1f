package driver

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"k8s.io/klog/v2"

	"github.com/snapdriver/snapdriver/internal/testenv"
	"github.com/snapdriver/snapdriver/pkg/backend"
	"github.com/snapdriver/snapdriver/pkg/backend/memory"
	"github.com/snapdriver/snapdriver/pkg/snapshotcore"
)

func TestIdentity(t *testing.T) {
	c := startMemory(t)
	info := must[*csi.GetPluginInfoResponse](t)(c.GetPluginInfo(t.Context(), &csi.GetPluginInfoRequest{}))
	if info.Name != DefaultName || info.VendorVersion == "" {
		t.Errorf("plugin info: %v", info)
	}
	capabilities := must[*csi.GetPluginCapabilitiesResponse](t)(c.GetPluginCapabilities(t.Context(), &csi.GetPluginCapabilitiesRequest{}))
	if len(capabilities.Capabilities) != 4 {
		t.Errorf("plugin capabilities: %v", capabilities)
	}
	node := must[*csi.NodeGetInfoResponse](t)(c.NodeGetInfo(t.Context(), &csi.NodeGetInfoRequest{}))
	if node.NodeId != testNode || node.AccessibleTopology.GetSegments()["topology.csi.snapdriver.dev/node"] != testNode {
		t.Errorf("node info: %v", node)
	}
}

// TestStarting: the server answers before the core is open, and says so.
func TestStarting(t *testing.T) {
	b, err := memory.Open(memory.NewDisk(gib), nil)
	if err != nil {
		t.Fatal(err)
	}
	config := testConfig(t, b)
	goOn, open := make(chan struct{}), config.Open
	config.Open = func(ctx context.Context) (*snapshotcore.Core, error) {
		<-goOn
		return open(ctx)
	}
	server, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan error)
	go func() { stopped <- server.Run(ctx) }()
	c := dial(t, config.Endpoint)
	probe := must[*csi.ProbeResponse](t)(c.Probe(t.Context(), &csi.ProbeRequest{}, grpc.WaitForReady(true)))
	if probe.Ready == nil || probe.Ready.Value {
		t.Errorf("Probe while starting: %v", probe)
	}
	_, err = c.ListVolumes(t.Context(), &csi.ListVolumesRequest{})
	wantCode(t, err, codes.Unavailable)
	close(goOn)
	c.awaitReady(t)
	must[*csi.ListVolumesResponse](t)(c.ListVolumes(t.Context(), &csi.ListVolumesRequest{}))
	cancel()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	path, _ := SocketPath(config.Endpoint)
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) > 0 {
		t.Errorf("left beside the socket: %v %v", entries, err)
	}
}

func TestOpenFails(t *testing.T) {
	config := testConfig(t, nil)
	broken := errors.New("broken")
	config.Open = func(context.Context) (*snapshotcore.Core, error) { return nil, broken }
	server, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Run(t.Context()); !errors.Is(err, broken) {
		t.Errorf("Run: %v, want the error of Open", err)
	}
}

// brokenBackend has storage that is away.
type brokenBackend struct{ *memory.Backend }

func (b brokenBackend) Available(ctx context.Context, p backend.Profile) (int64, error) {
	if p.Mode == backend.Block {
		panic("a bug")
	}
	return 0, errors.New("input/output error")
}

// TestUnhealthy: Probe reports storage that is away; a panic is one call's
// error and not the process's end.
func TestUnhealthy(t *testing.T) {
	b, err := memory.Open(memory.NewDisk(gib), nil)
	if err != nil {
		t.Fatal(err)
	}
	config := testConfig(t, brokenBackend{b})
	server, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan error)
	go func() { stopped <- server.Run(ctx) }()
	c := dial(t, config.Endpoint)
	for {
		probe, err := c.Probe(t.Context(), &csi.ProbeRequest{}, grpc.WaitForReady(true))
		if err != nil {
			wantCode(t, err, codes.FailedPrecondition)
			break
		}
		if probe.Ready.GetValue() {
			t.Fatal("ready although the storage is away")
		}
	}
	_, err = c.GetCapacity(t.Context(), &csi.GetCapacityRequest{VolumeCapabilities: []*csi.VolumeCapability{blockCapability(writer)}})
	wantCode(t, err, codes.Internal)
	_, err = c.GetPluginInfo(t.Context(), &csi.GetPluginInfoRequest{})
	wantCode(t, err, codes.OK)
	if got := testutil.ToFloat64(server.metrics.calls.WithLabelValues("GetCapacity", "Internal")); got != 1 {
		t.Errorf("the panic was counted %v times", got)
	}
	cancel()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// TestHardStop: a call that does not end holds the server up for a bounded
// time.
func TestHardStop(t *testing.T) {
	begun, goOn := make(chan struct{}), make(chan struct{})
	b, err := memory.Open(memory.NewDisk(gib), func(step string) {
		if strings.HasPrefix(step, "build") {
			close(begun)
			<-goOn
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	config := testConfig(t, b)
	config.StopTimeout = time.Millisecond
	server, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan error)
	go func() { stopped <- server.Run(ctx) }()
	c := dial(t, config.Endpoint)
	c.awaitReady(t)
	answered := make(chan error)
	go func() {
		_, err := c.CreateVolume(background, volumeRequest("v"))
		answered <- err
	}()
	<-begun
	cancel()
	if err := <-answered; err == nil {
		t.Error("CreateVolume succeeded although it had not ended")
	}
	close(goOn) // the copy itself is waited for
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestSocket(t *testing.T) {
	dir := testenv.TempDir(t)
	path := filepath.Join(dir, "missing", "too", "csi.sock")
	first, err := listen(path, 0)
	if err != nil {
		t.Fatalf("a missing directory stops it: %v", err)
	}
	_ = first.Close()

	stale, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	stale.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = stale.Close()
	listener, err := listen(path, 0)
	if err != nil {
		t.Fatalf("a stale socket stops it: %v", err)
	}
	info, err := os.Lstat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v %v, want mode 0600", info.Mode(), err)
	}
	if _, err := listen(path, 0); err == nil || !strings.Contains(err.Error(), "another process is serving") {
		t.Errorf("a second listener: %v", err)
	}
	_ = listener.Close()
	if _, err := os.Lstat(path); err == nil {
		t.Error("the socket is left")
	}
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listen(path, 0); err == nil {
		t.Error("it listens in place of a file")
	}
	if text, _ := os.ReadFile(path); string(text) != "precious" {
		t.Error("the file is gone")
	}
}

// TestSocketGroup: who is of the group connects, and nobody else.
func TestSocketGroup(t *testing.T) {
	testenv.RequireRoot(t)
	const group = 4711
	path := filepath.Join(testenv.TempDir(t), "csi.sock")
	listener, err := listen(path, group)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	var stat unix.Stat_t
	if err := unix.Lstat(path, &stat); err != nil {
		t.Fatal(err)
	}
	if stat.Uid != 0 || stat.Gid != group || stat.Mode&0o777 != 0o660 {
		t.Errorf("socket of %d:%d with mode %o, want 0:%d and 660", stat.Uid, stat.Gid, stat.Mode&0o777, group)
	}
}

func TestConfig(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"good":             {func(*Config) {}, ""},
		"one slash":        {func(c *Config) { c.Endpoint = "unix:/run/csi.sock" }, ""},
		"plain path":       {func(c *Config) { c.Endpoint = "/run/csi.sock" }, ""},
		"longest node ID":  {func(c *Config) { c.NodeID = strings.Repeat("n", 256) }, ""},
		"tcp":              {func(c *Config) { c.Endpoint = "tcp://127.0.0.1:9000" }, "Unix socket"},
		"no endpoint":      {func(c *Config) { c.Endpoint = "" }, "Unix socket"},
		"relative":         {func(c *Config) { c.Endpoint = "unix://csi.sock" }, "Unix socket"},
		"abstract":         {func(c *Config) { c.Endpoint = "unix:@csi" }, "Unix socket"},
		"long path":        {func(c *Config) { c.Endpoint = "/" + strings.Repeat("x", 107) }, "shorter"},
		"no driver name":   {func(c *Config) { c.Name = "" }, "driver name"},
		"no DNS name":      {func(c *Config) { c.Name = "snap_driver" }, "driver name"},
		"long driver name": {func(c *Config) { c.Name = strings.Repeat("x", 55) }, "driver name"},
		"no version":       {func(c *Config) { c.Version = "" }, "version"},
		"no node ID":       {func(c *Config) { c.NodeID = "" }, "node ID"},
		"long node ID":     {func(c *Config) { c.NodeID = strings.Repeat("n", 257) }, "node ID"},
		"negative group":   {func(c *Config) { c.SocketGroup = -1 }, "group"},
		"negative maximum": {func(c *Config) { c.MaxVolumesPerNode = -1 }, "negative"},
		"relative root":    {func(c *Config) { c.PrivateDir = "x" }, "absolute"},
	} {
		config := Config{Endpoint: "unix:///run/csi.sock", Name: DefaultName, Version: "1", NodeID: "n"}
		test.change(&config)
		_, err := New(config)
		if (err == nil) != (test.want == "") || !strings.Contains(fmt.Sprint(err), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
}

func TestMetrics(t *testing.T) {
	var address string
	b, err := memory.Open(memory.NewDisk(gib), nil)
	if err != nil {
		t.Fatal(err)
	}
	c := start(t, b, func(config *Config) {
		free, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		address = free.Addr().String()
		_ = free.Close()
		config.MetricsAddress = address
	})
	c.create(t, volumeRequest("v"))
	_, _ = c.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{})
	response, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		`snapdriver_rpc_total{code="OK",method="CreateVolume"} 1`,
		`snapdriver_rpc_total{code="InvalidArgument",method="DeleteVolume"} 1`,
		`snapdriver_rpc_duration_seconds_count{method="CreateVolume"} 1`,
		`snapdriver_rpc_in_flight{method="CreateVolume"} 0`,
		`snapdriver_volumes 1`,
		`snapdriver_volume_bytes 1.6777216e+07`,
		`snapdriver_copies_in_flight 0`,
		`snapdriver_build_info{version="test"} 1`,
	} {
		if !strings.Contains(string(text), line+"\n") {
			t.Errorf("metrics lack %s", line)
		}
	}
}

// TestMountFlagsStaySecret: what may be a secret is neither answered nor logged.
func TestMountFlagsStaySecret(t *testing.T) {
	defer klog.CaptureState().Restore()
	flags := flag.NewFlagSet("klog", flag.PanicOnError)
	klog.InitFlags(flags)
	if err := flags.Parse([]string{"-logtostderr=false", "-alsologtostderr=false", "-stderrthreshold=FATAL", "-v=5"}); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	klog.SetOutput(&log)
	defer klog.SetOutput(io.Discard)
	t.Run("calls", func(t *testing.T) {
		c := startMemory(t)
		v := c.create(t, volumeRequest("v"))
		capability := capability(writer, "ro", "hunter2", "password=hunter2")
		_, create := c.CreateVolume(t.Context(), &csi.CreateVolumeRequest{Name: "w", VolumeCapabilities: []*csi.VolumeCapability{capability}})
		_, stage := c.NodeStageVolume(t.Context(), &csi.NodeStageVolumeRequest{VolumeId: v.VolumeId, StagingTargetPath: "/x", VolumeCapability: capability})
		_, publish := c.NodePublishVolume(t.Context(), &csi.NodePublishVolumeRequest{VolumeId: v.VolumeId, StagingTargetPath: "/x", TargetPath: "/y", VolumeCapability: capability})
		for _, err := range []error{create, stage, publish} {
			wantCode(t, err, codes.InvalidArgument)
			if strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), "mount_flags[1]") {
				t.Errorf("answer: %v", err)
			}
		}
		validated := must[*csi.ValidateVolumeCapabilitiesResponse](t)(c.ValidateVolumeCapabilities(t.Context(), &csi.ValidateVolumeCapabilitiesRequest{VolumeId: v.VolumeId, VolumeCapabilities: []*csi.VolumeCapability{capability}}))
		if strings.Contains(validated.Message, "hunter2") {
			t.Errorf("answer: %v", validated)
		}
	})
	if klog.Flush(); strings.Contains(log.String(), "hunter2") || !strings.Contains(log.String(), "NodePublishVolume") {
		t.Errorf("log: %s", &log)
	}
}
