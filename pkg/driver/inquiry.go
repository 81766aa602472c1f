package driver

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	// patience is how long the storage may take to answer a question: longer
	// than a busy disk does, and short enough for those who ask, Prometheus
	// (10 s) among them.
	patience = 5 * time.Second

	// impatience is patience with further questions once the storage has not
	// answered one: a list of volumes would take hours otherwise.
	impatience = 20 * time.Millisecond

	// maxInquiries is how many questions of one sort may be open at once: a
	// thread hangs on each that the storage never answers.
	maxInquiries = 128
)

// errNoAnswer says that the storage does not answer in time.
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
// been open for longer than patience, or when too many are open.
func (i *inquiries[Answer]) ask(ctx context.Context, key string, patience time.Duration, question func(context.Context) (Answer, error)) (answer Answer, err error) {
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
		return nil, fmt.Errorf("%w: %d questions are open", errNoAnswer, maxInquiries)
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
