package treecopy

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/internal/testenv"
)

// onFilesystems runs test in an empty directory on each kind of filesystem
// and in the directory for temporary files.
func onFilesystems(t *testing.T, test func(t *testing.T, dir string)) {
	t.Run("temp", func(t *testing.T) { test(t, testenv.TempDir(t)) })
	for _, kind := range testenv.Filesystems {
		t.Run(kind, func(t *testing.T) { test(t, testenv.Filesystem(t, kind, 1<<30)) })
	}
}

// file describes one file of a tree, with all that a copy keeps.
type file struct {
	Path         string
	Mode         string // type and permissions, octal
	UID, GID     uint32
	Device       uint64
	Atime, Mtime unix.Timespec
	Target       string
	SameAs       string // the first path of the same inode
	Xattrs       map[string]string
	Size         int64
	Data         []segment // where there are no holes
	SHA256       string    // of that data
}

// describe lists a tree that nobody changes.
func describe(t *testing.T, root string) []file {
	t.Helper()
	var files []file
	first := make(map[inode]string)
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		f, inode, err := describeFile(path)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		f.Path, _ = filepath.Rel(root, path)
		if f.SameAs = first[inode]; f.SameAs == "" {
			first[inode] = f.Path
		}
		files = append(files, f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func describeFile(path string) (f file, id inode, err error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return f, id, err
	}
	f = file{Mode: fmt.Sprintf("%o", st.Mode), UID: st.Uid, GID: st.Gid, Device: st.Rdev, Mtime: st.Mtim}
	if f.Xattrs, err = xattrsOf(path); err != nil {
		return f, id, err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		f.Target, err = os.Readlink(path)
	case unix.S_IFREG:
		f.Size, f.Atime = st.Size, st.Atim // listing and following change the times of others
		err = f.describeData(path)
	}
	return f, inode{dev: st.Dev, ino: st.Ino}, err
}

func (f *file) describeData(path string) error {
	open, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOATIME, 0)
	if err != nil {
		return err
	}
	defer open.Close()
	c := contents{file: int(open.Fd())}
	if err := c.scan(); err != nil {
		return err
	}
	f.Data = slices.Clone(c.segments)
	hash := sha256.New()
	for _, s := range c.segments {
		if _, err := io.Copy(hash, io.NewSectionReader(open, s.offset, s.length)); err != nil {
			return err
		}
	}
	f.SHA256 = fmt.Sprintf("%x", hash.Sum(nil))
	return nil
}

func xattrsOf(path string) (map[string]string, error) {
	names := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, names)
	if err != nil {
		return nil, err
	}
	found := make(map[string]string)
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names[:n]), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return nil, err
		}
		found[name] = string(value[:n])
	}
	return found, nil
}

func equal(t *testing.T, want, got []file) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(segment{})); diff != "" {
		t.Errorf("the copy differs (-want +got):\n%s", diff)
	}
}

// random returns n bytes that do not compress, always the same.
func random(n int) []byte {
	data := make([]byte, n)
	if _, err := rand.NewChaCha8([32]byte{}).Read(data); err != nil {
		panic(err)
	}
	return data
}

// must ends the test on an error. The golden tree is a long list of steps.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// makeGolden makes a tree in dir with at least one of everything.
func makeGolden(t *testing.T, dir string) {
	t.Helper()
	at := func(name string) string { return filepath.Join(dir, name) }
	write := func(name string, data []byte) { must(t, os.WriteFile(at(name), data, 0o644)) }
	for _, name := range []string{"sub", "sub/empty", "sub/deep", "sub/deep/er", "closed", strings.Repeat("d", 255)} {
		must(t, os.Mkdir(at(name), 0o755))
	}
	data := random(3<<20 + 17)
	for _, size := range []int{0, 1, 511, 512, 513, smallFile - 1, smallFile, smallFile + 1, 1 << 20, len(data)} {
		write(fmt.Sprintf("sub/size-%d", size), data[:size])
	}
	for i := range 100 {
		write(fmt.Sprintf("sub/deep/er/file-%d", i), data[i:i*50])
	}
	for _, name := range []string{
		"new\nline", "not \xff\xfe UTF-8", "-rf", " ", "a=b", "ünï", `back\slash`,
		strings.Repeat("n", 255), strings.Repeat("d", 255) + "/" + strings.Repeat("n", 255), "sub/" + strings.Repeat("x", 94),
	} {
		write(name, []byte(name))
	}
	makeSparse(t, dir)
	makeSpecial(t, dir)
	makeLinks(t, dir)
	makeMetadata(t, dir)
}

