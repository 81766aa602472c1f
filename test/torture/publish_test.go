package torture

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

const (
	oneWriter   = csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER
	manyWriters = csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER
	writer      = csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER
	reader      = csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY
	readers     = csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY
)

// secondPublish is CSI's table of what a second NodePublishVolume gets, by
// access mode: at the same target with other arguments, at another target, at
// another target with other arguments.
var secondPublish = map[csi.VolumeCapability_AccessMode_Mode][3]codes.Code{
	oneWriter:   {codes.AlreadyExists, codes.FailedPrecondition, codes.FailedPrecondition},
	manyWriters: {codes.AlreadyExists, codes.OK, codes.OK},
	readers:     {codes.AlreadyExists, codes.OK, codes.OK},
	writer:      {codes.AlreadyExists, codes.FailedPrecondition, codes.FailedPrecondition},
	reader:      {codes.AlreadyExists, codes.FailedPrecondition, codes.FailedPrecondition},
}

// TestPublishTable follows that table, also where the driver is killed between
// the first call and the second.
func TestPublishTable(t *testing.T) {
	onEach(t, func(t *testing.T, s storage) {
		b := started(t, s, 4*gib)
		for _, of := range s.kinds {
			for mode, want := range secondPublish {
				for _, killed := range []bool{false, true} {
					b.sub(fmt.Sprintf("%s %s killed=%t", of.name, mode, killed), func(b *testbed) {
						b.publishTwice(of, mode, want, killed)
					})
				}
			}
		}
	})
}

func (b *testbed) publishTwice(of kind, mode csi.VolumeCapability_AccessMode_Mode, want [3]codes.Code, killed bool) {
	of.how = proto.CloneOf(of.how)
	of.how.AccessMode.Mode = mode
	v := b.mustCreate(of, "twice")
	if err := v.publish(); err != nil {
		b.Fatal(err)
	}
	if killed {
		b.Kill()
		b.Start()
	}
	expectCode(b, v.publish(), codes.OK)
	second := filepath.Join(b.pods, "second")
	for i, code := range want {
		request := &csi.NodePublishVolumeRequest{VolumeId: v.id, StagingTargetPath: v.staging(), TargetPath: second, VolumeCapability: proto.CloneOf(of.how)}
		if i == 0 {
			request.TargetPath = v.target()
		}
		if i != 1 && !makeOther(request) {
			continue
		}
		_, err := b.Node.NodePublishVolume(background, request)
		if !expectCode(b, err, code) {
			b.Logf("case %d", i)
		}
		if i > 0 {
			_, err := b.Node.NodeUnpublishVolume(background, &csi.NodeUnpublishVolumeRequest{VolumeId: v.id, TargetPath: second})
			expectCode(b, err, codes.OK)
		}
	}
	expectCode(b, v.unpublish(), codes.OK)
	b.deleteAll()
}

// makeOther gives a request other arguments, if that is possible: a reader of a
// block device can be nothing else.
func makeOther(r *csi.NodePublishVolumeRequest) bool {
	mode := r.GetVolumeCapability().GetAccessMode().GetMode()
	switch mount := r.GetVolumeCapability().GetMount(); {
	case mode != reader && mode != readers:
		r.Readonly = true
	case mount != nil:
		mount.MountFlags = []string{"noexec"}
	default:
		return false
	}
	return true
}
