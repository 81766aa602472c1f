package hostpath

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"k8s.io/utils/exec"

	"github.com/snapdriver/snapdriver/pkg/backend"
	"github.com/snapdriver/snapdriver/pkg/backend/hostpath/treecopy"
)

// fillImage makes the image of a volume.
func (b *Backend) fillImage(ctx context.Context, stage *os.Root, from source, record volumeRecord, progress *backend.Progress) error {
	image, err := stage.OpenFile(imageFile, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer image.Close()
	switch {
	case from.path == "":
		err = grow(image, record.Volume.Capacity)
		if err == nil && record.Layout == layoutImage {
			err = mkfs(ctx, image.Name(), record.FSType)
			if err != nil { // is it the filesystem below? mkfs has words of its own for that
				err = errors.Join(err, image.Sync(), stillWrites(image))
			}
		}
		return err
	case !from.volume.IsZero():
		_, err = b.cut(ctx, from.volume, from.layout, image, progress)
	default:
		err = b.duplicate(ctx, image, from.path, progress)
	}
	if err != nil {
		return err
	}
	return grow(image, record.Volume.Capacity)
}

// duplicate copies an image that nobody writes to.
func (b *Backend) duplicate(ctx context.Context, dst *os.File, from string, progress *backend.Progress) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	src, err := b.root.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	err = treecopy.CloneFile(dst, src)
	if errors.Is(err, treecopy.ErrCannotClone) {
		err = treecopy.CopyFile(ctx, dst, src, progress)
	}
	return err
}

// grow makes an image capacity bytes large, unless it is larger. It never
// shrinks one: what is beyond the capacity on record may be in use; see the
// package comment.
func grow(image *os.File, capacity int64) error {
	info, err := image.Stat()
	if err != nil || info.Size() >= capacity {
		return err
	}
	return image.Truncate(capacity)
}

// mkfs makes a filesystem on a new file, which is the only time and place
// where this program ever makes one. Nothing that could hold data is formatted:
// not a device, not a file that was committed, not what came from a source.
func mkfs(ctx context.Context, file, fsType string) error {
	command := exec.New().CommandContext(ctx, "mkfs."+fsType, append(slices.Clone(filesystems[fsType].mkfs), file)...)
	command.SetEnv(append(os.Environ(), "LC_ALL=C"))
	out, err := command.CombinedOutput()
	if err == nil {
		return nil
	}
	err = fmt.Errorf("mkfs.%s: %w: %s", fsType, err, strings.TrimSpace(string(out)))
	if strings.Contains(string(out), "No space left on device") {
		err = fmt.Errorf("%w: %w", backend.ErrExhausted, err)
	}
	return err
}
