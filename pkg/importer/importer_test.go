package importer_test

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/internal/testdriver"
	"github.com/snapdriver/snapdriver/internal/testenv"
	"github.com/snapdriver/snapdriver/pkg/backend"
	"github.com/snapdriver/snapdriver/pkg/importer"
)

// testbed is a running driver and a directory for what is imported.
type testbed struct {
	*testdriver.Driver
	t    *testing.T
	dir  string
	work string // where the imports mount
}

func newTestbed(t *testing.T, flags ...string) *testbed {
	t.Helper()
	testenv.RequireRoot(t)
	testenv.RequirePrograms(t, "tar")
	dir := testenv.TempDir(t)
	b := &testbed{testdriver.New(t, filepath.Join(dir, "root")), t, dir, filepath.Join(dir, "work")}
	if err := os.Mkdir(b.work, 0o755); err != nil {
		t.Fatal(err)
	}
	b.Flags = flags
	b.Start()
	t.Cleanup(func() {
		if leaks, err := testenv.Leaks(dir); err != nil || len(leaks) > 0 {
			t.Errorf("left behind: %q %v", leaks, err)
		}
	})
	return b
}

// tree makes a directory with files of many, and returns what it holds.
func (b *testbed) tree(files int) (dir string, contents map[string]string) {
	b.t.Helper()
	dir, contents = filepath.Join(b.dir, "tree"), map[string]string{}
	for i := range files {
		name := fmt.Sprintf("dir-%d/file-%d", i%7, i)
		contents[name] = strings.Repeat(name+"\n", i%500)
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			b.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(contents[name]), 0o640); err != nil {
			b.t.Fatal(err)
		}
		if err := os.Lchown(path, 1000+i%3, 5000); err != nil {
			b.t.Fatal(err)
		}
	}
	return dir, contents
}

// pack makes an archive of a directory as the incubator's hostPath plugin did.
func (b *testbed) pack(dir string) *os.File {
	b.t.Helper()
	path := filepath.Join(b.dir, "archive.tgz")
	testenv.Run(b.t, "tar", "czf", path, dir)
	return b.open(path)
}

func (b *testbed) open(path string) *os.File {
	b.t.Helper()
	file, err := os.Open(path)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { file.Close() })
	return file
}

func (b *testbed) config(archive *os.File) importer.Config {
	return importer.Config{Socket: b.Socket(), Archive: archive, Directory: b.work}
}

// wantClean makes sure that an import has left nothing but so many snapshots.
func (b *testbed) wantClean(snapshots int) {
	b.t.Helper()
	volumes, err := b.Controller.ListVolumes(context.Background(), &csi.ListVolumesRequest{})
	if err != nil || len(volumes.Entries) > 0 {
		b.t.Errorf("volumes are left: %v %v", volumes, err)
	}
	found, err := b.Controller.ListSnapshots(context.Background(), &csi.ListSnapshotsRequest{})
	if err != nil || len(found.Entries) != snapshots {
		b.t.Errorf("there are %d snapshots, want %d: %v", len(found.GetEntries()), snapshots, err)
	}
	if left, err := os.ReadDir(b.work); err != nil || len(left) > 0 {
		b.t.Errorf("left behind: %v %v", left, err)
	}
}

// contents returns what a snapshot holds, read from the tar file that it is.
func (b *testbed) contents(handle string) map[string]string {
	b.t.Helper()
	path := filepath.Join(b.Root, "snapshots", handle, "data.tar")
	out := filepath.Join(b.t.TempDir(), "out")
	if err := os.Mkdir(out, 0o755); err != nil {
		b.t.Fatal(err)
	}
	testenv.Run(b.t, "tar", "xf", path, "-C", out)
	return contentsOf(b.t, out)
}

// contentsOf returns what the files below a directory hold, by their paths.
func contentsOf(t *testing.T, dir string) map[string]string {
	t.Helper()
	contents := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		name, _ := filepath.Rel(dir, path)
		contents[name] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return contents
}

