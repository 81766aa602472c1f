package treecopy

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/internal/testenv"
)

func TestCopiesKeepEverything(t *testing.T) {
	ctx := context.Background()
	onFilesystems(t, func(t *testing.T, dir string) {
		source := filepath.Join(dir, "source")
		must(t, os.Mkdir(source, 0o755))
		makeGolden(t, source)
		want := describe(t, source)
		root := openDir(t, source)

		t.Run("tar", func(t *testing.T) {
			to := filepath.Join(dir, "from-tar")
			must(t, ReadTar(ctx, archive(t, source), openDir(t, to), nil))
			equal(t, want, describe(t, to))
		})
		t.Run("zstd", func(t *testing.T) {
			to, out := filepath.Join(dir, "from-zstd"), createFile(t, filepath.Join(dir, "tar.zst"))
			must(t, WriteTarZstd(ctx, root, out, nil))
			must(t, ReadTar(ctx, out, openDir(t, to), nil))
			equal(t, want, describe(t, to))
		})
		t.Run("tree", func(t *testing.T) {
			to := filepath.Join(dir, "from-tree")
			must(t, CopyTree(ctx, root, openDir(t, to), nil))
			equal(t, want, describe(t, to))
		})
		if descriptors := openDescriptors(t); descriptors > 100 {
			t.Errorf("%d descriptors are open", descriptors)
		}
	})
}

func openDescriptors(t *testing.T) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(names)
}

func TestGNUTarExtractsTheSame(t *testing.T) {
	testenv.RequireRoot(t)
	testenv.RequirePrograms(t, "tar", "zstd")
	onFilesystems(t, func(t *testing.T, dir string) {
		source, to := filepath.Join(dir, "source"), filepath.Join(dir, "extracted")
		must(t, os.Mkdir(source, 0o755))
		must(t, os.Mkdir(to, 0o755))
		makeGolden(t, source)
		want := describe(t, source)
		out := testenv.Run(t, "tar", "--warning=no-timestamp", "--numeric-owner", "--xattrs", "--xattrs-include=*", "--acls", "-C", to, "-xpf", archive(t, source).Name())
		for line := range strings.Lines(out) {
			if !strings.Contains(line, paxType) {
				t.Errorf("GNU tar says: %s", line)
			}
		}
		got := describe(t, to)
		for i := range want {
			want[i].Atime = unix.Timespec{}
			// It takes ACLs from records of its own only.
			for _, name := range []string{aclAccess, aclDefault, "trusted.SGI_ACL_FILE", "trusted.SGI_ACL_DEFAULT"} {
				delete(want[i].Xattrs, name)
			}
			if strings.HasPrefix(want[i].Mode, "14") { // a socket becomes an empty file
				want[i].Mode = "10" + strings.TrimPrefix(want[i].Mode, "14")
				want[i].SHA256 = fmt.Sprintf("%x", sha256.Sum256(nil))
			}
		}
		for i := range got {
			got[i].Atime = unix.Timespec{}
		}
		equal(t, want, got)
	})
}

func TestStandardLibraryReadsTheSame(t *testing.T) {
	dir := testenv.TempDir(t)
	source := filepath.Join(dir, "source")
	must(t, os.Mkdir(source, 0o755))
	makeGolden(t, source)
	want := make(map[string]file)
	for _, f := range describe(t, source) {
		want[f.Path] = f
	}
	in := archive(t, source)
	_, err := in.Seek(0, io.SeekStart)
	must(t, err)
	reader := tar.NewReader(in)
	for {
		h, err := reader.Next()
		if err == io.EOF {
			break
		}
		must(t, err)
		f, found := want[filepath.Clean(h.Name)]
		if !found {
			t.Errorf("%q is not in the tree, or twice in the archive", h.Name)
			continue
		}
		delete(want, f.Path)
		if h.Typeflag == tar.TypeLink {
			continue
		}
		if f.Mtime != (unix.Timespec{Sec: h.ModTime.Unix(), Nsec: int64(h.ModTime.Nanosecond())}) || int(f.UID) != h.Uid || f.Size != h.Size || f.Target != h.Linkname {
			t.Errorf("want %+v, got %+v", f, h)
		}
		if h.Typeflag == tar.TypeReg && f.Size < 1<<30 {
			got, err := io.ReadAll(reader)
			must(t, err)
			original, err := os.ReadFile(filepath.Join(source, f.Path))
			if err == nil && !bytes.Equal(got, original) {
				t.Errorf("%q: the content differs", h.Name)
			}
		}
	}
	for path := range want {
		t.Errorf("%q is missing in the archive", path)
	}
}
