package treecopy

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/snapdriver/snapdriver/internal/testenv"
)

// pack makes an archive with the standard library, which makes any that it is
// asked for.
func pack(t testing.TB, entries ...tar.Header) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range entries {
		h.Format, h.Mode = tar.FormatPAX, 0o755
		must(t, w.WriteHeader(&h))
		_, err := io.CopyN(w, strings.NewReader(strings.Repeat("x", int(h.Size))), h.Size)
		must(t, err)
	}
	must(t, w.Close())
	return buf.Bytes()
}

// unpack reads an archive into root below dir.
func unpack(t testing.TB, dir string, data []byte) error {
	t.Helper()
	path := filepath.Join(dir, "archive")
	must(t, os.WriteFile(path, data, 0o644))
	in, err := os.Open(path)
	must(t, err)
	defer in.Close()
	must(t, os.Mkdir(filepath.Join(dir, "root"), 0o755))
	root, err := os.Open(filepath.Join(dir, "root"))
	must(t, err)
	defer root.Close()
	return ReadTar(context.Background(), in, root, nil)
}

// hostileArchives are archives that must be refused.
func hostileArchives() map[string][]tar.Header {
	dir := func(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeDir} }
	file := func(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeReg, Size: 3} }
	symlink := func(name, to string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}
	}
	link := func(name, to string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: to}
	}
	root := dir("./")
	long := strings.Repeat("d/", 300)
	return map[string][]tar.Header{
		"nothing":                   {},
		"no root":                   {file("./x")},
		"two roots":                 {root, root},
		"a parent":                  {root, file("./../x")},
		"a parent at the end":       {root, dir("./x/..")},
		"a parent in a record":      {root, file("./" + long + "../x")},
		"an absolute name":          {root, file("/x")},
		"a bare name":               {root, file("x")},
		"an empty component":        {root, file("./a//b")},
		"a missing directory":       {root, file("./a/b")},
		"a symbolic link as parent": {root, symlink("./a", ".."), file("./a/x")},
		"a symbolic link, then dir": {root, symlink("./a", ".."), dir("./a/x")},
		"a deep link as parent":     {root, dir("./a"), symlink("./a/b", "/tmp"), file("./a/b/x")},
		"a link outward":            {root, link("./x", "./../outside")},
		"an absolute link":          {root, link("./x", "/etc/passwd")},
		"a link through a link":     {root, symlink("./a", ".."), link("./x", "./a/outside")},
		"a link to the root":        {root, link("./x", "./")},
		"a file twice":              {root, file("./x"), file("./x")},
		"a file over a link":        {root, symlink("./x", "../outside"), file("./x")},
		"a directory over a link":   {root, symlink("./x", ".."), dir("./x")},
		"an overlong name":          {root, file("./" + strings.Repeat("x", 256))},
		"an unknown type":           {root, {Name: "./x", Typeflag: tar.TypeReg, Size: 0, PAXRecords: map[string]string{"SNAPDRIVER.type": "door"}}},
	}
}

func TestHostileArchivesAreRefused(t *testing.T) {
	for name, entries := range hostileArchives() {
		t.Run(name, func(t *testing.T) {
			below := testenv.TempDir(t)
			must(t, os.WriteFile(filepath.Join(below, "outside"), []byte("as before"), 0o644))
			if err := unpack(t, below, pack(t, entries...)); err == nil {
				t.Error("it was accepted")
			}
			checkOutside(t, below)
		})
	}
}

// checkOutside makes sure that nothing beside root was made or changed.
func checkOutside(t testing.TB, dir string) {
	t.Helper()
	names, err := os.ReadDir(dir)
	must(t, err)
	for _, name := range names {
		if !strings.Contains(" archive outside root ", " "+name.Name()+" ") {
			t.Errorf("%s was made outside the root", name.Name())
		}
	}
	if data, err := os.ReadFile(filepath.Join(dir, "outside")); err != nil || string(data) != "as before" {
		t.Errorf("a file outside the root holds %q now, %v", data, err)
	}
}

// sparse makes an archive with one sparse file, of size 1000 and stored bytes
// of data, map included.
func sparse(sparseMap string, stored int) []byte {
	var enc encoder
	root := entry{mode: 0o40755, uid: uint32(os.Getuid()), gid: uint32(os.Getgid())}
	buf, _ := enc.header(nil, &root, 0, 0)
	enc.records, enc.sparseMap = nil, nil // the owner stays in the block
	enc.record(paxSparseMajor, "1")
	enc.record(paxSparseMinor, "0")
	enc.record(paxSparseName, "./x")
	enc.record(paxSparseRealSize, "1000")
	enc.number(sizeField, "", int64(stored))
	buf = appendBlock(appendExtended(buf, enc.records), &enc.block, typeFile)
	data := make([]byte, roundUp(int64(stored)))
	copy(data, sparseMap)
	return append(append(buf, data...), make([]byte, 2*blockSize)...)
}