func TestImport(t *testing.T) {
	b := newTestbed(t)
	dir, want := b.tree(50)
	archive := b.pack(dir)
	first, err := importer.Run(t.Context(), b.config(archive))
	if err != nil {
		t.Fatal(err)
	}
	if first.Before || first.Driver != "csi.snapdriver.dev" || first.Node != "node" || first.Size != 1<<20 {
		t.Errorf("imported %+v", first)
	}
	if diff := cmp.Diff(want, b.contents(first.Handle)); diff != "" {
		t.Errorf("the snapshot differs (-want +got):\n%s", diff)
	}
	b.wantClean(1)

	again, err := importer.Run(t.Context(), b.config(archive))
	first.Before = true
	if diff := cmp.Diff(first, again); err != nil || diff != "" {
		t.Errorf("the second time: %v\n%s", err, diff)
	}
	b.wantClean(1)

	// The command, from its standard input.
	command := exec.Command(b.Program(), "import", "-", "--endpoint="+b.Socket(), "--namespace=space", "--name=old-data")
	command.Stdin, command.Env = b.open(archive.Name()), append(os.Environ(), "TMPDIR="+b.work)
	out, err := command.Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{`snapshotHandle: "` + first.Handle + `"`, `managed-by: "node"`, `namespace: "space"`, `name: "old-data"`, "volumeSnapshotContentName: import-" + first.Digest[:16]} {
		if !strings.Contains(string(out), part) {
			t.Errorf("the manifest lacks %s:\n%s", part, out)
		}
	}
	b.wantClean(1)
}

func TestImportSize(t *testing.T) {
	b := newTestbed(t)
	dir, _ := b.tree(50)
	config := b.config(b.pack(dir))
	config.Size = 1000
	if _, err := importer.Run(t.Context(), config); err == nil || !strings.Contains(err.Error(), "too few") {
		t.Errorf("a size that is too small: %v", err)
	}
	b.wantClean(0)
	config.Size = 5 << 30
	if imported, err := importer.Run(t.Context(), config); err != nil || imported.Size != 5<<30 {
		t.Errorf("%+v %v", imported, err)
	}
}

// TestImportOnLVM: where a volume has a filesystem of its own, the volume gets
// large enough for what the files take there, unless a size is given.
func TestImportOnLVM(t *testing.T) {
	testenv.RequireThinPools(t)
	pool := testenv.ThinPool(t, testenv.PoolOptions{})
	b := newTestbed(t, "--backend=lvm", "--volume-group="+pool.Group, "--thin-pool="+pool.Name, "--lock-dir="+t.TempDir())
	dir, want := b.tree(5000)
	want["large"] = strings.Repeat("large\n", 4<<20)
	if err := os.WriteFile(filepath.Join(dir, "large"), []byte(want["large"]), 0o640); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(b.dir, "archive.tar")
	testenv.Run(t, "tar", "cf", path, dir)
	archive := b.open(path)
	config := b.config(archive)
	config.Size = 46 << 20 // of which the files take 43
	if _, err := importer.Run(t.Context(), config); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("a size without room for the filesystem: %v", err)
	}
	b.wantClean(0)
	imported, err := importer.Run(t.Context(), b.config(archive))
	if err != nil {
		t.Fatal(err)
	}
	b.wantClean(1)
	if diff := cmp.Diff(want, b.restored(imported.Handle)); diff != "" {
		t.Errorf("the snapshot differs (-want +got):\n%.2000s", diff)
	}
	if again, err := importer.Run(t.Context(), b.config(archive)); err != nil || !again.Before || again.Handle != imported.Handle {
		t.Errorf("the second time: %+v %v", again, err)
	}
	b.wantClean(1)
}

// mounted is the capability of a volume with a filesystem.
var mounted = &csi.VolumeCapability{
	AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
	AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
}

