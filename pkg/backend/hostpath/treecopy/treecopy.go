package treecopy

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

// WriteTar writes the tree below root, an open directory, to out, an empty
// regular file, as a PAX tar. Where the filesystem can, out shares the blocks
// of large files with the tree; that needs room for files without a name in
// out's directory. Others may go on changing the tree.
//
// backend.ErrExhausted when there is no room. After an error, out holds
// nothing of use. Neither out nor anything else is synced.
func WriteTar(ctx context.Context, root, out *os.File, progress *backend.Progress) error {
	return writeTar(ctx, root, out, nil, progress)
}

// WriteTarZstd does as WriteTar, but compresses the tar with zstd. It shares
// no blocks.
func WriteTarZstd(ctx context.Context, root, out *os.File, progress *backend.Progress) error {
	stream, err := newCompressor(out)
	if err != nil {
		return err
	}
	return writeTar(ctx, root, out, stream, progress)
}

func writeTar(ctx context.Context, root, out *os.File, stream *compressor, progress *backend.Progress) error {
	w := newWorkers(ctx)
	defer w.cancel(nil)
	m, err := newMover(w, out, progress)
	if err != nil {
		return err
	}
	f, err := newFreezer(out, m)
	if err != nil {
		return err
	}
	from, err := newTreeSource(w, root, f)
	if err != nil {
		return err
	}
	w.countLater(root, progress)
	return classify(w.transfer(from, &tarSink{workers: w, mover: m, freezer: f, file: int(out.Fd()), stream: stream}))
}

// ReadTar makes in root, an empty directory, the tree that WriteTar or
// WriteTarZstd wrote to in. Where the filesystem can, the files share their
// blocks with in. The metadata of root itself are set too.
//
// An archive that is cut off or makes no sense is an error, also when it was
// made to do harm: nothing is written outside root. After an error, root may
// hold part of the tree. backend.ErrExhausted when there is no room.
func ReadTar(ctx context.Context, in, root *os.File, progress *backend.Progress) error {
	w := newWorkers(ctx)
	defer w.cancel(nil)
	from, err := newTarSource(w, in, progress)
	if err != nil {
		return fmt.Errorf("open archive: %w", err)
	}
	if from.isStream() {
		progress = nil // counted where the stream is read
	}
	m, err := newMover(w, root, progress)
	if err != nil {
		from.close()
		return err
	}
	to, err := newTreeSink(w, m, root)
	if err != nil {
		from.close()
		return classify(err)
	}
	return classify(w.transfer(from, to))
}

// CopyTree copies the tree below src to dst, an empty directory, whose own
// metadata are set too. Others may go on changing src. Where the filesystem
// can, the files share their blocks. Errors are as for WriteTar and ReadTar.
func CopyTree(ctx context.Context, src, dst *os.File, progress *backend.Progress) error {
	w := newWorkers(ctx)
	defer w.cancel(nil)
	m, err := newMover(w, dst, progress)
	if err != nil {
		return err
	}
	f, err := newFreezer(dst, m)
	if err != nil {
		return err
	}
	to, err := newTreeSink(w, m, dst)
	if err != nil {
		return classify(err)
	}
	from, err := newTreeSource(w, src, f)
	if err != nil {
		to.close()
		return err
	}
	w.countLater(src, progress)
	return classify(w.transfer(from, to))
}

// classify wraps the backend's sentinel that fits err.
func classify(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w: %w", backend.ErrExhausted, err)
	}
	return err
}
