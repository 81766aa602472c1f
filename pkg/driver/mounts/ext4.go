package mounts

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
)

const ext4 = "ext4"

// ext4Super is what the superblock of an ext4 says about how it can grow
// (Linux, Documentation/filesystems/ext4/super.rst). Sizes are in its blocks.
type ext4Super struct {
	blocks, device uint64 // of the filesystem and of what it lies on

	// reserved is how many blocks are set aside for the descriptors of more
	// block groups; reach is the size up to which these suffice.
	reserved, reach uint64

	resizeInode bool // the reserve is held by an inode of its own
	metaGroups  bool // descriptors lie among the groups that they describe
}

// full says whether there is nothing to grow into.
func (s ext4Super) full() bool { return s.blocks >= s.device }

// growsMounted says whether the kernel can be trusted to grow the filesystem
// while it is mounted. With neither of the two it has to convert the
// filesystem first, and before Linux 6.9 (CVE-2024-35807) that loses data.
func (s ext4Super) growsMounted() bool { return s.resizeInode || s.metaGroups }

// outgrows says whether the reserve does not suffice for the device. resize2fs
// (1.47.0 at least) destroys a filesystem that grows past its reserve.
func (s ext4Super) outgrows() bool { return s.resizeInode && s.device > s.reach }

// halfRid says that a crash has come between the two steps of taking the
// reserve away.
func (s ext4Super) halfRid() bool { return !s.resizeInode && s.reserved > 0 }

const (
	superblockAt   = 1024
	superblockSize = 1024
	superMagic     = 0xEF53
	resizeInodeBit = 0x10 // s_feature_compat
	metaGroupsBit  = 0x10 // s_feature_incompat
	wideBit        = 0x80 // s_feature_incompat: 64-bit numbers
	narrowSize     = 32   // bytes of a group descriptor without wideBit
)

// readExt4 reads the superblock of the ext4 on a device, mounted or not.
func readExt4(device string) (ext4Super, error) {
	file, err := os.Open(device)
	if err != nil {
		return ext4Super{}, err
	}
	defer file.Close()
	size, err := file.Seek(0, io.SeekEnd)
	if err != nil {
		return ext4Super{}, fmt.Errorf("find the end of %q: %w", device, err)
	}
	raw := make([]byte, superblockSize)
	if _, err := file.ReadAt(raw, superblockAt); err != nil {
		return ext4Super{}, fmt.Errorf("read the superblock of %q: %w", device, err)
	}
	super, err := parseExt4(raw, size)
	if err != nil {
		return ext4Super{}, fmt.Errorf("read the superblock of %q: %w", device, err)
	}
	return super, nil
}

// parseExt4 understands the superblock of an ext4 on a device of size bytes.
func parseExt4(raw []byte, size int64) (ext4Super, error) {
	long := func(at int) uint64 { return uint64(binary.LittleEndian.Uint32(raw[at:])) }
	short := func(at int) uint64 { return uint64(binary.LittleEndian.Uint16(raw[at:])) }
	super := ext4Super{
		blocks:      long(0x04),
		reserved:    short(0xCE),
		resizeInode: long(0x5C)&resizeInodeBit != 0,
		metaGroups:  long(0x60)&metaGroupsBit != 0,
	}
	block, perGroup, descriptor := uint64(1024)<<long(0x18), long(0x20), uint64(narrowSize)
	if long(0x60)&wideBit != 0 {
		super.blocks |= long(0x150) << 32
		descriptor = short(0xFE)
	}
	if short(0x38) != superMagic || block == 0 || perGroup == 0 || descriptor == 0 || descriptor > block {
		return ext4Super{}, errors.New("it is not that of an ext4")
	}
	super.device = uint64(size) / block
	described := block / descriptor * perGroup // blocks, by one block of descriptors
	super.reach = ((super.blocks+described-1)/described + super.reserved) * described
	return super, nil
}
