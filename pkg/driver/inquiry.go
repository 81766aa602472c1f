package driver

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

const (
	// patience is how long the storage may take to answer a question: longer
	// than a busy disk does, and short enough for those who ask, Prometheus
	// (10 s) among them.
	patience = 5 * time.Second

	// maxInquiries is how many questions may be open at once: a thread hangs
	// on each that the storage never answers.
	maxInquiries = 128
)

// errNoAnswer says that the storage has taken longer than patience.
var errNoAnswer = errors.New("the storage does not answer")

// inquiries asks questions that the storage may never answer, as where a disk
// or a server has gone away. The zero value is ready for use.
type inquiries[Answer any] struct {
	mu   sync.Mutex
	open map[string]*inquiry[Answer] // by key
}

// inquiry is one question. Its answer may be read once done is closed.
type inquiry[Answer any] struct {
	begun  time.Time
	done   chan struct{}
	answer Answer
	err    error
}

// ask returns what question returns. Who asks the same while it is open, which
// is told by the key, gets the same answer, or errNoAnswer as soon as it has
// been open for longer than patience. ErrBusy when too many are open.
func (i *inquiries[Answer]) ask(ctx context.Context, key string, question func(context.Context) (Answer, error)) (answer Answer, err error) {
	open, err := i.join(ctx, key, question)
	if err != nil {
		return answer, err
	}
	timer := time.NewTimer(time.Until(open.begun.Add(patience)))
	defer timer.Stop()
	select {
	case <-open.done:
		return open.answer, open.err
	case <-ctx.Done():
		return answer, ctx.Err()
	case <-timer.C:
		return answer, fmt.Errorf("%w since %s", errNoAnswer, time.Since(open.begun).Round(time.Second))
	}
}

// join returns the open question of that key, or opens one, which outlives the
// caller: others may have joined.
func (i *inquiries[Answer]) join(ctx context.Context, key string, question func(context.Context) (Answer, error)) (*inquiry[Answer], error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if open, asked := i.open[key]; asked {
		return open, nil
	}
	if len(i.open) == maxInquiries {
		return nil, fmt.Errorf("%d questions to the storage are not answered yet; repeat the call later: %w", maxInquiries, backend.ErrBusy)
	}
	if i.open == nil {
		i.open = map[string]*inquiry[Answer]{}
	}
	opened := &inquiry[Answer]{begun: time.Now(), done: make(chan struct{})}
	i.open[key] = opened
	go func() {
		defer func() {
			if p := recover(); p != nil {
				opened.err = panicked(key, p)
			}
			i.mu.Lock()
			defer i.mu.Unlock()
			delete(i.open, key)
			close(opened.done)
		}()
		opened.answer, opened.err = question(context.WithoutCancel(ctx))
	}()
	return opened, nil
}
