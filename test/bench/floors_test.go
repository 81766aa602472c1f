package bench

import (
	"os"
	"path/filepath"
	"strconv"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/internal/testenv"
)

// floors are what the tools of the machine do with the tree, or the image, of a
// volume, on the same filesystem.
type floors struct {
	c          *client
	filesystem string
	data       string // the tree or the image
	made       string // what a floor makes
}

func newFloors(c *client, filesystem, volume string) *floors {
	return &floors{c, filesystem, c.data(volume), filepath.Join(c.dir, "floor")}
}

// command is a floor: a program that makes f.made.
func (f *floors) command(name, program string, arguments ...string) contender {
	return contender{name: name, prepare: func() (run, undo func()) {
		return func() { testenv.Run(f.c.b, program, arguments...) }, f.remove
	}}
}

func (f *floors) remove() { f.c.check(os.RemoveAll(f.made)) }

// copies are the ways to copy the tree. To copy every block of the fragmented
// file would take a minute each time.
func (f *floors) copies(t tree) (copies []contender) {
	if t.name != fragmented.name {
		copies = append(copies, f.command("cp", "cp", "-a", "--reflink=never", f.data, f.made),
			f.command("tar", "tar", "-C", f.data, "-Scf", f.made, "."))
	}
	if f.filesystem != "ext4" {
		copies = append(copies, f.copy(), f.clone())
	}
	if f.filesystem == "btrfs" {
		copies = append(copies, f.subvolume())
	}
	return copies
}

// copy is the quickest that cp can do: it shares blocks where the filesystem can.
func (f *floors) copy() contender {
	if f.filesystem == "ext4" {
		return f.command("cp", "cp", "-a", f.data, f.made)
	}
	return f.command("cp-reflink", "cp", "-a", "--reflink=always", f.data, f.made)
}

func (f *floors) tarZstd() contender {
	return f.command("tar-zstd", "tar", "-C", f.data, "--zstd", "-Scf", f.made, ".")
}

// clone is a bare FICLONE of each of the tree's files, and nothing else.
func (f *floors) clone() contender {
	return contender{name: "ficlone", prepare: func() (run, undo func()) {
		var files []string
		f.c.check(filepath.WalkDir(f.data, func(path string, entry os.DirEntry, err error) error {
			if err == nil && entry.Type().IsRegular() {
				files = append(files, path)
			}
			return err
		}))
		mustMkdir(f.c.b, f.made)
		return func() {
			for i, file := range files {
				f.c.cloneFile(file, filepath.Join(f.made, strconv.Itoa(i)), false)
			}
		}, f.remove
	}}
}

// subvolume is a snapshot by btrfs of a subvolume that holds the same.
func (f *floors) subvolume() contender {
	subvolume := filepath.Join(f.c.dir, "subvolume")
	if _, err := os.Stat(subvolume); err != nil {
		testenv.Run(f.c.b, "btrfs", "subvolume", "create", subvolume)
		testenv.Run(f.c.b, "cp", "-a", "--reflink=always", f.data, subvolume)
	}
	return contender{name: "subvolume", prepare: func() (run, undo func()) {
		return func() { testenv.Run(f.c.b, "btrfs", "subvolume", "snapshot", subvolume, f.made) },
			func() {
				testenv.Run(f.c.b, "btrfs", "subvolume", "delete", f.made)
				testenv.Run(f.c.b, "btrfs", "subvolume", "sync", f.c.dir)
			}
	}}
}

// extraction is tar's, of an archive of its own.
func (f *floors) extraction() contender {
	archive := f.archive()
	return contender{name: "tar-x", prepare: func() (run, undo func()) {
		mustMkdir(f.c.b, f.made)
		return func() { testenv.Run(f.c.b, "tar", "-C", f.made, "-xf", archive) }, f.remove
	}}
}

// archive is what tar makes of the tree, once.
func (f *floors) archive() (path string) {
	path = filepath.Join(f.c.dir, "floor.tar")
	if _, err := os.Stat(path); err != nil {
		testenv.Run(f.c.b, "tar", "-C", f.data, "-Scf", path, ".")
	}
	return path
}

