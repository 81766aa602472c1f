package backendtest

import (
	"runtime"
	"sync"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

// crash stops an operation for ever before its step n.
type crash struct {
	n       int
	at      string
	mu      sync.Mutex
	armed   bool
	reached chan struct{}
	buried  chan struct{}
	dead    sync.WaitGroup
}

func newCrash(n int) *crash {
	return &crash{n: n, reached: make(chan struct{}), buried: make(chan struct{})}
}

// arm makes the steps count from now on: those of the operation, and not of
// the Recover before it.
func (c *crash) arm() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.armed = true
}

// step is the backend's StepFunc. A dead process does nothing any more: the
// goroutine stays here until the test is over, and then ends without returning.
func (c *crash) step(name string) {
	c.mu.Lock()
	if !c.armed {
		c.mu.Unlock()
		return
	}
	c.n--
	if c.n == 0 {
		c.at = name
		close(c.reached)
	}
	dead := c.n <= 0
	c.mu.Unlock()
	if dead {
		<-c.buried
		runtime.Goexit()
	}
}

// run runs an operation until it ends or crashes.
func (c *crash) run(b backend.Backend, op func(backend.Backend) error) (crashed bool, err error) {
	ended := make(chan error, 1)
	c.dead.Go(func() { ended <- op(b) })
	select {
	case err := <-ended:
		c.mu.Lock()
		defer c.mu.Unlock()
		c.armed = false
		return false, err
	case <-c.reached:
		return true, nil
	}
}

// bury ends the stopped goroutine, whose deferred clean-ups now run, late.
func (c *crash) bury() {
	close(c.buried)
	c.dead.Wait()
}
