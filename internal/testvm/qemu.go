package testvm

import (
	"fmt"
	"slices"
	"strings"

	"github.com/snapdriver/snapdriver/internal/testvm/wire"
)

const (
	qemu   = "qemu-system-x86_64"
	memory = "2G"
)

// DiskPath returns the path in the guest of one of Config.Disks.
func DiskPath(index int) string { return fmt.Sprintf("/dev/vd%c", 'a'+index) }

// commandLine is the kernel's. Nobody attacks this guest, and what protects it
// costs an emulated processor a tenth of its time. Whoever waits for a disk for
// minutes is stuck: the console shows where, and the guest dies. What follows
// "--" are the arguments of busybox, which mounts the disk with the programs and
// becomes the agent.
const commandLine = `console=ttyS0 quiet panic=-1 oops=panic mitigations=off init_on_alloc=0 ` +
	`sysctl.kernel.printk=7 sysctl.kernel.hung_task_timeout_secs=300 sysctl.kernel.hung_task_panic=1 ` +
	`root=/dev/nvme0n1 rootfstype=ext4 rootflags=noinit_itable rw init=/bin/busybox -- ` +
	`sh -c "busybox mount -t devtmpfs dev /dev && busybox mount -t ext4 -o ro /dev/nvme0n2 /vm && exec /vm/agent <>/dev/console >&0 2>&0"`

// arguments are those of QEMU, which inherits sockets as its descriptors from 3
// on: for the two ports, and for each of the disks.
func arguments(image *Image, programs, console string, disks int) []string {
	arguments := append(slices.Clone(image.accelerator),
		"-m", memory,
		"-display", "none", "-nodefaults", "-no-reboot",
		"-serial", "file:"+console,
		"-kernel", image.Kernel, "-append", commandLine,
		"-device", "virtio-serial-pci",
		// One controller, for the kernel looks for several at once and numbers them
		// as it finds them.
		"-device", "nvme,id=nvme,serial=disks")
	descriptor := 3
	for _, port := range []int{wire.ControlPort, wire.DialPort} {
		arguments = append(arguments,
			"-chardev", fmt.Sprintf("socket,id=port%d,fd=%d", port, descriptor),
			"-device", fmt.Sprintf("virtserialport,chardev=port%d,nr=%d", port, port))
		descriptor++
	}
	for index, path := range []string{image.Root, programs} {
		arguments = append(arguments,
			// The file is not changed: what is written goes to another.
			"-drive", fmt.Sprintf("if=none,id=nvme%d,format=raw,snapshot=on,file=%s", index, strings.ReplaceAll(path, ",", ",,")),
			"-device", fmt.Sprintf("nvme-ns,bus=nvme,nsid=%d,drive=nvme%d", index+1, index))
	}
	// QEMU's NVMe forgets which writes have to be durable at once (FUA). A virtio
	// disk does not know of such writes, and so Linux flushes after them.
	for index := range disks {
		arguments = append(arguments,
			"-drive", fmt.Sprintf("if=none,id=disk%d,format=raw,file.driver=nbd,file.server.type=fd,file.server.str=%d", index, descriptor),
			"-device", fmt.Sprintf("virtio-blk-pci,drive=disk%d,physical_block_size=%d", index, blockSize))
		descriptor++
	}
	return arguments
}
