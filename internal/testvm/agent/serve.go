package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"time"

	"github.com/snapdriver/snapdriver/internal/testvm/wire"
)

// serve runs the programs that the host asks for.
func serve() error {
	port, err := openPort(wire.ControlPort)
	if err != nil {
		return err
	}
	replies := &replies{encoder: json.NewEncoder(port)}
	if err := replies.send(wire.Reply{}); err != nil {
		return err
	}
	for requests := json.NewDecoder(port); ; {
		var request wire.Request
		if err := requests.Decode(&request); err != nil {
			return fmt.Errorf("next request: %w", err)
		}
		go func() {
			// Where this fails, so does the next request.
			_ = replies.send(wire.Reply{ID: request.ID, Ended: run(request, replies)})
		}()
	}
}

// openPort waits for a port, which the kernel adds some time after the driver
// has been loaded.
func openPort(number int) (*os.File, error) {
	return await(func() (*os.File, error) { return os.OpenFile(fmt.Sprint("/dev/vport0p", number), os.O_RDWR, 0) })
}

// await repeats open until it succeeds, for a minute.
func await[T any](open func() (T, error)) (T, error) {
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		opened, err := open()
		if err == nil || time.Now().After(deadline) {
			return opened, err
		}
	}
}

func run(request wire.Request, replies *replies) *wire.Ending {
	command := exec.Command(request.Args[0], request.Args[1:]...)
	command.Env = append(os.Environ(), request.Env...)
	command.Stdout = writer(func(p []byte) error { return replies.send(wire.Reply{ID: request.ID, Stdout: p}) })
	command.Stderr = writer(func(p []byte) error { return replies.send(wire.Reply{ID: request.ID, Stderr: p}) })
	command.WaitDelay = 10 * time.Second // for output of what it leaves running
	if err := command.Run(); err != nil {
		return &wire.Ending{Code: command.ProcessState.ExitCode(), Error: err.Error()}
	}
	return &wire.Ending{}
}

// replies sends from several goroutines.
type replies struct {
	mutex   sync.Mutex
	encoder *json.Encoder
}

func (r *replies) send(reply wire.Reply) error {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	return r.encoder.Encode(reply)
}

type writer func(p []byte) error

func (w writer) Write(p []byte) (int, error) { return len(p), w(p) }
