package compat

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/snapdriver/snapdriver/internal/testenv"
	"github.com/snapdriver/snapdriver/internal/testvm"
)

const (
	diskSize = 384 * mib
	group    = "sdcompat"
	pool     = "pool"
)

// TestLVM has volume groups that earlier versions have left served, as
// TestHostpath.
func TestLVM(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	if *newFixture != "" && !testenv.HasThinPools() {
		newLVMElsewhere(t, filepath.Join("testdata", *newFixture, "lvm"))
		return
	}
	testenv.RequireThinPools(t)
	if *newFixture != "" {
		writeLVM(t)
		return
	}
	for _, fixture := range kept(t, "lvm*") {
		t.Run(strings.TrimPrefix(fixture, "testdata/"), func(t *testing.T) { serveLVM(t, fixture) })
	}
}

func serveLVM(t *testing.T, fixture string) {
	b, disk := newLVM(t)
	b.must("unpack the disk", writeSparse(disk, unpacked(t, fixture, "img.zst")))
	device := attach(t, disk)
	t.Cleanup(func() { device.LVM(t, "vgremove", "--force", "--force", group) })
	b.serve(part(t, fixture, "json"))
	if left := strings.Fields(device.LVM(t, "lvs", "--noheadings", "--options", "lv_name", group)); len(left) != 1 || left[0] != pool {
		t.Errorf("left behind: %q", left)
	}
}

// newLVM is a bed whose disk is yet to be made.
func newLVM(t *testing.T) (b *bed, disk string) {
	dir := testenv.TempDir(t)
	b = newBed(t, dir, map[string]kind{
		"ext4":  {fsType: "ext4", size: 32 * mib, formats: []string{""}},
		"block": {block: true, size: 4 * mib, formats: []string{""}},
	})
	b.Flags = []string{"--backend=lvm", "--volume-group=" + group, "--thin-pool=" + pool, "--lock-dir=" + dir}
	return b, filepath.Join(dir, "disk")
}

// attach gives the disk a device.
func attach(t *testing.T, disk string) testenv.Pool {
	device := strings.TrimSpace(testenv.Run(t, "losetup", "--find", "--show", disk))
	t.Cleanup(func() { testenv.Run(t, "losetup", "--detach", device) })
	return testenv.Pool{Group: group, Name: pool, Device: device}
}

// writeLVM has the driver make some of everything, and prints it.
func writeLVM(t *testing.T) {
	b, disk := newLVM(t)
	file, err := os.Create(disk)
	b.must("make the disk", err)
	defer file.Close()
	b.must("make the disk", file.Truncate(diskSize))
	device := attach(t, disk)
	device.LVM(t, "vgcreate", group, device.Device)
	device.LVM(t, "lvcreate", "--type", "thin-pool", "--name", pool, "--size", "320m", "--poolmetadatasize", "8m", group)
	text := b.makeAll()
	device.LVM(t, "vgchange", "--activate", "n", group)
	data, err := io.ReadAll(file)
	b.must("read the disk", err)
	b.must("print the manifest", pem.Encode(os.Stdout, &pem.Block{Type: "json", Bytes: text}))
	b.must("print the disk", pem.Encode(os.Stdout, &pem.Block{Type: "img.zst", Bytes: packed(t, data)}))
	device.LVM(t, "vgremove", "--force", "--force", group)
}

// newLVMElsewhere has this program make a fixture in a virtual machine, and
// writes what it prints to files. The program must be statically linked.
func newLVMElsewhere(t *testing.T, fixture string) {
	refuseToReplace(t, fixture)
	dir := t.TempDir()
	driver := filepath.Join(dir, "snapdriver")
	t.Setenv("CGO_ENABLED", "0")
	testenv.Run(t, "go", "build", "-o", driver, "github.com/snapdriver/snapdriver/cmd/snapdriver")
	image, err := testvm.Prepare(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	vm, err := image.Boot(t.Context(), testvm.Config{Files: map[string]string{"compat.test": program, "snapdriver": driver}})
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Kill()
	var out bytes.Buffer
	err = vm.Run(testvm.Command{
		Args: []string{"compat.test", "-test.run=TestLVM", "-new=" + *newFixture}, Stdout: &out, Stderr: os.Stderr,
		Env: []string{"SNAPDRIVER_BINARY=/vm/snapdriver", "SNAPDRIVER_REQUIRE_LVM=1"},
	})
	if err != nil {
		t.Fatalf("%v\n%.5000s", err, out.String())
	}
	for rest := out.Bytes(); ; {
		block, more := pem.Decode(rest)
		if block == nil {
			return
		}
		if err := os.WriteFile(fmt.Sprint(fixture, ".", block.Type), block.Bytes, 0o644); err != nil {
			t.Fatal(err)
		}
		rest = more
	}
}

// writeSparse makes a disk, with holes where there are zeros.
func writeSparse(disk string, data []byte) error {
	file, err := os.Create(disk)
	if err != nil {
		return err
	}
	defer file.Close()
	const piece = 64 << 10
	none := make([]byte, piece)
	for offset := 0; offset < len(data); offset += piece {
		part := data[offset:min(offset+piece, len(data))]
		if bytes.Equal(part, none[:len(part)]) {
			continue
		}
		if _, err := file.WriteAt(part, int64(offset)); err != nil {
			return err
		}
	}
	return file.Truncate(int64(len(data)))
}
