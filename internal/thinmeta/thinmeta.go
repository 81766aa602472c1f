// Package thinmeta reads from the metadata of a thin pool which devices the
// kernel keeps in it. The kernel itself does not list them, and thin_ls reads
// the metadata of an active pool only from a copy that the kernel has to make
// first, and that stays when whoever asked for it dies.
//
// What the kernel has committed it does not write over before its next commit,
// which is one write of the superblock: what is read between two equal
// superblocks is what was committed. Nothing is written here. The layout is that
// of the kernel's drivers/md/dm-thin-metadata.c and
// drivers/md/persistent-data/dm-btree-internal.h.
package thinmeta

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Device is one thin device of a pool.
type Device struct {
	ID uint64

	// Transaction is the pool's transaction ID at the time when the device was
	// made.
	Transaction uint64
}

const (
	blockSize = 4096

	// attempts is how often the metadata are read until no commit comes in
	// between. That takes about a millisecond; a pool that is written to commits
	// every second, and whenever somebody flushes.
	attempts = 100

	// maxDepth is far deeper than any tree of IDs of 24 bits.
	maxDepth = 8
)

// What each kind of block begins with, after its checksum, and what that is
// combined with.
const (
	magic          = 27022010
	superblockSalt = 160774
	nodeSalt       = 121107
	internalNode   = 1
	leafNode       = 2
)

type superblock struct {
	_                 [8]byte // checksum, flags
	Block             uint64
	_                 [16]byte // UUID
	Magic             uint64
	Version           uint32
	_                 uint32 // time
	_                 uint64 // transaction
	_                 uint64 // root of a copy
	_                 [256]byte
	_                 uint64 // root of the mappings
	Devices           uint64 // block of the root of the tree with the devices
	_                 uint32
	MetadataBlockSize uint32 // in sectors
}

type nodeHeader struct {
	_         uint32 // checksum
	Flags     uint32
	Block     uint64
	Entries   uint32
	Max       uint32
	ValueSize uint32
	_         uint32
}

type details struct {
	_           uint64 // mapped blocks
	Transaction uint64
	_           [8]byte // times
}

var errBusy = errors.New("the pool is written to so much that its metadata were never read between two commits; try again")

// Devices returns the devices of a pool, by the path of the device that has its
// metadata, as of the last commit, in the order of their IDs.
func Devices(path string) ([]Device, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECT, 0) // the page cache knows nothing of what the kernel writes there
	if err != nil {
		return nil, err
	}
	defer file.Close()
	for range attempts {
		var devices []Device
		if devices, err = read(file); err == nil {
			return devices, nil
		}
	}
	return nil, fmt.Errorf("read the metadata of a thin pool in %s: %w", path, err)
}

// read reads the devices once; errBusy when a commit has come in between.
func read(file *os.File) ([]Device, error) {
	before, err := readBlock(file, 0, superblockSalt)
	if err != nil {
		return nil, err
	}
	var super superblock
	if _, err := binary.Decode(before, binary.LittleEndian, &super); err != nil {
		return nil, err
	}
	if super.Magic != magic || super.Version < 1 || super.Version > 2 || super.MetadataBlockSize*512 != blockSize {
		return nil, fmt.Errorf("not a superblock, or one of an unknown version: magic %d, version %d, blocks of %d sectors", super.Magic, super.Version, super.MetadataBlockSize)
	}
	devices, err := readTree(file, super.Devices, maxDepth)
	after, errAfter := readBlock(file, 0, superblockSalt)
	if errAfter == nil && !bytes.Equal(before, after) {
		return nil, errBusy
	}
	return devices, errors.Join(err, errAfter)
}

// readTree reads the devices below a node of the tree.
func readTree(file *os.File, block uint64, depth int) ([]Device, error) {
	if depth == 0 {
		return nil, errors.New("a tree that is too deep")
	}
	data, err := readBlock(file, block, nodeSalt)
	if err != nil {
		return nil, err
	}
	var header nodeHeader
	length, err := binary.Decode(data, binary.LittleEndian, &header)
	if err != nil {
		return nil, err
	}
	valueSize := 8 // a block number
	if header.Flags == leafNode {
		valueSize = binary.Size(details{})
	}
	if header.Flags != internalNode && header.Flags != leafNode || header.Block != block || int(header.ValueSize) != valueSize ||
		header.Entries > header.Max || int64(header.Max)*int64(8+valueSize) > int64(blockSize-length) {
		return nil, fmt.Errorf("block %d is not a node of the tree with the devices: %+v", block, header)
	}
	keys, values := data[length:], data[length+8*int(header.Max):]
	var devices []Device
	for i := range int(header.Entries) {
		value := values[i*valueSize:]
		if header.Flags == internalNode {
			below, err := readTree(file, binary.LittleEndian.Uint64(value), depth-1)
			if err != nil {
				return nil, err
			}
			devices = append(devices, below...)
			continue
		}
		var d details
		if _, err := binary.Decode(value, binary.LittleEndian, &d); err != nil {
			return nil, err
		}
		devices = append(devices, Device{ID: binary.LittleEndian.Uint64(keys[8*i:]), Transaction: d.Transaction})
	}
	return devices, nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// readBlock reads a block and compares its checksum.
func readBlock(file *os.File, block uint64, salt uint32) ([]byte, error) {
	data := aligned()
	if _, err := file.ReadAt(data, int64(block)*blockSize); err != nil {
		return nil, fmt.Errorf("block %d: %w", block, err)
	}
	const checksumSize = 4
	want := binary.LittleEndian.Uint32(data)
	if ^crc32.Checksum(data[checksumSize:], castagnoli)^salt != want {
		return nil, fmt.Errorf("block %d: the checksum is wrong", block)
	}
	return data, nil
}

// aligned returns a buffer of one block that O_DIRECT accepts.
func aligned() []byte {
	buffer := make([]byte, 2*blockSize)
	skip := -uintptr(unsafe.Pointer(&buffer[0])) % blockSize
	return buffer[skip : skip+blockSize : skip+blockSize]
}
