package testvm

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/internal/testvm/wire"
)

// bootTime is how long the guest may take to become ready, on a busy machine.
const bootTime = 2 * time.Minute

// Config says what a machine has.
type Config struct {
	// Files are the paths of files of the host by their name in the guest,
	// below /vm, which is on the PATH there.
	Files map[string]string

	// Disks outlive the machine. DiskPath tells their names in the guest.
	Disks []*Disk
}

// VM is a running virtual machine.
type VM struct {
	ctx      context.Context
	dir      string
	process  *exec.Cmd
	messages strings.Builder // QEMU's own, to be read when it has ended
	ended    chan struct{}   // closed when QEMU has ended; nil before it starts
	servers  sync.WaitGroup  // of the disks

	control, dialed net.Conn

	mutex     sync.Mutex // of these two
	requests  *json.Encoder
	processes []*process // by ID

	replies  *json.Decoder
	deaf     chan struct{} // closed when there will be no more replies
	deafness error         // why; to be read then
}

// Boot starts a machine and returns when it is ready. It lives until Kill, or
// until the context ends.
func (i *Image) Boot(ctx context.Context, config Config) (*VM, error) {
	dir, err := os.MkdirTemp("", "snapdriver-vm-")
	if err != nil {
		return nil, err
	}
	v := &VM{ctx: ctx, dir: dir, deaf: make(chan struct{})}
	err = v.start(i, config)
	if err == nil {
		err = v.greet()
	}
	if err != nil {
		v.Kill()
		return nil, fmt.Errorf("boot the virtual machine: %w", err)
	}
	return v, nil
}

// start starts QEMU. What it is connected with, it inherits.
func (v *VM) start(image *Image, config Config) error {
	programs := v.path("programs.img")
	if err := makePrograms(v.ctx, programs, config.Files); err != nil {
		return err
	}
	arguments := arguments(image, programs, v.path("console"), len(config.Disks))
	v.process = exec.CommandContext(v.ctx, qemu, arguments...)
	v.process.Env = append(os.Environ(), "TMPDIR="+v.dir) // where it keeps what is written to snapshots
	v.process.Stdout, v.process.Stderr = &v.messages, &v.messages
	v.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // a test that is ended leaves no machine
	defer func() {
		for _, file := range v.process.ExtraFiles {
			_ = file.Close()
		}
	}()
	var err error
	if v.control, err = v.connect(); err != nil {
		return err
	}
	if v.dialed, err = v.connect(); err != nil {
		return err
	}
	for _, disk := range config.Disks {
		connection, err := v.connect()
		if err != nil {
			return err
		}
		v.servers.Go(func() {
			defer connection.Close()
			_ = disk.serve(connection) // the guest sees when its disk is gone
		})
	}
	if err := v.process.Start(); err != nil {
		return err
	}
	v.ended = make(chan struct{})
	go func() {
		_ = v.process.Wait() // its ProcessState says how
		close(v.ended)
	}()
	return nil
}

// connect adds a socket to those that QEMU inherits, and returns the other end.
func (v *VM) connect() (net.Conn, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	v.process.ExtraFiles = append(v.process.ExtraFiles, os.NewFile(uintptr(pair[0]), "QEMU's end"))
	file := os.NewFile(uintptr(pair[1]), "our end")
	defer file.Close()
	return net.FileConn(file)
}

// greet waits until the agent is there.
func (v *VM) greet() error {
	v.requests, v.replies = json.NewEncoder(v.control), json.NewDecoder(v.control)
	err := v.control.SetReadDeadline(time.Now().Add(bootTime))
	if err == nil {
		err = v.replies.Decode(&wire.Reply{})
	}
	if err == nil {
		err = v.control.SetReadDeadline(time.Time{})
	}
	if err != nil {
		return v.die(err)
	}
	go v.listen()
	return nil
}

// Kill ends the machine as a power cut does, and returns when it is dead.
func (v *VM) Kill() {
	v.stop()
	_ = os.RemoveAll(v.dir)
}

func (v *VM) stop() {
	if v.ended != nil {
		_ = v.process.Process.Kill()
		<-v.ended
	}
	for _, connection := range []net.Conn{v.control, v.dialed} {
		if connection != nil {
			_ = connection.Close()
		}
	}
	v.servers.Wait()
}

func (v *VM) path(name string) string { return filepath.Join(v.dir, name) }
