package treecopy

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/internal/testenv"
)

// makeOrdinary makes a tree of what every format of tar can hold, one way or
// another.
func makeOrdinary(t *testing.T, dir string) {
	t.Helper()
	at := func(name string) string { return filepath.Join(dir, name) }
	deep := strings.Repeat("d", 150) + "/" + strings.Repeat("e", 150)
	must(t, os.MkdirAll(at(deep), 0o755))
	must(t, os.MkdirAll(at("sub/empty"), 0o755))
	data := random(1<<20 + 17)
	for _, size := range []int{0, 1, blockSize - 1, blockSize, blockSize + 1, smallFile, smallFile + 1, len(data)} {
		must(t, os.WriteFile(at(fmt.Sprintf("sub/size-%d", size)), data[:size], 0o640))
	}
	for _, name := range []string{"new\nline", "not \xff UTF-8", "-rf", deep + "/" + strings.Repeat("n", 200), "sub/" + strings.Repeat("x", 97)} {
		must(t, os.WriteFile(at(name), []byte(name), 0o604))
	}
	must(t, os.WriteFile(at("zeros"), make([]byte, blockSize), 0o600))
	must(t, os.Symlink("/etc/passwd", at("outward")))
	must(t, os.Symlink(strings.Repeat("long/", 200), at("dangling")))
	must(t, unix.Mkfifo(at("fifo"), 0o620))
	must(t, os.Link(at("sub/size-513"), at(deep+"/again")))
	must(t, unix.Mknod(at("char"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
	must(t, unix.Mknod(at("block"), unix.S_IFBLK|0o660, int(unix.Mkdev(259, 70000))))
	must(t, os.Lchown(at("sub/size-1"), 1000, 54321))
	must(t, os.Lchown(at("outward"), 4000000000, 3000000))
	must(t, unix.Chmod(at("sub/size-1"), 0o6755))
	must(t, unix.Chmod(at("sub/empty"), 0o3770))
	must(t, unix.Lsetxattr(at("sub/size-0"), "user.a=b%c", []byte("x\x00y"), 0))
	for i, name := range []string{"sub/size-1", "outward", "fifo", "sub/empty", "sub", "."} {
		times := []unix.Timespec{{}, {Sec: int64(i) * 100000000, Nsec: int64(i%2) * 123456789}}
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, at(name), times, unix.AT_SYMLINK_NOFOLLOW))
	}
}

// readForeign makes the tree of an archive below dir and returns where.
func readForeign(t testing.TB, dir, archive string) (string, Foreign, error) {
	t.Helper()
	in, err := os.Open(archive)
	must(t, err)
	defer in.Close()
	found, err := SurveyForeign(context.Background(), in)
	if err != nil {
		return "", found, err
	}
	root := filepath.Join(dir, "root")
	return root, found, ReadForeign(context.Background(), in, found, openDir(t, root), nil)
}

// TestForeign reads what GNU tar writes in each of its formats.
func TestForeign(t *testing.T) {
	testenv.RequireRoot(t)
	testenv.RequirePrograms(t, "tar", "zstd")
	for name, test := range map[string]struct {
		arguments []string
		plain     bool // no xattrs, whole seconds
	}{
		"gnu":           {[]string{"--format=gnu", "-cz"}, true},
		"gnu, not deep": {[]string{"--format=gnu", "-c"}, true},
		"posix":         {[]string{"--format=posix", "--xattrs", "--xattrs-include=*", "-cz"}, false},
		"posix, zstd":   {[]string{"--format=posix", "--xattrs", "--xattrs-include=*", "--zstd", "-c"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := testenv.TempDir(t)
			source, archive := filepath.Join(dir, "source"), filepath.Join(dir, "archive")
			must(t, os.Mkdir(source, 0o755))
			makeOrdinary(t, source)
			// As the hostPath plugin of the incubator's snapshot-controller did:
			// the names begin with the whole path.
			testenv.Run(t, "tar", append(test.arguments, "-f", archive, source)...)
			got, found, err := readForeign(t, dir, archive)
			must(t, err)
			if want := strings.TrimPrefix(source, "/"); found.Root != want {
				t.Errorf("root %q, want %q", found.Root, want)
			}
			want := describe(t, source)
			var size int64
			for i := range want {
				want[i].Atime = unix.Timespec{}
				if test.plain {
					want[i].Mtime.Nsec, want[i].Xattrs = 0, map[string]string{}
				}
				if want[i].SameAs == "" {
					size += want[i].Size
				}
			}
			if found.Bytes != size {
				t.Errorf("%d bytes, want %d", found.Bytes, size)
			}
			files := describe(t, got)
			for i := range files {
				files[i].Atime = unix.Timespec{}
			}
			equal(t, want, files)
		})
	}
}

// TestForeignRoots: what is taken for the root of the tree.
func TestForeignRoots(t *testing.T) {
	testenv.RequireRoot(t)
	source := testenv.TempDir(t)
	for _, name := range []string{"a/x", "a/b/y", "c/z"} {
		must(t, os.MkdirAll(filepath.Join(source, filepath.Dir(name)), 0o755))
		must(t, os.WriteFile(filepath.Join(source, name), []byte(name), 0o644))
	}
	for members, test := range map[string]struct {
		root string
		file string
	}{
		".":     {"", "a/b/y"},
		"a":     {"a", "b/y"},
		"./a/b": {"a/b", "y"},
		"a c":   {"", "c/z"},
		"a/x":   {"", "a/x"}, // and nothing that the file could lie in
	} {
		t.Run(members, func(t *testing.T) {
			dir := testenv.TempDir(t)
			archive := filepath.Join(dir, "archive")
			testenv.Run(t, "tar", append([]string{"-czf", archive, "-C", source}, strings.Fields(members)...)...)
			got, found, err := readForeign(t, dir, archive)
			if found.Root != test.root {
				t.Errorf("root %q, want %q", found.Root, test.root)
			}
			if members == "a/x" {
				if err == nil || !strings.Contains(err.Error(), `"a"`) {
					t.Errorf("the error is %v, want one that names the missing directory", err)
				}
				return
			}
			must(t, err)
			if _, err := os.Stat(filepath.Join(got, test.file)); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestForeignSparse(t *testing.T) {
	dir := testenv.TempDir(t)
	source := filepath.Join(dir, "source")
	openDir(t, source)
	hole := createFile(t, filepath.Join(source, "hole"))
	_, err := hole.WriteAt(random(100<<10), 5<<20)
	must(t, err)
	want, err := os.ReadFile(hole.Name())
	must(t, err)
	for _, format := range []string{"gnu", "posix"} {
		t.Run(format, func(t *testing.T) {
			dir := testenv.TempDir(t)
			archive := filepath.Join(dir, "archive")
			testenv.Run(t, "tar", "--format="+format, "-Sczf", archive, "-C", source, ".")
			root, _, err := readForeign(t, dir, archive)
			must(t, err)
			got, err := os.ReadFile(filepath.Join(root, "hole"))
			must(t, err)
			if !bytes.Equal(got, want) {
				t.Error("the data differs")
			}
		})
	}
}

// zip compresses with gzip.
func zip(t testing.TB, data []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, err := w.Write(data)
	must(t, err)
	must(t, w.Close())
	return out.Bytes()
}

// unpackForeign reads an archive into root below dir.
func unpackForeign(t testing.TB, dir string, data []byte) error {
	t.Helper()
	path := filepath.Join(dir, "archive")
	must(t, os.WriteFile(path, data, 0o644))
	_, _, err := readForeign(t, dir, path)
	return err
}

func TestHostileForeignArchivesAreRefused(t *testing.T) {
	dir := func(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeDir} }
	file := func(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeReg, Size: 3} }
	symlink := func(name, to string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}
	}
	link := func(name, to string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: to}
	}
	root := dir("./")
	for name, entries := range map[string][]tar.Header{
		"nothing":                   {},
		"two roots":                 {root, root},
		"a root that is a file":     {file("."), file("./x")},
		"a root that comes late":    {file("./x"), root},
		"a parent":                  {root, file("../outside")},
		"a parent within":           {root, dir("a"), file("a/../../outside")},
		"a parent of the root":      {dir("a/.."), file("a/../x")},
		"a missing directory":       {root, file("./a/b")},
		"a symbolic link as parent": {root, symlink("a", ".."), file("a/outside")},
		"a symbolic link, then dir": {root, symlink("a", ".."), dir("a/x")},
		"a symbolic link as root":   {symlink("a", ".."), file("a/outside")},
		"a link outward":            {root, link("x", "../outside")},
		"a link out of its root":    {dir("a"), file("a/x"), link("a/y", "b")},
		"a link through a link":     {root, symlink("a", ".."), link("x", "a/outside")},
		"a link to the root":        {root, link("x", "./")},
		"a file twice":              {root, file("x"), file("./x")},
		"a file over a link":        {root, symlink("x", "../outside"), file("x")},
		"an overlong name":          {root, file(strings.Repeat("x", 256))},
		"an owner out of range":     {root, {Name: "x", Typeflag: tar.TypeReg, Uid: math.MaxUint32}},
		"an unknown type":           {root, {Name: "x", Typeflag: 'Z'}},
	} {
		t.Run(name, func(t *testing.T) {
			below := testenv.TempDir(t)
			must(t, os.WriteFile(filepath.Join(below, "outside"), []byte("as before"), 0o644))
			if err := unpackForeign(t, below, zip(t, packAny(t, entries...))); err == nil {
				t.Error("it was accepted")
			}
			checkOutside(t, below)
		})
	}
}

// packAny makes an archive as pack does, of headers that tar.Writer may refuse.
func packAny(t testing.TB, entries ...tar.Header) []byte {
	t.Helper()
	var buf bytes.Buffer
	for _, h := range entries {
		w := tar.NewWriter(&buf)
		h.Mode, h.Format = 0o755, tar.FormatGNU
		flag := h.Typeflag
		if flag == 'Z' {
			h.Typeflag = tar.TypeReg
		}
		must(t, w.WriteHeader(&h))
		_, err := w.Write(bytes.Repeat([]byte("x"), int(h.Size)))
		must(t, err)
		must(t, w.Flush())
		if flag == 'Z' {
			block := buf.Bytes()[buf.Len()-blockSize:]
			block[typeField.start] = flag
			putOctal(block[checksumField.start:checksumField.end-2], checksum(block))
		}
	}
	return append(buf.Bytes(), make([]byte, 2*blockSize)...)
}

// TestTruncatedForeignArchivesAreRefused: an archive that ends between two
// entries too, and one whose last file could be taken for the end mark.
func TestTruncatedForeignArchivesAreRefused(t *testing.T) {
	dir := testenv.TempDir(t)
	source := filepath.Join(dir, "source")
	openDir(t, source)
	must(t, os.WriteFile(filepath.Join(source, "zeros"), make([]byte, blockSize), 0o644))
	must(t, os.WriteFile(filepath.Join(source, strings.Repeat("n", 200)), random(600), 0o644))
	must(t, os.Symlink("zeros", filepath.Join(source, "link")))
	data, err := exec.Command("tar", "--format=gnu", "-b1", "-c", "-C", source, ".").Output()
	must(t, err)
	must(t, unpackForeign(t, testenv.TempDir(t), data))
	mark := len(data) - 2*blockSize
	for size := 0; size <= mark; size += blockSize {
		for kind, cut := range map[string][]byte{"plain": data[:size], "zipped": zip(t, data[:size])} {
			if err := unpackForeign(t, testenv.TempDir(t), cut); !errors.Is(err, errArchive) {
				t.Errorf("%d bytes of %d, %s: want a bad archive, got %v", size, len(data), kind, err)
			}
		}
	}
	zipped := zip(t, data)
	for size := range zipped {
		if err := unpackForeign(t, testenv.TempDir(t), zipped[:size]); !errors.Is(err, errArchive) {
			t.Errorf("%d bytes of %d zipped: want a bad archive, got %v", size, len(zipped), err)
		}
	}
}

// FuzzReadForeign reads anything: it must not panic, nor touch what is outside.
func FuzzReadForeign(f *testing.F) {
	f.Add(smallArchive(f))
	f.Add(packAny(f, tar.Header{Name: "a/", Typeflag: tar.TypeDir}, tar.Header{Name: "a/b", Typeflag: tar.TypeSymlink, Linkname: ".."},
		tar.Header{Name: "a/b/c", Typeflag: tar.TypeReg, Size: 1}))
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		must(t, os.WriteFile(filepath.Join(dir, "outside"), []byte("as before"), 0o644))
		path := filepath.Join(dir, "archive")
		must(t, os.WriteFile(path, fixChecksums(data), 0o644))
		in, err := os.Open(path)
		must(t, err)
		defer in.Close()
		found, err := SurveyForeign(t.Context(), in)
		if err == nil && found.Bytes < 1<<20 { // a hole can be as large as it likes
			root := openDir(t, filepath.Join(dir, "root"))
			_ = ReadForeign(t.Context(), in, found, root, nil)
		}
		checkOutside(t, dir)
	})
}

// TestForeignStopsWhenTold: the survey and the copy end with their context.
func TestForeignStopsWhenTold(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	path := filepath.Join(testenv.TempDir(t), "archive")
	must(t, os.WriteFile(path, smallArchive(t), 0o644))
	in, err := os.Open(path)
	must(t, err)
	defer in.Close()
	if _, err := SurveyForeign(ctx, in); !errors.Is(err, context.Canceled) {
		t.Errorf("survey: %v", err)
	}
	if err := ReadForeign(ctx, in, Foreign{}, openDir(t, filepath.Join(testenv.TempDir(t), "root")), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("copy: %v", err)
	}
}
