package testvm

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// packages are the Debian packages that the guest is made of. What they depend
// on comes along.
var packages = []string{
	"linux-image-cloud-amd64", "kmod", "busybox-static",
	"base-files", "dash", "coreutils", "findutils", "grep", "sed", "tar", "zstd", "attr", "acl", "util-linux", "mount",
	"lvm2", "dmsetup", "thin-provisioning-tools", "e2fsprogs", "xfsprogs", "btrfs-progs",
}

// rootSize is the size of the guest's root filesystem in bytes: room for the
// sparse files of tests. Only what is written takes space.
const rootSize = 64 << 30

// Image is what a guest is booted from: two files in the cache, and how QEMU
// runs it best on this machine.
type Image struct {
	Kernel, Root string

	accelerator []string // arguments of QEMU
}

// Prepare returns the image from the cache, and makes it first when it is not
// there, for which it needs a network. The cache is $XDG_CACHE_HOME/snapdriver
// or .cache in the repository.
func Prepare(ctx context.Context) (*Image, error) {
	for _, program := range []string{qemu, "apt-get", "dpkg-deb", "depmod", "mkfs.ext4", "go"} {
		if _, err := exec.LookPath(program); err != nil {
			return nil, fmt.Errorf("needs the program %s on the PATH: run hack/setup.sh on Debian (amd64)", program)
		}
	}
	cache, err := cacheDir(ctx)
	if err != nil {
		return nil, err
	}
	unlock, err := lock(filepath.Join(cache, "lock"))
	if err != nil {
		return nil, err
	}
	defer unlock()

	key := sha256.Sum256([]byte(fmt.Sprint(packages, rootSize)))
	dir := filepath.Join(cache, fmt.Sprintf("%x", key[:8]))
	image := &Image{Kernel: filepath.Join(dir, "vmlinuz"), Root: filepath.Join(dir, "root.img")}
	if _, err := os.Stat(dir); err != nil {
		if err := build(ctx, dir); err != nil {
			return nil, fmt.Errorf("make the virtual machine: %w", err)
		}
	}
	return image, image.accelerate(ctx, cache)
}

// cacheDir makes and returns the directory of the cache.
func cacheDir(ctx context.Context) (string, error) {
	dir := filepath.Join(os.Getenv("XDG_CACHE_HOME"), "snapdriver", "vm")
	if os.Getenv("XDG_CACHE_HOME") == "" {
		module, err := run(ctx, "go", "env", "GOMOD")
		if err != nil {
			return "", err
		}
		dir = filepath.Join(filepath.Dir(strings.TrimSpace(module)), ".cache", "vm")
	}
	return dir, os.MkdirAll(dir, 0o755)
}

// lock waits for those who make the same image now.
func lock(path string) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX); err != nil {
		_ = file.Close()
		return nil, os.NewSyscallError("flock", err)
	}
	return func() { _ = file.Close() }, nil
}

// build makes the directory of an image.
func build(ctx context.Context, dir string) error {
	work, err := os.MkdirTemp(filepath.Dir(dir), "building-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	root, image := filepath.Join(work, "root"), filepath.Join(work, "image")
	archives, err := download(ctx, filepath.Join(work, "apt"))
	if err != nil {
		return err
	}
	// The mount point of the disk with the programs must be there.
	for _, dir := range []string{image, filepath.Join(root, "vm")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	for _, archive := range archives {
		if _, err := run(ctx, "dpkg-deb", "--extract", archive, root); err != nil {
			return err
		}
	}
	kernel, err := theKernel(root)
	if err != nil {
		return err
	}
	if _, err := run(ctx, "depmod", "--basedir", root, strings.TrimPrefix(filepath.Base(kernel), "vmlinuz-")); err != nil {
		return err
	}
	if err := os.Rename(kernel, filepath.Join(image, "vmlinuz")); err != nil {
		return err
	}
	if err := makeFilesystem(ctx, filepath.Join(image, "root.img"), rootSize, root); err != nil {
		return err
	}
	return os.Rename(image, dir)
}

// download downloads the packages, with apt's knowledge of its sources and
// keys, but with a state of its own, in which nothing is installed. It neither
// needs root nor does it change what apt knows of the host.
func download(ctx context.Context, dir string) (archives []string, err error) {
	for _, needed := range []string{"lists/partial", "archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, needed), 0o755); err != nil {
			return nil, err
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "status"), nil, 0o644); err != nil {
		return nil, err
	}
	apt := func(arguments ...string) error {
		_, err := run(ctx, "apt-get", append([]string{
			"--quiet=2", "--assume-yes", "--no-install-recommends",
			"--option", "Dir::State=" + dir, "--option", "Dir::State::status=" + filepath.Join(dir, "status"), "--option", "Dir::Cache=" + dir,
			"--option", "APT::Sandbox::User=root",
		}, arguments...)...)
		return err
	}
	if err := apt("update"); err != nil {
		return nil, err
	}
	if err := apt(append([]string{"install", "--download-only"}, packages...)...); err != nil {
		return nil, err
	}
	return filepath.Glob(filepath.Join(dir, "archives", "*.deb"))
}

func theKernel(root string) (string, error) {
	kernels, err := filepath.Glob(filepath.Join(root, "boot", "vmlinuz-*"))
	if err == nil && len(kernels) != 1 {
		err = fmt.Errorf("want one kernel in the packages, found %q", kernels)
	}
	if err != nil {
		return "", err
	}
	return kernels[0], nil
}

// makeFilesystem makes an ext4 image of a size in bytes with the content of a
// directory.
func makeFilesystem(ctx context.Context, image string, size int64, content string) error {
	// It is never recovered after a crash and so has no journal.
	_, err := run(ctx, "mkfs.ext4", "-q", "-O", "^has_journal", "-E", "root_owner=0:0", "-m", "0", "-d", content, image, fmt.Sprintf("%dk", size>>10))
	return err
}

// run runs a program of the host and returns its standard output.
func run(ctx context.Context, name string, arguments ...string) (string, error) {
	command := exec.CommandContext(ctx, name, arguments...)
	command.Env = append(os.Environ(), "LC_ALL=C")
	out, err := command.Output()
	if failed := (*exec.ExitError)(nil); errors.As(err, &failed) {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(arguments, " "), err, failed.Stderr)
	}
	return string(out), err
}
