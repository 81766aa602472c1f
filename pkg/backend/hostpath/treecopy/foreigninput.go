package treecopy

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"errors"
	"io"
	"math"
	"os"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// gzipMagic begins a gzip member of the only method there is (RFC 1952, 2.3.1).
const gzipMagic = "\x1f\x8b\x08"

// foreignInput reads the headers and the data of an archive, of which it
// notices, as tar.Reader does not, when it ends too early.
type foreignInput struct {
	tar    *tar.Reader
	blocks *blockWatch
	close  func()
}

func newForeignInput(file *os.File) (*foreignInput, error) {
	buffered := bufio.NewReaderSize(io.NewSectionReader(file, 0, math.MaxInt64), readBuffer)
	start, err := buffered.Peek(len(zstdMagic))
	if err != nil {
		return nil, truncated(err)
	}
	in := &foreignInput{blocks: &blockWatch{reader: buffered}, close: func() {}}
	switch {
	case strings.HasPrefix(string(start), gzipMagic):
		if in.blocks.reader, err = gzip.NewReader(buffered); err != nil {
			return nil, unreadable(err)
		}
	case string(start) == zstdMagic:
		decoder, err := zstd.NewReader(buffered, zstd.WithDecoderMaxWindow(zstdWindow))
		if err != nil {
			return nil, err
		}
		in.blocks.reader, in.close = decoder, decoder.Close
	}
	in.tar = tar.NewReader(in.blocks)
	return in, nil
}

// header returns the next header that is an entry's. io.EOF after the last.
func (in *foreignInput) header() (*tar.Header, error) {
	for {
		in.blocks.zeros = false
		header, err := in.tar.Next()
		switch {
		case err == io.EOF:
			return nil, err
		case err != nil:
			return nil, unreadable(err)
		case header.Typeflag != tar.TypeXGlobalHeader:
			return header, nil
		}
	}
}

// read reads some of the last entry's data.
func (in *foreignInput) read(buf []byte) error {
	if _, err := io.ReadFull(in.tar, buf); err != nil {
		return unreadable(err)
	}
	return nil
}

// end is called after the last header, when the data of all entries was read.
// It returns io.EOF if the archive has its end mark and the checksum of what
// compressed it is right.
func (in *foreignInput) end() error {
	if !in.blocks.zeros {
		return truncated(io.EOF)
	}
	if _, err := io.Copy(io.Discard, in.blocks.reader); err != nil {
		return unreadable(err)
	}
	return io.EOF
}

// unreadable makes a complaint about the archive of any error of those who
// read it.
func unreadable(err error) error {
	if err = truncated(err); !errors.Is(err, errArchive) {
		err = malformed("%w", err)
	}
	return err
}

// blockWatch knows whether the last that was read is a block of zeros, as the
// end mark has. tar.Reader reads a header in one piece of a block, and what is
// left of an entry when all its data was read is less than a block.
type blockWatch struct {
	reader io.Reader
	zeros  bool
}

// Read fills buf, unless the input ends.
func (w *blockWatch) Read(buf []byte) (int, error) {
	n, err := io.ReadFull(w.reader, buf)
	if n == 0 {
		return 0, err
	}
	w.zeros = n == blockSize && [blockSize]byte(buf[:n]) == zeros
	if err == io.ErrUnexpectedEOF { // what is wrong shows when there is nothing more
		err = nil
	}
	return n, err
}
