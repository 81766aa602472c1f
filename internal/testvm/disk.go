package testvm

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
)

const (
	// sectorSize is what writes are multiples of, in bytes.
	sectorSize = 512

	// blockSize is what a disk writes whole or not at all, in bytes, as disks do
	// today. ext4 relies on it: there is one checksum over the two sectors of its
	// superblock, which each mount writes.
	blockSize = 4096
)

// Disk is a disk with a volatile write cache, in a file. QEMU alone has no such
// cache: what it has acknowledged lies in the page cache of the host, which
// survives QEMU, flushed or not. So QEMU is given a disk of ours (see nbd.go),
// which remembers what was there before each write until the guest flushes.
type Disk struct {
	file *os.File
	size int64

	mutex sync.Mutex
	undo  []before // of the writes since the last flush, the last one at the end
}

// before is what a block, or the part of it that was written, held before that.
type before struct {
	offset  int64
	content []byte
}

// NewDisk makes a disk of a size in bytes in a new file.
func NewDisk(path string, size int64) (*Disk, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	return &Disk{file: file, size: size}, file.Truncate(size)
}

// Close closes the file.
func (d *Disk) Close() { _ = d.file.Close() }

// Cut is the power cut, to be called when no machine runs with the disk: of the
// blocks that were written and not flushed, some are lost. In order, these are
// the last ones; else any, for disks may write in an order of their own.
func (d *Disk) Cut(random *rand.Rand, inOrder bool) (lost, of int, err error) {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	last := random.IntN(len(d.undo) + 1)
	for index, written := range slices.Backward(d.undo) {
		if inOrder && index < last || !inOrder && random.IntN(2) == 0 {
			continue
		}
		if _, err := d.file.WriteAt(written.content, written.offset); err != nil {
			return 0, 0, err
		}
		lost++
	}
	of, d.undo = len(d.undo), nil
	return lost, of, nil
}

// Unflushed returns how many blocks were written since the last flush.
func (d *Disk) Unflushed() int {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	return len(d.undo)
}

func (d *Disk) read(data []byte, offset int64) error {
	_, err := d.file.ReadAt(data, offset)
	return err
}

func (d *Disk) write(data []byte, offset int64) error {
	if offset%sectorSize != 0 || len(data)%sectorSize != 0 || offset+int64(len(data)) > d.size {
		return fmt.Errorf("write %d bytes at %d: not sectors of this disk", len(data), offset)
	}
	d.mutex.Lock()
	defer d.mutex.Unlock()
	for at, end := offset, offset+int64(len(data)); at < end; {
		next := min(end, at-at%blockSize+blockSize)
		was := before{at, make([]byte, next-at)}
		if _, err := d.file.ReadAt(was.content, at); err != nil {
			return err
		}
		d.undo = append(d.undo, was)
		at = next
	}
	_, err := d.file.WriteAt(data, offset)
	return err
}

// flush makes durable what was written so far.
func (d *Disk) flush() {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	d.undo = nil
}
