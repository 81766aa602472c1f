package testvm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/snapdriver/snapdriver/internal/testvm/wire"
)

// tail is how much of the console an error shows, in bytes.
const tail = 32 << 10

// Command is a program that runs in the guest.
type Command struct {
	Args           []string // the program, looked up on the guest's PATH, and its arguments
	Env            []string // in addition to the guest's own
	Stdout, Stderr io.Writer
}

// ExitError is how a program failed in a guest that is well.
type ExitError struct{ wire.Ending }

func (e *ExitError) Error() string { return e.Ending.Error }

// Run runs a program and returns when it has ended. Several may run at a time.
// The error is an *ExitError where the program failed. After any other the
// machine is dead, and the error shows what its console said last.
func (v *VM) Run(command Command) error {
	process := &process{Command: command, ended: make(chan wire.Ending, 1)}
	if err := v.request(process); err != nil {
		return v.die(err)
	}
	select {
	case ending := <-process.ended:
		if ending.Error != "" {
			return &ExitError{ending}
		}
		return nil
	case <-v.deaf:
		return v.die(v.deafness)
	}
}

// process is a program that runs now.
type process struct {
	Command
	ended chan wire.Ending
}

func (v *VM) request(process *process) error {
	v.mutex.Lock()
	defer v.mutex.Unlock()
	id := len(v.processes)
	v.processes = append(v.processes, process)
	return v.requests.Encode(wire.Request{ID: id, Args: process.Args, Env: process.Env})
}

// listen passes the replies on until there are no more.
func (v *VM) listen() {
	defer close(v.deaf)
	for v.deafness == nil {
		var reply wire.Reply
		if v.deafness = v.replies.Decode(&reply); v.deafness != nil {
			return
		}
		v.mutex.Lock()
		process := v.processes[reply.ID]
		v.mutex.Unlock()
		v.deafness = errors.Join(write(process.Stdout, reply.Stdout), write(process.Stderr, reply.Stderr))
		if reply.Ended != nil {
			process.ended <- *reply.Ended
		}
	}
}

func write(to io.Writer, data []byte) error {
	if to == nil || len(data) == 0 {
		return nil
	}
	_, err := to.Write(data)
	return err
}

// Dial connects to a unix socket in the guest, as soon as there is one. It may
// be called once.
func (v *VM) Dial(socket string) net.Conn {
	go func() {
		_ = v.Run(Command{Args: []string{"agent", socket}})
		_ = v.dialed.Close()
	}()
	return v.dialed
}

// die ends the machine after an error and says what can be known of its death.
func (v *VM) die(err error) error {
	if cause := context.Cause(v.ctx); cause != nil {
		err = fmt.Errorf("%w (%w)", cause, err)
	}
	v.stop()
	console, _ := os.ReadFile(v.path("console")) // not there where QEMU did not start
	console = console[max(0, len(console)-tail):]
	return fmt.Errorf("the virtual machine has died: %w\nQEMU: %v\n%s\nthe end of the console:\n%s", err, v.process.ProcessState, v.messages.String(), console)
}