func TestSparseMapsAreChecked(t *testing.T) {
	for name, c := range map[string]struct {
		sparseMap string
		stored    int
		fine      bool
	}{
		"right":                 {"2\n0\n100\n500\n500\n", 512 + 600, true},
		"nothing but a hole":    {"1\n1000\n0\n", 512, true},
		"overlap":               {"2\n0\n100\n50\n100\n", 512 + 200, false},
		"out of order":          {"2\n500\n100\n0\n100\n", 512 + 200, false},
		"beyond the size":       {"1\n900\n200\n", 512 + 200, false},
		"more than is there":    {"1\n0\n500\n", 512 + 400, false},
		"less than is there":    {"1\n0\n100\n", 512 + 400, false},
		"negative":              {"1\n-5\n100\n", 512 + 100, false},
		"a number too large":    {"1\n99999999999999999999\n1\n", 512 + 1, false},
		"too many":              {"99999999999\n0\n1\n", 512 + 1, false},
		"no end of the map":     {strings.Repeat("9", 512), 512, false},
		"shorter than it says":  {"3\n0\n1\n", 512 + 1, false},
		"no room for a map":     {"", 100, false},
		"sum that runs over":    {"2\n0\n9223372036854775807\n1\n9223372036854775807\n", 512, false},
		"offset that runs over": {"1\n9223372036854775807\n9223372036854775807\n", 512, false},
	} {
		t.Run(name, func(t *testing.T) {
			err := unpack(t, testenv.TempDir(t), sparse(c.sparseMap, c.stored))
			if c.fine && err != nil || !c.fine && !errors.Is(err, errArchive) {
				t.Errorf("fine is %v, but the error is %v", c.fine, err)
			}
		})
	}
}

// smallArchive returns an archive with something of each kind of record.
func smallArchive(t testing.TB) []byte {
	t.Helper()
	source := filepath.Join(testenv.TempDir(t), "source")
	openDir(t, source)
	must(t, os.WriteFile(filepath.Join(source, "file"), []byte("data"), 0o644))
	must(t, os.WriteFile(filepath.Join(source, strings.Repeat("n", 200)), random(600), 0o644))
	must(t, os.Mkdir(filepath.Join(source, "dir"), 0o755))
	must(t, os.Link(filepath.Join(source, "file"), filepath.Join(source, "dir/link")))
	must(t, os.Symlink("file", filepath.Join(source, "dir/symlink")))
	hole := createFile(t, filepath.Join(source, "hole"))
	must(t, hole.Truncate(1<<20))
	_, err := hole.WriteAt([]byte("in the middle"), 500000)
	must(t, err)
	data, err := os.ReadFile(archive(t, source).Name())
	must(t, err)
	return data
}

func TestTruncatedArchivesAreRefused(t *testing.T) {
	data := smallArchive(t)
	must(t, unpack(t, testenv.TempDir(t), data))
	for size := 0; size < len(data); size += blockSize {
		if err := unpack(t, testenv.TempDir(t), data[:size]); !errors.Is(err, errArchive) {
			t.Errorf("%d bytes of %d: want a bad archive, got %v", size, len(data), err)
		}
	}
}

func TestTruncatedStreamsAreRefused(t *testing.T) {
	dir := testenv.TempDir(t)
	source, out := filepath.Join(dir, "source"), createFile(t, filepath.Join(dir, "zst"))
	root := openDir(t, source)
	must(t, os.WriteFile(filepath.Join(source, "file"), []byte("data"), 0o644))
	must(t, WriteTarZstd(context.Background(), root, out, nil))
	data, err := os.ReadFile(out.Name())
	must(t, err)
	must(t, unpack(t, testenv.TempDir(t), data))
	for size := range data {
		if err := unpack(t, testenv.TempDir(t), data[:size]); err == nil {
			t.Errorf("%d bytes of %d are accepted", size, len(data))
		}
	}
}

// FuzzReadTar reads anything: it must not panic, nor touch what is outside.
func FuzzReadTar(f *testing.F) {
	f.Add(smallArchive(f))
	f.Add(sparse("2\n0\n100\n500\n500\n", 512+600))
	for _, entries := range hostileArchives() {
		f.Add(pack(f, entries...))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		must(t, os.WriteFile(filepath.Join(dir, "outside"), []byte("as before"), 0o644))
		_ = unpack(t, dir, fixChecksums(data))
		checkOutside(t, dir)
	})
}

// FuzzDecode reads headers only, and makes sure that what was accepted can be
// encoded.
func FuzzDecode(f *testing.F) {
	f.Add(smallArchive(f))
	f.Add(sparse("2\n0\n100\n500\n500\n", 512+600))
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "archive")
		must(t, os.WriteFile(path, fixChecksums(data), 0o644))
		file, err := os.Open(path)
		must(t, err)
		defer file.Close()
		in, err := openInput(file, nil)
		if err != nil {
			return
		}
		defer in.close()
		d := decoder{in: in}
		for {
			var e entry
			if d.next(&e) != nil {
				return
			}
			var enc encoder
			if _, err := enc.header(nil, &e, 0, 4096); err != nil {
				t.Error(err)
			}
		}
	})
}

// fixChecksums makes the checksums right in what may be headers, or a fuzzer
// would hardly get past them.
func fixChecksums(data []byte) []byte {
	data = bytes.Clone(data)
	for ; len(data) >= blockSize; data = data[blockSize:] {
		if bytes.Equal(data[magicField.start:magicField.end], []byte(magic)) {
			putOctal(data[checksumField.start:checksumField.end-2], checksum(data[:blockSize]))
		}
	}
	return data
}
