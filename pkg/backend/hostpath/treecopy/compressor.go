package treecopy

import (
	"errors"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"
)

// compressor writes zstd to a file. One can go back to a mark in it: there a
// frame begins, and frames that follow each other are one stream (RFC 8878, 3).
type compressor struct {
	*zstd.Encoder
	out   *os.File
	frame int64 // where in out the frame of the last mark begins
}

func newCompressor(out *os.File) (*compressor, error) {
	encoder, err := zstd.NewWriter(out)
	if err != nil {
		return nil, err
	}
	return &compressor{Encoder: encoder, out: out}, nil
}

// mark ends a frame, so that goBack leads here.
func (c *compressor) mark() (err error) {
	if err := c.Close(); err != nil {
		return err
	}
	c.Reset(c.out)
	c.frame, err = c.out.Seek(0, io.SeekCurrent)
	return err
}

// goBack takes back what was written since the mark.
func (c *compressor) goBack() error {
	c.Reset(c.out) // waits for what is still being written
	_, err := c.out.Seek(c.frame, io.SeekStart)
	return errors.Join(err, c.out.Truncate(c.frame))
}