// removal is rm, of a copy of the tree.
func (f *floors) removal() contender {
	return contender{name: "rm", prepare: func() (run, undo func()) {
		testenv.Run(f.c.b, "cp", "-a", "--reflink=auto", f.data, f.made)
		return func() { testenv.Run(f.c.b, "rm", "-rf", f.made) }, nil
	}}
}

// writing writes an archive of the tree that is already there into one file, and
// syncs it: no archive can be durable sooner.
func (f *floors) writing() contender {
	floor := f.command("dd-fsync", "dd", "if="+f.archive(), "of="+f.made, "bs=1M", "conv=fsync", "status=none")
	floor.durable = true
	return floor
}

// cloning is one FICLONE of a volume's image, an fsync of the clone and one of
// its directory.
func (c *client) cloning(volume string) contender {
	made := filepath.Join(c.dir, "floor")
	return contender{name: "ficlone+fsync", durable: true, prepare: func() (run, undo func()) {
		return func() {
			c.cloneFile(c.data(volume), made, true)
			c.syncFile(c.dir)
		}, func() { c.check(os.Remove(made)) }
	}}
}

// committing is the same, but so that the clone gets its name when all of it is
// durable, and with a record beside it: staged, synced, renamed, synced.
func (c *client) committing(volume string) contender {
	staged, committed := filepath.Join(c.dir, "floor.new"), filepath.Join(c.dir, "floor")
	return contender{name: "ficlone+commit", durable: true, prepare: func() (run, undo func()) {
		return func() {
			mustMkdir(c.b, staged)
			c.cloneFile(c.data(volume), filepath.Join(staged, "image"), true)
			c.check(os.WriteFile(filepath.Join(staged, "record"), make([]byte, 400), 0o600))
			c.syncFile(filepath.Join(staged, "record"))
			c.syncFile(staged)
			c.check(os.Rename(staged, committed))
			c.syncFile(c.dir)
		}, func() { c.check(os.RemoveAll(committed)) }
	}}
}

// freezing flushes, freezes and thaws the filesystem mounted at a target.
func (c *client) freezing(target string) contender {
	return contender{name: "freeze", durable: true, prepare: func() (run, undo func()) {
		return func() { c.freeze(target) }, nil
	}}
}

func (c *client) cloneFile(source, made string, sync bool) {
	from, err := os.Open(source)
	c.check(err)
	defer from.Close()
	to, err := os.Create(made)
	c.check(err)
	defer to.Close()
	c.check(unix.IoctlFileClone(int(to.Fd()), int(from.Fd())))
	if sync {
		c.check(to.Sync())
	}
}

// renaming is the least that a small new file under a new name costs: create,
// write, fsync, rename, fsync of the directory.
func (c *client) renaming() contender {
	staged, committed := filepath.Join(c.dir, "floor.new"), filepath.Join(c.dir, "floor")
	return contender{name: "create-rename", durable: true, prepare: func() (run, undo func()) {
		return func() {
			c.check(os.WriteFile(staged, make([]byte, 400), 0o600))
			c.syncFile(staged)
			c.check(os.Rename(staged, committed))
			c.syncFile(c.dir)
		}, func() { c.check(os.Remove(committed)) }
	}}
}

func (c *client) syncFile(path string) {
	file, err := os.Open(path)
	c.check(err)
	defer file.Close()
	c.check(file.Sync())
}

// binding is one bind mount.
func (c *client) binding() contender {
	target := mustMkdir(c.b, c.targets, "floor")
	return contender{name: "mount", durable: true, prepare: func() (run, undo func()) {
		return func() { c.check(unix.Mount(c.dir, target, "", unix.MS_BIND, "")) },
			func() { c.check(unix.Unmount(target, 0)) }
	}}
}

// probing is an RPC that does nothing.
func (c *client) probing() contender {
	return contender{name: "rpc", durable: true, prepare: func() (run, undo func()) {
		return func() {
			_, err := c.Controller.ControllerGetCapabilities(c.b.Context(), &csi.ControllerGetCapabilitiesRequest{})
			c.check(err)
		}, nil
	}}
}
