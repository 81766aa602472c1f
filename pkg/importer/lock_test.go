package importer

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/snapdriver/snapdriver/internal/testdriver"
	"github.com/snapdriver/snapdriver/internal/testenv"
)

// beforeCut is a client that does something before it asks for a snapshot.
type beforeCut struct {
	csi.ControllerClient
	do func()
}

func (c beforeCut) CreateSnapshot(ctx context.Context, request *csi.CreateSnapshotRequest, options ...grpc.CallOption) (*csi.CreateSnapshotResponse, error) {
	c.do()
	return c.ControllerClient.CreateSnapshot(ctx, request, options...)
}

// TestTwoImportsOfOneArchive: one that starts when another is about to take its
// snapshot does not take the volume from it.
func TestTwoImportsOfOneArchive(t *testing.T) {
	testenv.RequireRoot(t)
	dir := testenv.TempDir(t)
	driver := testdriver.New(t, filepath.Join(dir, "root"))
	driver.Start()
	connection, err := grpc.NewClient("unix://"+driver.Socket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	one := volume{
		controller: csi.NewControllerClient(connection), node: csi.NewNodeClient(connection),
		name: "import-archive", size: mib, largest: mib, directory: dir, locked: dir,
	}
	other, third := one, one
	fill := func(root *os.File) error { return os.WriteFile(filepath.Join(root.Name(), "file"), nil, 0o600) }
	meanwhile, cancel := context.WithTimeout(t.Context(), 3*lockPoll)
	defer cancel()
	var waited error
	one.controller = beforeCut{one.controller, func() { _, _, waited = other.snapshotOf(meanwhile, fill) }}
	snapshot, before, err := one.snapshotOf(t.Context(), fill)
	if err != nil || before {
		t.Errorf("the one import: %v, snapshot there before: %v", err, before)
	}
	if !errors.Is(waited, context.DeadlineExceeded) {
		t.Errorf("the other import meanwhile: %v, want that it waits", waited)
	}
	again, before, err := third.snapshotOf(t.Context(), fill)
	if err != nil || !before || again.GetSnapshotId() != snapshot.GetSnapshotId() {
		t.Errorf("an import afterwards: %v, %v before: %v", err, again, before)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(left) != 1 {
		t.Errorf("left behind: %q %v", left, err)
	}
}