// restored returns what a volume made from a snapshot holds.
func (b *testbed) restored(handle string) map[string]string {
	b.t.Helper()
	created, err := b.Controller.CreateVolume(b.t.Context(), &csi.CreateVolumeRequest{
		Name: "restored", VolumeCapabilities: []*csi.VolumeCapability{mounted},
		VolumeContentSource: &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
			Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: handle},
		}},
	})
	if err != nil {
		b.t.Fatal(err)
	}
	id, staging := created.GetVolume().GetVolumeId(), b.t.TempDir()
	if _, err := b.Node.NodeStageVolume(b.t.Context(), &csi.NodeStageVolumeRequest{VolumeId: id, StagingTargetPath: staging, VolumeCapability: mounted}); err != nil {
		b.t.Fatal(err)
	}
	contents := contentsOf(b.t, staging)
	if _, err := b.Node.NodeUnstageVolume(b.t.Context(), &csi.NodeUnstageVolumeRequest{VolumeId: id, StagingTargetPath: staging}); err != nil {
		b.t.Fatal(err)
	}
	if _, err := b.Controller.DeleteVolume(b.t.Context(), &csi.DeleteVolumeRequest{VolumeId: id}); err != nil {
		b.t.Fatal(err)
	}
	return contents
}

// TestKilledImport: an import that is killed leaves no snapshot or a whole one,
// and the next import does it right.
func TestKilledImport(t *testing.T) {
	b := newTestbed(t)
	dir, want := b.tree(3000)
	archive := b.pack(dir)
	whole := func() bool {
		t.Helper()
		found, err := b.Controller.ListSnapshots(t.Context(), &csi.ListSnapshotsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if len(found.Entries) == 0 {
			return false
		}
		if diff := cmp.Diff(want, b.contents(found.Entries[0].Snapshot.SnapshotId)); diff != "" {
			t.Fatalf("a snapshot that is not whole (-want +got):\n%s", diff)
		}
		return true
	}
	for kill := 1; kill <= 15 && !whole(); kill++ {
		command := exec.Command(b.Program(), "import", archive.Name(), "--endpoint="+b.Socket())
		command.Env = append(os.Environ(), "TMPDIR="+b.work)
		if err := command.Start(); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(rand.N(time.Duration(kill)*50*time.Millisecond), func() { _ = command.Process.Kill() })
		_ = command.Wait()
	}
	imported, err := importer.Run(t.Context(), b.config(archive))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, b.contents(imported.Handle)); diff != "" {
		t.Errorf("the snapshot differs (-want +got):\n%s", diff)
	}
	b.wantClean(1)
}

// TestImportAfterOneOfAnotherSize: what a killed import has left is in the way of
// none that is told of another size.
func TestImportAfterOneOfAnotherSize(t *testing.T) {
	b := newTestbed(t)
	dir, want := b.tree(50)
	config := b.config(b.pack(dir))
	name := fmt.Sprintf("import-%x", b.digest(config.Archive))
	if _, err := b.Controller.CreateVolume(t.Context(), &csi.CreateVolumeRequest{
		Name: name, CapacityRange: &csi.CapacityRange{RequiredBytes: 1 << 20}, VolumeCapabilities: []*csi.VolumeCapability{mounted},
	}); err != nil {
		t.Fatal(err)
	}
	config.Size = 5 << 30
	imported, err := importer.Run(t.Context(), config)
	if err != nil || imported.Size != config.Size || imported.Before {
		t.Fatalf("%+v %v", imported, err)
	}
	if diff := cmp.Diff(want, b.contents(imported.Handle)); diff != "" {
		t.Errorf("the snapshot differs (-want +got):\n%s", diff)
	}
	b.wantClean(1)
}

