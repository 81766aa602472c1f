package importer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"os"
	"path/filepath"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/snapdriver/snapdriver/pkg/backend/hostpath/treecopy"
)

// Config says what is imported and how.
type Config struct {
	// Socket is the driver's unix socket.
	Socket string

	// Archive is a tar file, plain or compressed with gzip or zstd.
	Archive *os.File

	// Size is the size in bytes that a volume made from the snapshot is to have
	// at least; 0: what the files take, and their filesystem, if the volume has
	// one of its own.
	Size int64

	// Directory is where the volume is mounted meanwhile: a directory that the
	// driver sees at the same path. Others may be able to write to it, if it is
	// sticky as /tmp is.
	Directory string
}

// Imported is a snapshot made of an archive.
type Imported struct {
	Driver string // its name
	Node   string // where the snapshot lies
	Handle string // the snapshot's ID
	Digest string // SHA-256 of the archive, hex
	Size   int64  // that a volume made from the snapshot needs at least

	// Before says that an earlier import has made it.
	Before bool
}

const mib = 1 << 20

// maxBytes is how many bytes the files of an archive may have: 1 EiB, of which
// there is no volume.
const maxBytes = 1 << 60

// Run imports an archive.
func Run(ctx context.Context, config Config) (Imported, error) {
	digest, err := digestOf(config.Archive)
	if err != nil {
		return Imported{}, err
	}
	found, err := treecopy.SurveyForeign(ctx, config.Archive)
	if err != nil {
		return Imported{}, err
	}
	if found.Bytes > maxBytes {
		return Imported{}, fmt.Errorf("the files in the archive have %d bytes, more than a volume can have: it is damaged, or made to do harm", found.Bytes)
	}
	size := config.Size
	if size == 0 {
		size = max(1, (found.Bytes+mib-1)/mib) * mib
	} else if size < found.Bytes {
		return Imported{}, fmt.Errorf("size: the files in the archive have %d bytes, %d are too few", found.Bytes, size)
	}
	connection, err := grpc.NewClient("unix://"+config.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return Imported{}, fmt.Errorf("connect to %s: %w", config.Socket, err)
	}
	defer connection.Close()
	imported := Imported{Digest: digest}
	if err := imported.identify(ctx, connection); err != nil {
		return Imported{}, fmt.Errorf("ask the driver at %s who it is: %w", config.Socket, err)
	}
	v := &volume{
		controller: csi.NewControllerClient(connection), node: csi.NewNodeClient(connection),
		name: "import-" + digest, size: size, largest: size, directory: config.Directory,
		// What all imports share that this driver serves, wherever they run.
		locked: filepath.Dir(config.Socket),
	}
	if config.Size == 0 {
		v.largest = largest(size, found.Entries)
	}
	snapshot, before, err := v.snapshotOf(ctx, func(root *os.File) error {
		if err := checkRoom(root, found); err != nil {
			return err
		}
		return treecopy.ReadForeign(ctx, config.Archive, found, root, nil)
	})
	if err != nil {
		return Imported{}, err
	}
	imported.Handle, imported.Size, imported.Before = snapshot.GetSnapshotId(), snapshot.GetSizeBytes(), before
	return imported, nil
}

// identify asks for the names of the driver and of its node.
func (i *Imported) identify(ctx context.Context, connection grpc.ClientConnInterface) error {
	plugin, err := csi.NewIdentityClient(connection).GetPluginInfo(ctx, &csi.GetPluginInfoRequest{})
	if err != nil {
		return err
	}
	node, err := csi.NewNodeClient(connection).NodeGetInfo(ctx, &csi.NodeGetInfoRequest{})
	i.Driver, i.Node = plugin.GetName(), node.GetNodeId()
	return err
}

// snapshotOf returns the snapshot of a volume that fill has filled, and whether
// it was there before. The volume is gone in the end. It waits for the end of any
// other import: one of the same archive would delete the volume, and fill its own
// of that name, between the filling of this one and the snapshot.
func (v *volume) snapshotOf(ctx context.Context, fill func(root *os.File) error) (snapshot *csi.Snapshot, before bool, err error) {
	release, err := lock(ctx, v.locked)
	if err != nil {
		return nil, false, err
	}
	defer func() { err = errors.Join(err, release()) }()
	if err := v.find(ctx); err != nil {
		return nil, false, err
	}
	if err := v.takePlace(); err != nil {
		return nil, false, errors.Join(err, v.delete(context.WithoutCancel(ctx)))
	}
	defer func() { err = errors.Join(err, v.remove(context.WithoutCancel(ctx))) }()
	if snapshot, err = v.snapshot(ctx); err != nil || snapshot != nil {
		return snapshot, true, err
	}
	for {
		// If it is the volume of an import that was cut off, it is not empty.
		if err := errors.Join(v.remove(ctx), v.create(ctx)); err != nil {
			return nil, false, err
		}
		err := v.unpack(ctx, fill)
		if err == nil {
			break
		}
		if v.size >= v.largest || !isFull(err) {
			return nil, false, err
		}
		v.size = min(v.size+max(v.size/4, mib), v.largest)
	}
	snapshot, err = v.cut(ctx)
	return snapshot, false, err
}

// unpack has fill fill the volume.
func (v *volume) unpack(ctx context.Context, fill func(root *os.File) error) error {
	if err := v.publish(ctx); err != nil {
		return err
	}
	root, err := os.Open(v.target())
	if err != nil {
		return err
	}
	if err := errors.Join(fill(root), root.Close()); err != nil {
		return fmt.Errorf("unpack the archive: %w", err)
	}
	return nil
}

// largest is how large a volume is made before an archive counts as one that does
// not fit: twice what a filesystem of its own may need for that many bytes and
// entries. ext4 has an inode for each 16 KiB, and structures that do not depend
// on its size.
func largest(bytes, entries int64) int64 {
	const fixed, inode = 64 * mib, 16 << 10
	if bytes > math.MaxInt64/8 || entries > math.MaxInt64/8/inode {
		return bytes
	}
	return 2 * (bytes + entries*inode + fixed)
}

// isFull says whether an archive has more bytes or files than its volume takes.
func isFull(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// checkRoom says early what would turn out late: ENOSPC where a filesystem has no
// room for an archive.
func checkRoom(root *os.File, archive treecopy.Foreign) error {
	var stat unix.Statfs_t
	if err := unix.Fstatfs(int(root.Fd()), &stat); err != nil {
		return err
	}
	// Of a filesystem that has no limit, the product may be more than fits.
	if more, free := bits.Mul64(stat.Bavail, uint64(stat.Bsize)); more == 0 && free < uint64(archive.Bytes) {
		return fmt.Errorf("the files in the archive have %d bytes, and the volume's filesystem has room for %d: %w", archive.Bytes, free, unix.ENOSPC)
	}
	if stat.Files > 0 && stat.Ffree < uint64(archive.Entries) { // some filesystems do not count
		return fmt.Errorf("the archive has %d files, and the volume's filesystem has room for %d: %w", archive.Entries, stat.Ffree, unix.ENOSPC)
	}
	return nil
}

// digestOf returns the SHA-256 of a file.
func digestOf(file *os.File) (string, error) {
	hash := sha256.New()
	info, err := file.Stat()
	if err != nil {
		return "", err
	}
	if _, err := io.Copy(hash, io.NewSectionReader(file, 0, info.Size())); err != nil {
		return "", fmt.Errorf("read %s: %w", file.Name(), err)
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}
