package driver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/snapdriver/snapdriver/internal/testenv"
	"github.com/snapdriver/snapdriver/pkg/backend"
	"github.com/snapdriver/snapdriver/pkg/backend/memory"
	"github.com/snapdriver/snapdriver/pkg/snapshotcore"
)

var errAway = errors.New("input/output error")

// waiting runs a server that waits for its storage, which is not there until back
// is true.
func waiting(t *testing.T, change func(*Config)) (c client, back *atomic.Bool) {
	t.Helper()
	b, err := memory.Open(memory.NewDisk(gib), nil)
	if err != nil {
		t.Fatal(err)
	}
	config, back := testConfig(t, b), new(atomic.Bool)
	open := config.Open
	config.WaitForStorage = true
	config.Open = func(ctx context.Context) (*snapshotcore.Core, error) {
		if !back.Load() {
			return nil, errAway
		}
		return open(ctx)
	}
	change(&config)
	server, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	testenv.InBackground(t, server.Run)
	c = dial(t, config.Endpoint)
	c.server = server
	for {
		probe := must[*csi.ProbeResponse](t)(c.Probe(t.Context(), &csi.ProbeRequest{}, grpc.WaitForReady(true)))
		if probe.Ready == nil || probe.Ready.Value {
			t.Fatalf("Probe without storage: %v", probe)
		}
		if server.notOpened.Load() != nil {
			return c, back
		}
	}
}

// TestWaitForStorage: while the storage is away, the kubelet learns of the driver
// and takes volumes from pods; all else is told why it has to wait. Once the
// storage is there, it is served.
func TestWaitForStorage(t *testing.T) {
	testenv.RequireRoot(t)
	base := testenv.TempDir(t)
	target, private := filepath.Join(base, "target"), filepath.Join(base, "private")
	c, back := waiting(t, func(config *Config) { config.PrivateDir = private })
	for _, dir := range []string{target, private} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	must[*csi.NodeGetInfoResponse](t)(c.NodeGetInfo(t.Context(), &csi.NodeGetInfoRequest{}))
	must[*csi.NodeGetCapabilitiesResponse](t)(c.NodeGetCapabilities(t.Context(), &csi.NodeGetCapabilitiesRequest{}))
	must[*csi.ControllerGetCapabilitiesResponse](t)(c.ControllerGetCapabilities(t.Context(), &csi.ControllerGetCapabilitiesRequest{}))
	id := backend.NewVolumeID(testNode, "v").String()
	_, err := c.NodeUnstageVolume(t.Context(), &csi.NodeUnstageVolumeRequest{VolumeId: id, StagingTargetPath: base})
	wantCode(t, err, codes.Unavailable)
	_, err = c.ListVolumes(t.Context(), &csi.ListVolumesRequest{})
	wantCode(t, err, codes.Unavailable)
	if !strings.Contains(status.Convert(err).Message(), errAway.Error()) {
		t.Errorf("it does not say why: %v", err)
	}

	unpublish := func(path string) error {
		_, err := c.NodeUnpublishVolume(t.Context(), &csi.NodeUnpublishVolumeRequest{VolumeId: id, TargetPath: path})
		return err
	}
	testenv.Run(t, "mount", "-t", "tmpfs", "tmpfs", target)
	for range 2 {
		wantCode(t, unpublish(target), codes.OK)
	}
	if _, err := os.Lstat(target); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the target is still there: %v", err)
	}
	wantCode(t, unpublish(private), codes.InvalidArgument)
	wantCode(t, unpublish(""), codes.InvalidArgument)

	back.Store(true)
	c.awaitReady(t)
	c.create(t, volumeRequest("v"))
	wantCode(t, unpublish(target), codes.OK)
}

// TestUnpublishWhileStorageComes: a call that works without the core has ended
// when the core begins to work on volumes.
func TestUnpublishWhileStorageComes(t *testing.T) {
	c, back := waiting(t, func(*Config) {})
	id := backend.NewVolumeID(testNode, "v")
	release, err := (&node{Server: c.server}).lockNode(id)
	if err != nil {
		t.Fatal(err)
	}
	back.Store(true)
	unpublish := func() codes.Code {
		_, err := c.NodeUnpublishVolume(t.Context(), &csi.NodeUnpublishVolumeRequest{VolumeId: id.String(), TargetPath: "/none"})
		return status.Code(err)
	}
	for code := unpublish(); code != codes.Unavailable; code = unpublish() {
		if code != codes.OK {
			t.Fatal(code)
		}
		time.Sleep(time.Millisecond)
	}
	if c.server.core() != nil {
		t.Error("the core was opened meanwhile")
	}
	release()
	c.awaitReady(t)
	if code := unpublish(); code != codes.OK {
		t.Error(code)
	}
}

// TestWaitForNothing: what was given wrongly is not tried again.
func TestWaitForNothing(t *testing.T) {
	config := testConfig(t, nil)
	config.WaitForStorage = true
	config.Open = func(context.Context) (*snapshotcore.Core, error) {
		return nil, fmt.Errorf("no such backend: %w", backend.ErrInvalid)
	}
	server, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Run(t.Context()); !errors.Is(err, backend.ErrInvalid) {
		t.Errorf("Run: %v, want the error of Open", err)
	}
}

// TestStoppedWhileOpening: who stops a server that is still opening its core has
// no error to look into.
func TestStoppedWhileOpening(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	config := testConfig(t, nil)
	config.Open = func(ctx context.Context) (*snapshotcore.Core, error) {
		cancel()
		<-ctx.Done()
		return nil, ctx.Err()
	}
	server, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Run(ctx); err != nil {
		t.Error(err)
	}
}
