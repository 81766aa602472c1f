package compat

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// content describes what a volume holds: each file, by its name as %q writes it,
// or one device.
type content map[string]string

var (
	changed = time.Date(2001, 2, 3, 4, 5, 6, 789012345, time.UTC)
	large   = 100_000 // bytes: more than what is copied rather than cloned
)

// lostAndFound is a directory that ext4 has by itself.
const lostAndFound = "lost+found"

// lines returns n bytes that can be compressed and are nowhere the same.
func lines(n, generation int) []byte {
	var text bytes.Buffer
	for i := 0; text.Len() < n; i++ {
		fmt.Fprintf(&text, "line %d of generation %d\n", i, generation)
	}
	return text.Bytes()[:n]
}

// write fills a volume. A later generation changes what an earlier one wrote.
func write(target string, block bool, generation int) error {
	if block {
		device, err := os.OpenFile(target, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = device.WriteAt(lines(large, generation), 4096)
		return errors.Join(err, device.Sync(), device.Close())
	}
	if generation == 1 {
		if err := writeOdd(target); err != nil {
			return err
		}
	}
	for name, size := range map[string]int{"small": 100, "large": large, "dir/file": 5000, fmt.Sprint("dir/new", generation): generation} {
		if err := os.WriteFile(filepath.Join(target, name), lines(size, generation), 0o640); err != nil {
			return err
		}
	}
	return filepath.WalkDir(target, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.Name() == lostAndFound {
			return fs.SkipDir
		}
		at := []unix.Timespec{unix.NsecToTimespec(changed.UnixNano()), unix.NsecToTimespec(changed.UnixNano() + int64(generation))}
		return unix.UtimesNanoAt(unix.AT_FDCWD, path, at, unix.AT_SYMLINK_NOFOLLOW)
	})
}

// writeOdd makes what is not simply a file.
func writeOdd(dir string) error {
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, err := range []error{
		os.MkdirAll(at("dir/deeper"), 0o755),
		os.WriteFile(at("owned"), []byte("#!"), 0o755),
		os.Chown(at("owned"), 1234, 5678),
		os.Chmod(at("owned"), fs.ModeSetuid|0o755),
		os.Chmod(at("dir/deeper"), fs.ModeSetgid|fs.ModeSticky|0o777),
		os.WriteFile(at("noted"), nil, 0o600),
		unix.Lsetxattr(at("noted"), "user.note", []byte("\x00note"), 0),
		os.WriteFile(at("dir/deeper/not \xff text\n"), []byte("name"), 0o444),
		os.Symlink("/nowhere/else", at("link")),
		os.Link(at("owned"), at("dir/second")),
		unix.Mkfifo(at("fifo"), 0o620),
		unix.Mknod(at("device"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))),
		os.WriteFile(at("holes"), nil, 0o600),
		os.Truncate(at("holes"), 1<<20),
	} {
		if err != nil {
			return err
		}
	}
	return nil
}

// read describes what a volume holds.
func read(target string, block bool) (content, error) {
	if block {
		sum, err := checksum(target)
		return content{"device": sum}, err
	}
	c, first := content{}, map[uint64]string{}
	err := filepath.WalkDir(target, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.Name() == lostAndFound {
			return fs.SkipDir
		}
		name, err := filepath.Rel(target, path)
		if err != nil {
			return err
		}
		name = fmt.Sprintf("%q", name)
		c[name], err = describe(path, name, first)
		return err
	})
	return c, err
}

// describe says all that is kept of a file. Of one that has several names, the
// others refer to the first, which is noted by its inode.
func describe(path, name string, first map[uint64]string) (string, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return "", err
	}
	text := fmt.Sprintf("mode %o owner %d:%d changed %d.%09d", st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
	var err error
	more := ""
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		more, err = checksum(path)
		more = fmt.Sprintf(" size %d %s", st.Size, more)
	case unix.S_IFLNK:
		more, err = os.Readlink(path)
		more = " to " + more
	case unix.S_IFCHR, unix.S_IFBLK:
		more = fmt.Sprintf(" device %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	}
	if err != nil {
		return "", err
	}
	if note := make([]byte, 100); st.Mode&unix.S_IFMT == unix.S_IFREG {
		if n, err := unix.Lgetxattr(path, "user.note", note); err == nil {
			more += fmt.Sprintf(" note %q", note[:n])
		} else if !errors.Is(err, unix.ENODATA) {
			return "", err
		}
		if st.Nlink > 1 && first[st.Ino] != "" {
			return text + more + " same as " + first[st.Ino], nil
		}
		first[st.Ino] = name
	}
	return text + more, nil
}

func checksum(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, file); err != nil {
		return "", err
	}
	return "sha256 " + hex.EncodeToString(sum.Sum(nil)), nil
}
