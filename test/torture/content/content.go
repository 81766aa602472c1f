// Package content writes and recognises what the volumes of the crash tests
// hold.
package content

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Tag is what the contents of volumes differ by. On a device it is a blob, in a
// directory a small file, one that is large enough to be cloned, and a link.
type Tag uint64

const largeSize = 300_001

func (t Tag) bytes(n int) []byte {
	data := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(t), byte(t >> 8), byte(t >> 16)}).Read(data) // never fails
	return data
}

func (t Tag) files() map[string][]byte {
	return map[string][]byte{"small": t.bytes(100), "dir/large": t.bytes(largeSize)}
}

// Write writes to a directory or device, durably. It may be cut off and
// repeated.
func (t Tag) Write(path string) error {
	if device, err := isDevice(path); err != nil || device {
		return errors.Join(err, writeDurably(path, os.O_WRONLY, t.bytes(largeSize)))
	}
	dir := filepath.Join(path, "dir")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, data := range t.files() {
		if err := writeDurably(filepath.Join(path, name), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, data); err != nil {
			return err
		}
	}
	if err := os.Symlink("../small", filepath.Join(dir, "link")); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return errors.Join(syncDirectory(dir), syncDirectory(path))
}

func writeDurably(path string, flag int, data []byte) error {
	file, err := os.OpenFile(path, flag, 0o644)
	if err != nil {
		return err
	}
	if _, err = file.Write(data); err == nil {
		err = file.Sync()
	}
	return errors.Join(err, file.Close())
}

func syncDirectory(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// Check says what is not as it was written.
func (t Tag) Check(path string) error {
	if device, err := isDevice(path); err != nil || device {
		return errors.Join(err, t.checkDevice(path))
	}
	var wrong []error
	for name, data := range t.files() {
		got, err := os.ReadFile(filepath.Join(path, name))
		if err == nil && !bytes.Equal(got, data) {
			err = fmt.Errorf("%s is not as it was written: %d bytes", name, len(got))
		}
		wrong = append(wrong, err)
	}
	target, err := os.Readlink(filepath.Join(path, "dir/link"))
	if err == nil && target != "../small" {
		err = fmt.Errorf("the link leads to %q", target)
	}
	return errors.Join(append(wrong, err)...)
}

func (t Tag) checkDevice(path string) error {
	device, err := os.Open(path)
	if err != nil {
		return err
	}
	defer device.Close()
	got := make([]byte, largeSize)
	if _, err := io.ReadFull(device, got); err != nil {
		return err
	}
	if !bytes.Equal(got, t.bytes(len(got))) {
		return errors.New("the device is not as it was written")
	}
	return nil
}

// CheckSize says what is smaller than so many bytes: a device, or a filesystem with
// what its own structures may take of it.
func CheckSize(path string, size, structures int64) error {
	device, err := isDevice(path)
	if err != nil {
		return err
	}
	if !device {
		var stat unix.Statfs_t
		if err := unix.Statfs(path, &stat); err != nil {
			return err
		}
		if has := int64(stat.Blocks) * stat.Bsize; has < size-structures {
			return fmt.Errorf("the filesystem has %d of %d bytes", has, size)
		}
		return nil
	}
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	has, err := file.Seek(0, io.SeekEnd)
	if err == nil && has < size {
		err = fmt.Errorf("the device has %d of %d bytes", has, size)
	}
	return err
}

func isDevice(path string) (bool, error) {
	info, err := os.Stat(path)
	if err != nil {
		return false, err
	}
	return info.Mode()&fs.ModeDevice != 0, nil
}