func makeSparse(t *testing.T, dir string) {
	t.Helper()
	for name, layout := range map[string]struct {
		size int64
		data []segment
	}{
		"hole":      {8 << 20, nil},
		"huge-hole": {64 << 30, []segment{{offset: 40 << 30, length: 4096}}},
		"leading":   {4<<20 + 5, []segment{{offset: 3 << 20, length: 1<<20 + 5}}},
		"trailing":  {4 << 20, []segment{{offset: 0, length: 1 << 20}}},
		"middle":    {4<<20 + 99, []segment{{offset: 0, length: 64 << 10}, {offset: 2 << 20, length: 2<<20 + 99}}},
		"small":     {40 << 10, []segment{{offset: 16 << 10, length: 16 << 10}}},
		"many":      {16 << 20, nil},
	} {
		if name == "many" {
			for i := range int64(120) {
				layout.data = append(layout.data, segment{offset: i * 128 << 10, length: 64 << 10})
			}
		}
		f, err := os.Create(filepath.Join(dir, "sparse-"+name))
		must(t, err)
		must(t, f.Truncate(layout.size))
		for _, s := range layout.data {
			_, err := f.WriteAt(random(int(s.length)), s.offset)
			must(t, err)
		}
		must(t, f.Sync()) // before that, what is a hole may still change
		must(t, f.Close())
	}
}

func makeSpecial(t *testing.T, dir string) {
	t.Helper()
	at := func(name string) string { return filepath.Join(dir, name) }
	must(t, unix.Mkfifo(at("fifo"), 0o640))
	must(t, unix.Mknod(at("socket"), unix.S_IFSOCK|0o755, 0))
	must(t, os.Symlink("/etc/passwd", at("outward")))
	must(t, os.Symlink(strings.Repeat("long/", 200), at("dangling")))
	must(t, os.Symlink("sub", at("sub/to-dir")))
	if os.Geteuid() == 0 {
		must(t, unix.Mknod(at("char"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
		must(t, unix.Mknod(at("block"), unix.S_IFBLK|0o660, int(unix.Mkdev(259, 70000))))
	}
}

func makeLinks(t *testing.T, dir string) {
	t.Helper()
	for _, link := range []struct{ old, new string }{
		{"sub/size-512", "sub/deep/small-again"},
		{"sub/size-1048576", "large-again"},
		{"sub/size-1048576", "sub/empty-not/large-third"},
		{"sparse-middle", "sub/sparse-again"},
		{"fifo", "sub/fifo-again"},
		{"outward", "sub/outward-again"},
		{"socket", "sub/deep/er/socket-again"},
	} {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, link.new)), 0o755))
		must(t, os.Link(filepath.Join(dir, link.old), filepath.Join(dir, link.new)))
	}
}

