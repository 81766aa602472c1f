package treecopy

import (
	"context"
	"errors"
	"io"
	"runtime"
	"slices"
	"sync"
)

const (
	// batchEntries is how many entries travel together: enough to make the
	// handing over cheap, few enough to keep all workers busy.
	batchEntries = 64

	// batchFiles is how many files a batch holds open. As some thirty batches
	// wait to be put down at most, that bounds the descriptors of a copy.
	batchFiles = 4

	// batchExtras is how many bytes of paths, attributes and segments end a
	// batch. One entry may have more.
	batchExtras = 1 << 20

	// batchMemory is the size of the buffer for small files in a batch.
	batchMemory = 256 << 10
)

// parallel returns how many goroutines read or make files at once.
func parallel() int { return max(2, min(runtime.NumCPU(), 4)) }

// batch is a directory, or several other entries that lie in one directory.
type batch struct {
	dir     string // the path of that directory
	entries []entry
	memory  []byte

	// alone says that the batch must be put down after all before it and
	// before the next one is made: it has a hard link, or reads a stream.
	alone bool

	// For reading from a tree: what is to be read, and when that is done.
	// Names that are left then are for the next batch.
	from  *directory
	names []string
	ready chan struct{}
}

// batches are used again, for the sake of their memory.
var batches = sync.Pool{New: func() any { return new(batch) }}

func newBatch(dir string) *batch {
	b := batches.Get().(*batch)
	*b = batch{dir: dir, entries: b.entries[:0], memory: b.memory[:0]}
	return b
}

// add appends an empty entry and returns it.
func (b *batch) add() *entry {
	b.entries = append(b.entries, entry{contents: contents{file: noFile}})
	return &b.entries[len(b.entries)-1]
}

// room returns n bytes for the contents of an entry.
func (b *batch) room(n int) []byte {
	if cap(b.memory)-len(b.memory) < n {
		// Entries go on referring to what was there before.
		b.memory = make([]byte, 0, max(n, batchMemory))
	}
	b.memory = b.memory[:len(b.memory)+n]
	return b.memory[len(b.memory)-n:]
}

// isSmall says whether all files of the batch are in memory.
func (b *batch) isSmall() bool {
	return !slices.ContainsFunc(b.entries, func(e entry) bool { return len(e.contents.segments) > 0 && e.contents.memory == nil })
}

// held returns how many bytes of files the batch has in memory.
func (b *batch) held() (sum int64) {
	for i := range b.entries {
		sum += int64(len(b.entries[i].contents.memory))
	}
	return sum
}

// extras returns what its entries take beside that.
func (b *batch) extras() (sum int64) {
	for i := range b.entries {
		sum += b.entries[i].extras()
	}
	return sum
}

// free closes what the entries hold open and gives the batch away.
func (b *batch) free() {
	for i := range b.entries {
		b.entries[i].contents.close()
	}
	if b.from != nil {
		b.from.release()
	}
	clear(b.entries) // what they had in memory is not kept with the batch
	batches.Put(b)
}

// source makes batches in the order of the archive, a directory before what
// is in it, the root first.
type source interface {
	// next returns io.EOF after the last batch.
	next() (*batch, error)

	// close ends reading, whether it was at the end or not.
	close()
}

// sink puts batches down.
type sink interface {
	// put takes the batch over. It may return before the batch is put down,
	// unless that is alone.
	put(b *batch) error

	// finish ends the copy after the last batch.
	finish() error

	// close lets go of everything, whether finished or not.
	close()
}

// workers is a group of goroutines for one copy. The first error of any of
// them ends them all.
type workers struct {
	context.Context
	cancel  context.CancelCauseFunc
	running sync.WaitGroup
}

func newWorkers(ctx context.Context) *workers {
	w := new(workers)
	w.Context, w.cancel = context.WithCancelCause(ctx)
	return w
}

// fail ends the copy, if there is an error. A goroutine calls it before it
// does anything that tells others that it has done its part (closes a channel,
// leaves a group): they look for an error only then, and would take what is
// half done for the whole.
func (w *workers) fail(err error) {
	if err != nil {
		w.cancel(err)
	}
}

// transfer moves all batches from one side to the other and waits for the
// workers of both.
func (w *workers) transfer(from source, to sink) error {
	w.cancel(pump(from, to))
	from.close()
	to.close()
	w.running.Wait()
	// The first error counts: the others are its consequences.
	if cause := context.Cause(w); !errors.Is(cause, errDone) {
		return cause
	}
	return nil
}

// errDone ends a copy that has succeeded.
var errDone = errors.New("done")

func pump(from source, to sink) error {
	for {
		b, err := from.next()
		if err == io.EOF { //nolint:errorlint // wrapped, it is no end but an error
			err = to.finish()
			if err == nil {
				err = errDone
			}
			return err
		}
		if err == nil {
			err = to.put(b)
		}
		if err != nil {
			return err
		}
	}
}
