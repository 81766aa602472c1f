package treecopy

import (
	"bufio"
	"io"
	"math"
	"os"

	"github.com/klauspost/compress/zstd"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

const (
	// readBuffer is the size of the buffer that an archive is read through.
	readBuffer = 128 << 10

	// zstdMagic begins a zstd frame (RFC 8878, 3.1.1).
	zstdMagic = "\x28\xb5\x2f\xfd"

	// zstdWindow bounds the memory that a compressed archive can ask for.
	zstdWindow = 128 << 20
)

// input is an archive that is read: a file in which data can be skipped and
// cloned, or a stream.
type input struct {
	reader *bufio.Reader

	// section is the file; nil for a stream.
	section *io.SectionReader

	// offset is where in the archive reading is, size where it ends as far as
	// that is known.
	offset, size int64

	close func()
}

// openInput recognises what file is. It counts in progress what a stream takes
// from the file.
func openInput(file *os.File, progress *backend.Progress) (*input, error) {
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	progress.SetTotal(info.Size())
	section := io.NewSectionReader(file, 0, info.Size())
	start := make([]byte, len(zstdMagic))
	if _, err := section.ReadAt(start, 0); err != nil {
		return nil, truncated(err)
	}
	if string(start) != zstdMagic {
		return &input{
			reader: bufio.NewReaderSize(section, readBuffer), section: section, size: info.Size(), close: func() {},
		}, nil
	}
	decoder, err := zstd.NewReader(&countedReader{section, progress}, zstd.WithDecoderMaxWindow(zstdWindow))
	if err != nil {
		return nil, err
	}
	return &input{reader: bufio.NewReaderSize(decoder, readBuffer), size: math.MaxInt64, close: decoder.Close}, nil
}

// read fills buf.
func (in *input) read(buf []byte) error {
	n, err := io.ReadFull(in.reader, buf)
	in.offset += int64(n)
	return truncated(err)
}

// has says whether there can be n more bytes.
func (in *input) has(n int64) error {
	if n > in.size-in.offset {
		return truncated(io.EOF)
	}
	return nil
}

// skip goes on n bytes later.
func (in *input) skip(n int64) error {
	if err := in.has(n); err != nil {
		return err
	}
	in.offset += n
	if in.section != nil && n > int64(in.reader.Buffered()) {
		if _, err := in.section.Seek(in.offset, io.SeekStart); err != nil {
			return err
		}
		in.reader.Reset(in.section)
		return nil
	}
	for n > 0 {
		part, err := in.reader.Discard(int(min(n, math.MaxInt32)))
		if err != nil {
			return truncated(err)
		}
		n -= int64(part)
	}
	return nil
}

// countedReader counts what is read as done.
type countedReader struct {
	io.Reader
	progress *backend.Progress
}

func (r *countedReader) Read(buf []byte) (int, error) {
	n, err := r.Reader.Read(buf)
	r.progress.Add(int64(n))
	return n, err
}
