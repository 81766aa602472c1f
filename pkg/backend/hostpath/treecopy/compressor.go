package treecopy

import (
	"os"

	"github.com/klauspost/compress/zstd"
)

// compressor writes zstd to a file. One can go back to a mark in it: there a
// frame begins, and frames that follow each other are one stream (RFC 8878, 3).
type compressor struct {
	*zstd.Encoder
	out   *outFile
	frame int64 // where in out the frame of the last mark begins
}

func newCompressor(file *os.File) (*compressor, error) {
	out := &outFile{file: file}
	encoder, err := zstd.NewWriter(out)
	if err != nil {
		return nil, err
	}
	return &compressor{Encoder: encoder, out: out}, nil
}

// mark ends a frame, so that goBack leads here.
func (c *compressor) mark() error {
	if err := c.Close(); err != nil {
		return err
	}
	c.Reset(c.out)
	c.frame = c.out.offset
	return nil
}

// goBack takes back what was written since the mark.
func (c *compressor) goBack() error {
	c.Reset(c.out) // waits for what is still being written
	c.out.offset = c.frame
	return c.out.file.Truncate(c.frame)
}

// outFile is a file that is written from its start on.
type outFile struct {
	file    *os.File
	offset  int64
	flusher flusher
}

func (f *outFile) Write(data []byte) (int, error) {
	n, err := f.file.WriteAt(data, f.offset)
	f.offset += int64(n)
	f.flusher.reached(int(f.file.Fd()), f.offset)
	return n, err
}
