package driver

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// hang is a question that is answered when the test says so.
type hang struct {
	asked  atomic.Int32
	answer chan string
}

func (h *hang) question(context.Context) (string, error) {
	h.asked.Add(1)
	return <-h.answer, nil
}

func TestInquiryAnswers(t *testing.T) {
	var open inquiries[int]
	broken := errors.New("broken")
	for _, want := range []error{nil, broken} {
		got, err := open.ask(t.Context(), "key", patience, func(context.Context) (int, error) { return 7, want })
		if got != 7 || !errors.Is(err, want) {
			t.Errorf("%d %v, want 7 %v", got, err, want)
		}
	}
	_, err := open.ask(t.Context(), "key", patience, func(context.Context) (int, error) { panic("a bug") })
	if err == nil || len(open.open) > 0 {
		t.Errorf("after a panic: %v, %d open", err, len(open.open))
	}
}

// TestInquiryHangs: who asks waits no longer than patience, and not at all when
// that has passed already; nothing is asked twice at once.
func TestInquiryHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var open inquiries[string]
		h := &hang{answer: make(chan string)}
		began := time.Now()
		for range 3 {
			if _, err := open.ask(t.Context(), "key", patience, h.question); !errors.Is(err, errNoAnswer) {
				t.Errorf("error %v, want errNoAnswer", err)
			}
		}
		if waited := time.Since(began); waited != patience || h.asked.Load() != 1 {
			t.Errorf("waited %v and asked %d times", waited, h.asked.Load())
		}
		if other, err := open.ask(t.Context(), "other", patience, func(context.Context) (string, error) { return "here", nil }); other != "here" || err != nil {
			t.Errorf("another question: %q %v", other, err)
		}
		h.answer <- "late"
		synctest.Wait()
		go func() { h.answer <- "again" }()
		if again, err := open.ask(t.Context(), "key", patience, h.question); again != "again" || err != nil || h.asked.Load() != 2 {
			t.Errorf("asked again: %q %v, %d times in all", again, err, h.asked.Load())
		}
	})
}

// TestInquiryOutlivesCaller: others who wait for the answer get it.
func TestInquiryOutlivesCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var open inquiries[string]
		h := &hang{answer: make(chan string)}
		first, leave := context.WithCancel(t.Context())
		left := make(chan error)
		go func() {
			_, err := open.ask(first, "key", patience, func(ctx context.Context) (string, error) {
				answer, err := h.question(ctx)
				return answer, errors.Join(err, ctx.Err())
			})
			left <- err
		}()
		synctest.Wait()
		answered := make(chan string)
		go func() {
			answer, err := open.ask(t.Context(), "key", patience, h.question)
			answered <- fmt.Sprint(answer, err)
		}()
		synctest.Wait()
		leave()
		if err := <-left; !errors.Is(err, context.Canceled) {
			t.Errorf("who left got %v", err)
		}
		h.answer <- "here"
		if got := <-answered; got != "here<nil>" || h.asked.Load() != 1 {
			t.Errorf("who stayed got %s, asked %d times", got, h.asked.Load())
		}
	})
}

// TestTooManyInquiries: a storage that never answers takes no more than so many
// threads.
func TestTooManyInquiries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var open inquiries[string]
		answer := make(chan string)
		for n := range maxInquiries {
			go func() {
				_, _ = open.ask(t.Context(), fmt.Sprint(n), patience, func(context.Context) (string, error) { return <-answer, nil })
			}()
		}
		synctest.Wait()
		if _, err := open.ask(t.Context(), "one more", patience, func(context.Context) (string, error) { return "", nil }); !errors.Is(err, errNoAnswer) {
			t.Errorf("error %v, want errNoAnswer", err)
		}
		close(answer)
		synctest.Wait()
		if _, err := open.ask(t.Context(), "one more", patience, func(context.Context) (string, error) { return "", nil }); err != nil {
			t.Error(err)
		}
	})
}
