package treecopy

import (
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

// entryDecoder understands an archive.
type entryDecoder interface {
	// next fills e with the next entry, skipping the data of the last one. The
	// contents have no bytes yet. io.EOF after the last entry.
	next(e *entry) error

	// read reads some of the last entry's data.
	read(buf []byte) error
}

// tarSource reads an archive.
type tarSource struct {
	workers  *workers
	file     *os.File
	progress *backend.Progress
	in       *input
	decoder  entryDecoder

	// ahead is an entry that did not fit into the last batch.
	ahead   entry
	isAhead bool
	atEnd   bool

	// skipped is how much of the last entry's data is passed over here and
	// counted as done by who writes it.
	skipped int64
}

func newTarSource(w *workers, file *os.File, progress *backend.Progress) (*tarSource, error) {
	in, err := openInput(file, progress)
	if err != nil {
		return nil, err
	}
	return &tarSource{workers: w, file: file, progress: progress, in: in, decoder: &decoder{in: in}}, nil
}

// isStream says whether data comes as a stream, and can only be read in order.
func (s *tarSource) isStream() bool { return s.in.section == nil }

func (s *tarSource) next() (*batch, error) {
	var b *batch
	extras := int64(0)
	for {
		if err := s.workers.Err(); err != nil {
			return nil, err
		}
		if err := s.look(); err == io.EOF && b != nil { //nolint:errorlint // as in pump
			return b, nil
		} else if err != nil {
			return nil, err
		}
		dir, _ := split(s.ahead.path)
		single := s.single(&s.ahead)
		if b != nil && (single || b.dir != dir || len(b.entries) == batchEntries || extras >= batchExtras) {
			return b, nil
		}
		if b == nil {
			b = newBatch(dir)
		}
		s.isAhead = false
		extras += s.ahead.extras()
		b.entries = append(b.entries, s.ahead)
		if err := s.locate(b, &b.entries[len(b.entries)-1]); err != nil {
			return nil, err
		}
		if single {
			b.alone = true
			return b, nil
		}
	}
}

// look makes sure that there is an entry ahead.
func (s *tarSource) look() error {
	if s.isAhead {
		return nil
	}
	if s.atEnd {
		return io.EOF
	}
	start := s.in.offset
	err := s.decoder.next(&s.ahead)
	s.isAhead, s.atEnd = err == nil, err == io.EOF //nolint:errorlint // as in pump
	if !s.isStream() {
		s.progress.Add(s.in.offset - start - s.skipped)
	}
	return err
}

// single says whether an entry makes a batch of its own.
func (s *tarSource) single(e *entry) bool {
	return e.isDir() || e.sameAs != "" || s.isStream() && !inMemory(&e.contents)
}

func inMemory(c *contents) bool { return c.size <= smallFile && !c.sparse() }

// locate gives e its bytes, or says where they are.
func (s *tarSource) locate(b *batch, e *entry) error {
	c := &e.contents
	s.skipped = 0
	switch {
	case e.kind() != unix.S_IFREG || len(c.segments) == 0:
	case inMemory(c):
		c.setMemory(b.room(int(c.size)))
		return s.decoder.read(c.memory)
	case s.isStream():
		c.stream = io.LimitReader(decoderData{s.decoder}, c.stored())
	default:
		c.file, s.skipped = int(s.file.Fd()), c.stored()
	}
	return nil
}

// decoderData reads an entry's data in order.
type decoderData struct{ entryDecoder }

func (d decoderData) Read(buf []byte) (int, error) {
	if err := d.read(buf); err != nil {
		return 0, err
	}
	return len(buf), nil
}

func (s *tarSource) close() { s.in.close() }
