package lvm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"

	"github.com/google/uuid"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/internal/dm"
	"github.com/snapdriver/snapdriver/pkg/backend"
)

// The superblock of btrfs, and where in it what lies (Linux,
// include/uapi/linux/btrfs_tree.h, struct btrfs_super_block).
const (
	btrfsSuperSize = 4096

	btrfsFSID         = 0x20
	btrfsAddress      = 0x30 // its own, in bytes
	btrfsFlags        = 0x38
	btrfsMagic        = 0x40
	btrfsDevices      = 0x88
	btrfsIncompat     = 0xbc
	btrfsChecksumType = 0xc4
	btrfsMetadataUUID = 0x23b

	// hasMetadataUUID: the UUID in all other blocks is the one at
	// btrfsMetadataUUID, and not the one at btrfsFSID.
	hasMetadataUUID = 1 << 10
	// changingFSID are the flags of btrfstune at work.
	changingFSID = 1<<35 | 1<<36
)

var (
	btrfsMagicText = []byte("_BHRfS_M")
	castagnoli     = crc32.MakeTable(crc32.Castagnoli)

	// btrfsCopies are the places of the superblock, as far as they lie within
	// the device. The kernel mounts by the first; the others are for repairs.
	btrfsCopies = []int64{64 << 10, 64 << 20, 256 << 30}
)

// identify gives the btrfs on a device that is not mounted the UUID id, unless
// it has it. The kernel mounts no two filesystems with one UUID, and takes a
// copy for another device of its original.
//
// Only the superblocks change, as with btrfstune -M, the first of them last:
// with one write the filesystem has its new UUID, and before it the old one.
// btrfstune itself (6.2) commits a transaction, and with that destroys a
// filesystem whose log has not been replayed, as that of a copy of a mounted
// one need not be.
func identify(path string, id uuid.UUID) error {
	device, err := os.Open(path)
	if err != nil {
		return err
	}
	super, err := readBtrfs(device, btrfsCopies[0])
	if err := errors.Join(err, device.Close()); err != nil {
		return fmt.Errorf("read the superblock of %s: %w", path, err)
	}
	if super.fsid() == id {
		return nil
	}
	// Exclusively, which fails while it is mounted.
	device, err = os.OpenFile(path, os.O_RDWR|unix.O_EXCL, 0)
	if errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("its btrfs needs a UUID of its own, and %s is in use; unmount it: %w", path, backend.ErrPrecondition)
	}
	if err != nil {
		return err
	}
	if err := errors.Join(setFSID(device, id), device.Close()); err != nil {
		return fmt.Errorf("set the UUID of the btrfs on %s: %w", path, err)
	}
	return nil
}

// setFSID gives all superblocks of a device the UUID.
func setFSID(device *os.File, id uuid.UUID) error {
	size, err := device.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	for i := len(btrfsCopies) - 1; i >= 0; i-- {
		at := btrfsCopies[i]
		if at+btrfsSuperSize > size {
			continue
		}
		super, err := readBtrfs(device, at)
		if err != nil && i > 0 {
			continue // a copy that was not written yet, as after growing
		}
		if err != nil {
			return err
		}
		super.setFSID(id)
		if _, err := device.WriteAt(super, at); err != nil {
			return err
		}
		if err := device.Sync(); err != nil {
			return err
		}
	}
	return nil
}

// btrfsSuper is a superblock.
type btrfsSuper []byte

// readBtrfs reads the superblock at a place of a device and looks whether it is
// one that is understood.
func readBtrfs(device *os.File, at int64) (btrfsSuper, error) {
	super := make(btrfsSuper, btrfsSuperSize)
	if _, err := device.ReadAt(super, at); err != nil {
		return nil, err
	}
	switch {
	case !bytes.Equal(super[btrfsMagic:][:len(btrfsMagicText)], btrfsMagicText) || super.number(btrfsAddress) != uint64(at):
		return nil, errors.New("there is none")
	case binary.LittleEndian.Uint16(super[btrfsChecksumType:]) != 0:
		return nil, errors.New("its checksums are not CRC-32C")
	case binary.LittleEndian.Uint32(super) != super.checksum():
		return nil, errors.New("its checksum is wrong")
	case super.number(btrfsDevices) != 1:
		return nil, fmt.Errorf("it spans %d devices", super.number(btrfsDevices))
	case super.number(btrfsFlags)&changingFSID != 0:
		return nil, errors.New("btrfstune was cut off while it changed its UUID: run it again")
	}
	return super, nil
}

func (s btrfsSuper) number(at int) uint64 { return binary.LittleEndian.Uint64(s[at:]) }

func (s btrfsSuper) checksum() uint32 { return crc32.Checksum(s[btrfsFSID:], castagnoli) }

func (s btrfsSuper) fsid() uuid.UUID { return uuid.UUID(s[btrfsFSID:][:16]) }

// setFSID sets the UUID by which the filesystem is known. That in its other
// blocks stays.
func (s btrfsSuper) setFSID(id uuid.UUID) {
	inBlocks, incompat := s.fsid(), s.number(btrfsIncompat)
	if incompat&hasMetadataUUID != 0 {
		inBlocks = uuid.UUID(s[btrfsMetadataUUID:][:16])
	}
	incompat |= hasMetadataUUID
	kept := inBlocks
	if inBlocks == id {
		incompat &^= hasMetadataUUID
		kept = uuid.Nil
	}
	copy(s[btrfsMetadataUUID:], kept[:])
	copy(s[btrfsFSID:], id[:])
	binary.LittleEndian.PutUint64(s[btrfsIncompat:], incompat)
	binary.LittleEndian.PutUint32(s, s.checksum())
}

// flush writes what pods have written to a mounted btrfs to its device. Any
// other filesystem is flushed and frozen by the kernel when its device is
// suspended for the cut; btrfs is not, since it may have several devices
// (Linux 6.1 at least). The cut is then what a power cut would leave, which has
// all that was flushed here, and all that was synced since.
func (b *Backend) flush(o object) error {
	if o.fsType != "btrfs" {
		return nil
	}
	device, err := dm.Lookup(b.device(o.id))
	if errors.Is(err, dm.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		var source unix.Stat_t
		of := m.FSType == "btrfs" && unix.Stat(m.Source, &source) == nil && source.Rdev == device.Number
		return !of, of
	})
	if err != nil || len(mounts) == 0 {
		return err
	}
	root, err := os.OpenFile(mounts[0].Mountpoint, unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer root.Close()
	return os.NewSyscallError("syncfs", unix.Syncfs(int(root.Fd())))
}
