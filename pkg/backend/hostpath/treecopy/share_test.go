package treecopy

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/internal/testenv"
	"github.com/snapdriver/snapdriver/pkg/backend"
)

// used returns how many bytes of the filesystem at dir are allocated, once all
// is on the disk.
func used(t *testing.T, dir string) int64 {
	t.Helper()
	testenv.Run(t, "sync", "-f", dir)
	var fs unix.Statfs_t
	must(t, unix.Statfs(dir, &fs))
	return int64(fs.Blocks-fs.Bfree) * fs.Bsize
}

func TestLargeFilesShareTheirBlocks(t *testing.T) {
	ctx := context.Background()
	for _, kind := range []string{"xfs", "btrfs"} {
		t.Run(kind, func(t *testing.T) {
			dir := testenv.Filesystem(t, kind, 1<<30)
			source := filepath.Join(dir, "source")
			root := openDir(t, source)
			data := random(32<<20 + 1234) // neither this size nor the next is whole blocks
			must(t, os.WriteFile(filepath.Join(source, "one"), data, 0o644))
			must(t, os.WriteFile(filepath.Join(source, "two"), data[:20<<20+1], 0o644))
			sparse := createFile(t, filepath.Join(source, "sparse"))
			must(t, sparse.Truncate(10<<30+5))
			_, err := sparse.WriteAt(data[:16<<20], 5<<30)
			must(t, err)

			total := used(t, dir)
			within := func(what string) {
				t.Helper()
				now := used(t, dir)
				// btrfs writes its trees anew, whatever is changed.
				if limit := int64(68<<20) / 100; now-total > limit && (kind != "btrfs" || now-total >= 2*limit) {
					t.Errorf("%s takes %d new bytes, more than %d", what, now-total, limit)
				}
				total = now
			}
			within("nothing")
			in := archive(t, source)
			within("an archive")
			to := filepath.Join(dir, "from-tar")
			must(t, ReadTar(ctx, in, openDir(t, to), nil))
			within("a tree from an archive")
			copied := filepath.Join(dir, "from-tree")
			must(t, CopyTree(ctx, root, openDir(t, copied), nil))
			within("a tree from a tree")
			equal(t, describe(t, source), describe(t, to))
			equal(t, describe(t, source), describe(t, copied))
		})
	}
}

func TestSparseFilesCostTheirData(t *testing.T) {
	dir := testenv.Filesystem(t, "ext4", 1<<30)
	source := filepath.Join(dir, "source")
	openDir(t, source)
	sparse := createFile(t, filepath.Join(source, "sparse"))
	must(t, sparse.Truncate(10<<30))
	_, err := sparse.WriteAt(random(16<<20), 5<<30)
	must(t, err)
	before := used(t, dir)
	in := archive(t, source)
	must(t, ReadTar(context.Background(), in, openDir(t, filepath.Join(dir, "to")), nil))
	if cost := used(t, dir) - before; cost > 33<<20 {
		t.Errorf("an archive and a copy of 16 MiB of data take %d bytes", cost)
	}
}

func TestCloneFile(t *testing.T) {
	for kind, want := range map[string]error{"xfs": nil, "btrfs": nil, "ext4": ErrCannotClone} {
		t.Run(kind, func(t *testing.T) {
			dir := testenv.Filesystem(t, kind, 1<<30)
			data := random(1<<20 + 3)
			src, dst := createFile(t, filepath.Join(dir, "src")), createFile(t, filepath.Join(dir, "dst"))
			_, err := src.Write(data)
			must(t, err)
			if err := CloneFile(dst, src); !errors.Is(err, want) {
				t.Fatalf("want %v, got %v", want, err)
			}
			if got, err := os.ReadFile(dst.Name()); want == nil && (err != nil || !bytes.Equal(got, data)) {
				t.Errorf("the clone differs, error %v", err)
			}
		})
	}
	t.Run("across filesystems", func(t *testing.T) {
		src := createFile(t, filepath.Join(testenv.Filesystem(t, "xfs", 1<<30), "src"))
		dst := createFile(t, filepath.Join(testenv.Filesystem(t, "xfs", 1<<30), "dst"))
		if err := CloneFile(dst, src); !errors.Is(err, ErrCannotClone) {
			t.Errorf("want ErrCannotClone, got %v", err)
		}
	})
}

func TestCopyFile(t *testing.T) {
	onFilesystems(t, func(t *testing.T, dir string) {
		source := filepath.Join(dir, "source")
		openDir(t, source)
		makeSparse(t, source)
		names, err := os.ReadDir(source)
		must(t, err)
		for _, name := range names {
			src, err := os.Open(filepath.Join(source, name.Name()))
			must(t, err)
			defer src.Close()
			dst := createFile(t, filepath.Join(dir, name.Name()))
			var progress backend.Progress
			must(t, CopyFile(context.Background(), dst, src, &progress))
			if done, total := progress.Bytes(); done != total {
				t.Errorf("%d of %d bytes done", done, total)
			}
			var want, got file
			must(t, want.describeData(src.Name()))
			must(t, got.describeData(dst.Name()))
			equal(t, []file{want}, []file{got})
		}
	})
}

func TestFullFilesystemIsExhausted(t *testing.T) {
	dir := testenv.Filesystem(t, "ext4", 64<<20)
	source := testenv.TempDir(t)
	must(t, os.WriteFile(filepath.Join(source, "file"), random(80<<20), 0o644))
	out := createFile(t, filepath.Join(dir, "tar"))
	if err := WriteTar(context.Background(), openDir(t, source), out, nil); !errors.Is(err, backend.ErrExhausted) {
		t.Errorf("want ErrExhausted, got %v", err)
	}
}