// makeMetadata gives files in the golden tree metadata of every kind, and
// directories their times last.
func makeMetadata(t *testing.T, dir string) {
	t.Helper()
	at := func(name string) string { return filepath.Join(dir, name) }
	for name, attributes := range map[string]map[string]string{
		"sub/size-513":     {"user.empty": "", "user.binary": "\x00\xff\n=", "user.a=b%c": "odd name"},
		"sub/size-1048576": {"user.long": strings.Repeat("v", 2000)},
		"sub":              {"user.on-directory": "yes"},
		".":                {"user.on-root": "yes"},
	} {
		for key, value := range attributes {
			must(t, unix.Lsetxattr(at(name), key, []byte(value), 0))
		}
	}
	if os.Geteuid() == 0 {
		makeRootMetadata(t, dir)
	}
	must(t, os.Chmod(at("closed"), 0o500))
	must(t, os.Chmod(at("sub/deep"), 0o1777))
	must(t, os.Chmod(dir, 0o751))
	for i, name := range []string{"sub/size-1", "outward", "fifo", "sub/size-0", "sub/deep", "sub/empty", "sub", "."} {
		times := []unix.Timespec{{Sec: 1234567890, Nsec: 1}, {Sec: int64(i) * 1000000000, Nsec: int64(i%2) * 123456789}}
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, at(name), times, unix.AT_SYMLINK_NOFOLLOW))
	}
	before := []unix.Timespec{{Sec: -2, Nsec: 500000000}, {Sec: -86400, Nsec: 0}}
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, at("sub/size-512"), before, 0))
}

func makeRootMetadata(t *testing.T, dir string) {
	t.Helper()
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"sub/size-512", "outward", "sub/empty", "fifo", "char"} {
		must(t, os.Lchown(at(name), 1000, 54321))
	}
	must(t, os.Lchown(at("sub/size-513"), 4000000000, 3000000))
	must(t, unix.Lsetxattr(at("outward"), "trusted.on-link", []byte("t"), 0))
	must(t, unix.Lsetxattr(at("fifo"), "trusted.on-fifo", []byte("t"), 0))
	must(t, unix.Chmod(at("sub/size-513"), 0o6755))
	must(t, unix.Chmod(at("sub/empty"), 0o2770))
	must(t, unix.Chmod(at("sub/size-1"), 0))

	// VFS_CAP_REVISION_2 with CAP_NET_RAW, effective (linux/capability.h).
	capability := make([]byte, 20)
	binary.LittleEndian.PutUint32(capability, 0x02000001)
	binary.LittleEndian.PutUint32(capability[4:], 1<<unix.CAP_NET_RAW)
	must(t, unix.Lsetxattr(at("sub/size-65536"), "security.capability", capability, 0))

	must(t, unix.Lsetxattr(at("sub/size-511"), aclAccess, acl(), 0))
	must(t, unix.Lsetxattr(at("sub/deep/er"), aclAccess, acl(), 0))
	must(t, unix.Lsetxattr(at("sub/deep"), aclDefault, acl(), 0))
}

// acl returns an access control list: rw- for the owner, r-- for user 1000, r-x
// for the group, a mask of rwx, nothing for others (linux/posix_acl_xattr.h).
func acl() []byte {
	list := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range []struct {
		tag, permissions uint16
		id               uint32
	}{{0x01, 6, ^uint32(0)}, {0x02, 4, 1000}, {0x04, 5, ^uint32(0)}, {0x10, 7, ^uint32(0)}, {0x20, 0, ^uint32(0)}} {
		list = binary.LittleEndian.AppendUint16(list, e.tag)
		list = binary.LittleEndian.AppendUint16(list, e.permissions)
		list = binary.LittleEndian.AppendUint32(list, e.id)
	}
	return list
}

// openDir opens a directory, which is made if need be, until the test ends.
func openDir(t testing.TB, path string) *os.File {
	t.Helper()
	must(t, os.MkdirAll(path, 0o755))
	dir, err := os.Open(path)
	must(t, err)
	t.Cleanup(func() { dir.Close() })
	return dir
}

// createFile makes an empty file that is open until the test ends.
func createFile(t testing.TB, path string) *os.File {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

// archive writes the tree at root to a tar file beside it, and opens that for
// reading.
func archive(t testing.TB, root string) *os.File {
	t.Helper()
	out, err := os.Create(root + ".tar")
	must(t, err)
	must(t, WriteTar(context.Background(), openDir(t, root), out, nil))
	must(t, out.Close())
	in, err := os.Open(out.Name())
	must(t, err)
	t.Cleanup(func() { in.Close() })
	return in
}
