package dm

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// firstBuffer is room enough, in bytes, for the table of any thin volume
	// and of a linear one of a hundred pieces. It is doubled as needed.
	firstBuffer = 16 << 10
	lastBuffer  = 16 << 20
)

// reply is what the kernel has answered.
type reply struct {
	header unix.DmIoctl
	data   []byte // what follows the header
}

// ask makes one request about one name, with as much room for the answer as it
// turns out to need. data is what follows the header.
func ask(control *os.File, command uint, flags uint32, name string, data []byte) (reply, error) {
	request := unix.DmIoctl{
		// The version that brought all that is asked for here; a kernel with a
		// later one of the same major number answers all the same.
		Version: [3]uint32{unix.DM_VERSION_MAJOR, 0, 0},
		Flags:   flags,
	}
	if len(name) >= len(request.Name) {
		return reply{}, fmt.Errorf("name of %d bytes, the kernel allows %d: %w", len(name), len(request.Name)-1, unix.ENAMETOOLONG)
	}
	copy(request.Name[:], name)
	request.Data_start = uint32(binary.Size(request))
	for size := firstBuffer; size <= lastBuffer; size *= 2 {
		request.Data_size = uint32(size)
		buffer := make([]byte, size)
		if _, err := binary.Encode(buffer, binary.NativeEndian, &request); err != nil {
			return reply{}, err
		}
		copy(buffer[request.Data_start:], data)
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, control.Fd(), uintptr(command), uintptr(unsafe.Pointer(&buffer[0]))); errno != 0 {
			return reply{}, os.NewSyscallError("ioctl", errno)
		}
		var header unix.DmIoctl
		if _, err := binary.Decode(buffer, binary.NativeEndian, &header); err != nil {
			return reply{}, err
		}
		if header.Flags&unix.DM_BUFFER_FULL_FLAG == 0 {
			return reply{header, buffer[request.Data_start:]}, nil
		}
	}
	return reply{}, fmt.Errorf("an answer of more than %d bytes", lastBuffer)
}

// targets reads the table: one DmTargetSpec for each target, its status as a C
// string behind it, and in the spec where, counted from the first spec, the
// next one begins.
func (r reply) targets() ([]Target, error) {
	targets := make([]Target, 0, r.header.Target_count)
	for at := 0; len(targets) < int(r.header.Target_count); {
		if at < 0 || at > len(r.data) {
			return nil, fmt.Errorf("target %d lies outside the kernel's answer", len(targets))
		}
		var spec unix.DmTargetSpec
		length, err := binary.Decode(r.data[at:], binary.NativeEndian, &spec)
		if err != nil {
			return nil, fmt.Errorf("target %d: %w", len(targets), err)
		}
		targets = append(targets, Target{
			Type:   cString(spec.Target_type[:]),
			Start:  int64(spec.Sector_start) * sectorSize,
			Length: int64(spec.Length) * sectorSize,
			Status: cString(r.data[at+length:]),
		})
		at = int(spec.Next)
	}
	return targets, nil
}

// cString returns what stands before the first zero byte.
func cString(text []byte) string {
	before, _, _ := bytes.Cut(text, []byte{0})
	return string(before)
}
