package backend

import "sync/atomic"

// Progress counts the bytes of one long copy. The one who copies writes it,
// anybody may read it meanwhile. A nil *Progress counts nothing.
type Progress struct {
	done, total atomic.Int64
}

// Add counts n more bytes as done.
func (p *Progress) Add(n int64) {
	if p != nil {
		p.done.Add(n)
	}
}

// SetTotal says how many bytes there are in all; zero means not known yet.
func (p *Progress) SetTotal(n int64) {
	if p != nil {
		p.total.Store(n)
	}
}

// Bytes returns how many bytes are done and how many there are in all, which
// is zero while that is not known.
func (p *Progress) Bytes() (done, total int64) {
	if p == nil {
		return 0, 0
	}
	return p.done.Load(), p.total.Load()
}
