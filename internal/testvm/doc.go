// Package testvm boots a small virtual machine with a stock Debian kernel, in
// which tests run that need what the kernel below them lacks: device-mapper,
// and a machine whose power can be cut.
//
// The guest is made of Debian packages. apt-get resolves and downloads them as
// for an empty system, so that every library comes along, and they are only
// unpacked, into an ext4 image: nothing is installed on the host. There is no
// initramfs, and so no cpio: Debian's cloud kernel has the drivers for NVMe
// and ext4 built in and mounts the image as its root, of which it reads the
// little that it needs, while an archive of the same size would have to be
// unpacked at each boot. The image is cached; a boot takes about three seconds
// where QEMU emulates the processor.
//
// Programs of the host, such as compiled tests, lie on a second disk. On the
// host, they must be statically linked (CGO_ENABLED=0), or be for the same
// Debian release.
//
// The agent, our process 1 in the guest, runs what it is told through a
// virtio-serial port, and sends back what it prints and how it ends: the
// console, on which the kernel may write at any time, is for people only. It is
// shown when the guest dies.
//
// # Power cuts
//
// VM.Kill is kill -9 of QEMU: what the guest had in its memory is gone, and
// requests to the disks are cut off. Disk.Cut then takes from the disk what a
// power cut takes: writes that the guest was told are done, and did not flush.
// With a disk of QEMU's own nothing of that would be lost, however its caches
// are set: it would be in the page cache of the host, or on its disk.
//
// # Libraries
//
// There are libraries for QEMU and for cpio archives. Of the former, those that
// are alive are for whole clouds (libvirt) or speak QMP, which is not needed
// here: what remains is one command line. The latter have nothing to do.
package testvm
