package torture

import (
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/snapdriver/snapdriver/test/torture/content"
)

// TestStorageLost: a driver that is started while its storage cannot be opened
// takes volumes from pods all the same, and serves the storage once it is back.
func TestStorageLost(t *testing.T) {
	onEach(t, func(t *testing.T, s storage) {
		b := newTestbed(t, s, 4*gib)
		b.Flags = append(b.Flags, "--wait-for-storage")
		b.Start()
		volumes := b.mustUseEach()
		b.lose()
		b.Kill()
		b.Launch()
		b.awaitRefusal()
		for _, v := range volumes {
			_, err := b.Node.NodeUnpublishVolume(background, &csi.NodeUnpublishVolumeRequest{VolumeId: v.id, TargetPath: v.target()})
			expectCode(t, err, codes.OK)
			_, err = b.Node.NodeUnstageVolume(background, &csi.NodeUnstageVolumeRequest{VolumeId: v.id, StagingTargetPath: v.staging()})
			expectCode(t, err, codes.Unavailable)
		}
		b.takeAway()
		b.find()
		if err := b.AwaitReady(); err != nil {
			t.Fatalf("%v\n%s", err, b.Logged())
		}
		var expected []string
		for i, v := range volumes {
			expectCode(t, v.unpublish(), codes.OK)
			v.use(content.Tag(i).Check)
			expected = append(expected, v.id)
		}
		b.expectObjects(expected...)
	})
}

// awaitRefusal waits until a driver that was launched says that it cannot open
// its storage.
func (b *testbed) awaitRefusal() {
	b.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		_, err := b.Controller.ListVolumes(background, &csi.ListVolumesRequest{})
		if status.Code(err) != codes.Unavailable || time.Now().After(deadline) {
			b.Fatalf("asked for volumes, it says: %v\n%s", err, b.Logged())
		}
		if strings.Contains(err.Error(), "cannot be opened") {
			return
		}
	}
}
