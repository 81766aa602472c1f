package lvm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

// signature is what blkid recognises on a device; the zero value: nothing.
type signature struct {
	// fsType is the filesystem, or what else it is; "?" if that has no name.
	fsType      string
	uuid, label string
}

// String names a signature in errors.
func (s signature) String() string {
	switch {
	case s == signature{}:
		return "nothing"
	case s.uuid == "":
		return s.fsType
	}
	return fmt.Sprintf("%s (UUID %s)", s.fsType, s.uuid)
}

// The exit codes of blkid --probe (blkid(8)).
const (
	blkidNothing   = 2 // or that reading failed, which blkid does not tell apart
	blkidAmbiguous = 8
)

// ambiguous is the signature of a device with several.
var ambiguous = signature{fsType: "several signatures at once"}

// probe returns what lies on a device.
func probe(ctx context.Context, device string) (signature, error) {
	out, err := run(prepare(exec.CommandContext(ctx, "blkid", "--probe", "--output", "export", device)))
	exit, ended := errors.AsType[*exec.ExitError](err)
	switch {
	case ended && exit.ExitCode() == blkidNothing:
		return signature{}, nil
	case ended && exit.ExitCode() == blkidAmbiguous:
		return ambiguous, nil
	case err != nil:
		return signature{}, err
	}
	found := signature{fsType: "?"}
	for line := range strings.Lines(string(out)) {
		switch key, value, _ := strings.Cut(strings.TrimSpace(line), "="); key {
		case "TYPE", "PTTYPE":
			found.fsType = value
		case "UUID":
			found.uuid = value
		case "LABEL":
			found.label = value
		}
	}
	return found, nil
}

// probedPart is how much of the beginning and of the end of a device blkid
// looks at, and more: the first 4 MiB and the last 2 (libblkid 2.38).
const probedPart = 8 << 20

// checkReadable reads the parts of a device in which signatures lie, which has
// the device number and the size given. blkid itself takes what it cannot read
// for empty.
func checkReadable(path string, number uint64, size int64) error {
	device, err := os.Open(path)
	if err != nil {
		return err
	}
	defer device.Close()
	var stat unix.Stat_t
	if err := unix.Fstat(int(device.Fd()), &stat); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFBLK || stat.Rdev != number {
		return fmt.Errorf("%s is not the node of that device", path)
	}
	end, err := device.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if end != size {
		return fmt.Errorf("%s has %d bytes, the logical volume has %d", path, end, size)
	}
	for _, at := range []int64{0, max(size-probedPart, 0)} {
		if _, err := io.Copy(io.Discard, io.NewSectionReader(device, at, probedPart)); err != nil {
			return err
		}
	}
	return nil
}
