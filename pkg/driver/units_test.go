package driver

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

func TestStatusOf(t *testing.T) {
	for _, test := range []struct {
		err  error
		want codes.Code
	}{
		{nil, codes.OK},
		{backend.ErrInvalid, 3},
		{backend.ErrNotFound, 5},
		{backend.ErrExists, 6},
		{backend.ErrExhausted, 8},
		{backend.ErrPrecondition, 9},
		{backend.ErrBusy, 10},
		{backend.ErrBadToken, 10},
		{backend.ErrOutOfRange, 11},
		{context.DeadlineExceeded, codes.DeadlineExceeded},
		{context.Canceled, codes.Canceled},
		{errors.New("disk on fire"), codes.Internal},
		{status.Error(codes.Unimplemented, "no"), codes.Unimplemented},
	} {
		err := test.err
		if _, is := status.FromError(err); err != nil && !is {
			err = fmt.Errorf("do: %w", err)
		}
		wantCode(t, statusOf(err), test.want)
	}
}

func TestTopology(t *testing.T) {
	for node, want := range map[string]string{
		"node-a":                 "node-a",
		strings.Repeat("n", 63):  strings.Repeat("n", 63),
		strings.Repeat("n", 253): strings.Repeat("n", 54) + "-" + backend.NodeHash(strings.Repeat("n", 253)),
		"a b":                    "a-b-" + backend.NodeHash("a b"),
		"-a":                     "a-" + backend.NodeHash("-a"),
		"ü":                      backend.NodeHash("ü"),
	} {
		got := newTopology(DefaultName, node).value
		if got != want || !validValue.MatchString(got) {
			t.Errorf("value of %q: %q, want %q", node, got, want)
		}
	}
	here := newTopology("csi.snapdriver.dev", testNode)
	mine, alike := here.accessible(), &csi.Topology{Segments: map[string]string{"Topology.csi.snapdriver.dev/node": testNode}}
	for name, test := range map[string]struct {
		requirement *csi.TopologyRequirement
		want        bool
	}{
		"none":               {nil, true},
		"requisite":          {&csi.TopologyRequirement{Requisite: []*csi.Topology{otherNode, mine}}, true},
		"other case":         {&csi.TopologyRequirement{Requisite: []*csi.Topology{alike}}, true},
		"not requisite":      {&csi.TopologyRequirement{Requisite: []*csi.Topology{otherNode}, Preferred: []*csi.Topology{mine}}, false},
		"preferred only":     {&csi.TopologyRequirement{Preferred: []*csi.Topology{mine}}, true},
		"not preferred":      {&csi.TopologyRequirement{Preferred: []*csi.Topology{otherNode}}, false},
		"segment not known":  {&csi.TopologyRequirement{Requisite: []*csi.Topology{{Segments: map[string]string{"zone": "z", here.key: testNode}}}}, false},
		"less preferred too": {&csi.TopologyRequirement{Requisite: []*csi.Topology{otherNode, mine}, Preferred: []*csi.Topology{otherNode}}, true},
	} {
		if got := here.admits(test.requirement); got != test.want {
			t.Errorf("%s: admits is %v", name, got)
		}
	}
}

// TestPrintable: what may be secret is in no log, whichever the RPC.
func TestPrintable(t *testing.T) {
	secret := map[string]string{"key": "hunter2"}
	hidden := capability(writer, "password=hunter2")
	hidden.GetMount().FsType = "visible"
	for _, message := range []any{
		&csi.CreateVolumeRequest{Secrets: secret, VolumeCapabilities: []*csi.VolumeCapability{hidden}},
		&csi.NodeStageVolumeRequest{Secrets: secret, VolumeCapability: hidden},
		&csi.NodePublishVolumeRequest{Secrets: secret, VolumeCapability: hidden},
		&csi.NodeExpandVolumeRequest{Secrets: secret, VolumeCapability: hidden},
		&csi.ValidateVolumeCapabilitiesResponse{Confirmed: &csi.ValidateVolumeCapabilitiesResponse_Confirmed{VolumeCapabilities: []*csi.VolumeCapability{hidden}}},
	} {
		text := printable(message)
		if strings.Contains(text, "hunter2") || !strings.Contains(text, "visible") {
			t.Errorf("%T: %s", message, text)
		}
	}
	if hidden.GetMount().MountFlags[0] != "password=hunter2" {
		t.Error("the message itself was changed")
	}
	if got := printable((*csi.ProbeResponse)(nil)); got != "" {
		t.Errorf("no response: %s", got)
	}
}

func TestCheckSizes(t *testing.T) {
	long := strings.Repeat("x", 129)
	for name, test := range map[string]struct {
		request proto.Message
		field   string
	}{
		"longest string": {&csi.DeleteVolumeRequest{VolumeId: long[1:]}, ""},
		"string":         {&csi.DeleteVolumeRequest{VolumeId: long}, "volume_id"},
		"longest path":   {&csi.NodeUnpublishVolumeRequest{TargetPath: strings.Repeat("x", 4095)}, ""},
		"path":           {&csi.NodeUnpublishVolumeRequest{TargetPath: strings.Repeat("x", 4096)}, "target_path"},
		"node ID":        {&csi.ControllerPublishVolumeRequest{NodeId: strings.Repeat("x", 256)}, ""},
		"largest map":    {&csi.DeleteVolumeRequest{Secrets: map[string]string{"k": strings.Repeat("x", 4095)}}, ""},
		"map":            {&csi.DeleteVolumeRequest{Secrets: map[string]string{"k": strings.Repeat("x", 4096)}}, "secrets"},
		"mount flags": {&csi.CreateVolumeRequest{VolumeCapabilities: []*csi.VolumeCapability{
			capability(writer, strings.Repeat("x", 2048), strings.Repeat("y", 2049)),
		}}, "mount_flags"},
		"deep string": {&csi.CreateVolumeRequest{VolumeContentSource: fromSnapshot(long)}, "snapshot_id"},
		"topology": {&csi.CreateVolumeRequest{AccessibilityRequirements: &csi.TopologyRequirement{Requisite: []*csi.Topology{
			{Segments: map[string]string{"k": strings.Repeat("x", 4096)}},
		}}}, "segments"},
	} {
		err := checkSizes(test.request.ProtoReflect())
		if (err == nil) != (test.field == "") || !strings.Contains(fmt.Sprint(err), test.field) {
			t.Errorf("%s: %v, want it about %q", name, err, test.field)
		}
	}
}