// TestHostileArchive: an archive that leads outward is refused, and nothing of
// it stays.
func TestHostileArchive(t *testing.T) {
	b := newTestbed(t)
	path := filepath.Join(b.dir, "hostile.tar")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(file)
	for _, header := range []tar.Header{
		{Name: "a/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "a/b", Typeflag: tar.TypeSymlink, Linkname: b.dir, Mode: 0o777},
		{Name: "a/b/outside", Typeflag: tar.TypeReg, Mode: 0o644},
	} {
		if err := w.WriteHeader(&header); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := importer.Run(t.Context(), b.config(b.open(path))); err == nil {
		t.Error("it was accepted")
	}
	if _, err := os.Lstat(filepath.Join(b.dir, "outside")); err == nil {
		t.Error("it has written outside")
	}
	b.wantClean(0)
}

// TestInflatedArchive: files of more bytes than a volume can have, of which the
// archive has none, are refused.
func TestInflatedArchive(t *testing.T) {
	b := newTestbed(t)
	base := testenv.Filesystem(t, "xfs", 512<<20) // which has such files
	for name, sizes := range map[string][]int64{
		"one file":  {math.MaxInt64},
		"two files": {1 << 60, 1},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(base, name)
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			for i, size := range sizes {
				path := filepath.Join(dir, fmt.Sprint(i))
				if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, size)); err != nil {
					t.Fatal(err)
				}
			}
			path := filepath.Join(b.dir, "inflated.tar")
			testenv.Run(t, "tar", "--format=pax", "--sparse", "-C", dir, "-cf", path, ".")
			if _, err := importer.Run(t.Context(), b.config(b.open(path))); err == nil || !strings.Contains(err.Error(), "more than a volume can have") {
				t.Error(err)
			}
			b.wantClean(0)
		})
	}
}

// TestPlaceOfSomebodyElse: in /tmp, anybody can make the directory that the
// mounts are to lie in, or put a symbolic link there. Nothing is unpacked where
// they could lead it.
func TestPlaceOfSomebodyElse(t *testing.T) {
	b := newTestbed(t)
	dir, _ := b.tree(5)
	config := b.config(b.pack(dir))
	elsewhere := filepath.Join(b.dir, "elsewhere")
	if err := os.MkdirAll(filepath.Join(elsewhere, "staging"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, occupy := range map[string]func(place string) error{
		"another user's": func(place string) error { return errors.Join(os.Mkdir(place, 0o700), os.Lchown(place, 65534, 65534)) },
		"everybody's":    func(place string) error { return errors.Join(os.Mkdir(place, 0o700), os.Chmod(place, 0o777)) },
		"a link":         func(place string) error { return os.Symlink(elsewhere, place) },
	} {
		t.Run(name, func(t *testing.T) {
			place := filepath.Join(b.work, "snapdriver-import-"+b.importedVolume(config.Archive))
			if err := occupy(place); err != nil {
				t.Fatal(err)
			}
			_, err := importer.Run(t.Context(), config)
			if err == nil || !strings.Contains(err.Error(), place) {
				t.Errorf("%v, want an error that names %s", err, place)
			}
			if left, err := os.ReadDir(elsewhere); err != nil || len(left) != 1 {
				t.Errorf("what the link leads to has %v (%v)", left, err)
			}
			if err := os.Remove(place); err != nil {
				t.Error(err)
			}
			b.wantClean(0)
		})
	}
}

// importedVolume returns the ID of the volume that an archive is unpacked into.
func (b *testbed) importedVolume(archive *os.File) string {
	b.t.Helper()
	return backend.NewVolumeID("node", fmt.Sprintf("import-%x", b.digest(archive))).String()
}

// digest returns the SHA-256 of an archive.
func (b *testbed) digest(archive *os.File) [sha256.Size]byte {
	b.t.Helper()
	text, err := os.ReadFile(archive.Name())
	if err != nil {
		b.t.Fatal(err)
	}
	return sha256.Sum256(text)
}

// TestImportWithoutTheMount: where the driver's mounts are not to be seen,
// nothing is unpacked, for it would not get into the volume.
func TestImportWithoutTheMount(t *testing.T) {
	b := newTestbed(t)
	testenv.RequirePrograms(t, "unshare")
	dir, _ := b.tree(5)
	archive := b.pack(dir)
	command := exec.Command("unshare", "--mount", "--propagation=private", b.Program(), "import", archive.Name(), "--endpoint="+b.Socket())
	command.Env = append(os.Environ(), "TMPDIR="+b.work)
	out, err := command.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "run the import where the driver runs") {
		t.Errorf("%v\n%s", err, out)
	}
	b.wantClean(0)
}
