package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"

	"github.com/spf13/cobra"
	"k8s.io/klog/v2"

	"github.com/snapdriver/snapdriver/pkg/backend/hostpath"
	"github.com/snapdriver/snapdriver/pkg/backend/lvm"
	"github.com/snapdriver/snapdriver/pkg/demo"
	"github.com/snapdriver/snapdriver/pkg/driver"
)

// insideFlag tells the demo that it runs in its own mount namespace already,
// and in which directory.
const insideFlag = "inside"

// demoPoolSize is in bytes.
const demoPoolSize = 256 << 20

func demoCommand() *cobra.Command {
	var d demonstration
	command := &cobra.Command{
		Use:   "demo",
		Short: "Take and restore a snapshot through the real server, and explain every call",
		Long: `Starts the real server on a temporary directory and, as its client, takes a snapshot of a volume and restores it.
It prints every RPC as it happens, which sidecar would have called it because of which Kubernetes object, and what
changed on disk. It needs no cluster and, where the kernel lets users have namespaces, not even root. Nothing is left behind.

With --backend=lvm it makes a volume group on a loop device, which needs root and a kernel with thin pools.`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			if d.dir == "" {
				return d.outside(command.Context())
			}
			return d.inside(command.Context(), command.OutOrStdout())
		},
	}
	flags := command.Flags()
	flags.StringVar(&d.backend, "backend", "hostpath", "what keeps the volumes: hostpath or lvm")
	flags.BoolVar(&d.pause, "pause", false, "wait for Enter between the steps")
	flags.StringVar(&d.dir, insideFlag, "", "")
	_ = flags.MarkHidden(insideFlag) // errs only on an unknown flag
	return command
}

// demonstration is one run of the demo.
type demonstration struct {
	backend string
	pause   bool
	dir     string // for everything that it keeps on disk
}

// outside runs the demo in a process with a mount namespace of its own, so that
// its mounts go with it however it ends, and removes what it kept on disk.
func (d demonstration) outside(ctx context.Context) (err error) {
	d.dir, err = os.MkdirTemp("", "snapdriver-demo-")
	if err != nil {
		return err
	}
	if d.backend == "lvm" {
		if err := d.makePool(ctx); err != nil {
			err = fmt.Errorf("the demo of the lvm backend cannot run here: %w", err)
			return errors.Join(err, os.Remove(d.dir)) // it is empty, unless a loop file is still in use
		}
	}
	err = d.runInside(ctx)
	if d.backend == "lvm" {
		// The loop file must not go before what lies on it.
		if err := lvm.Remove(context.WithoutCancel(ctx), d.pool()); err != nil {
			return fmt.Errorf("what the demo has made is left behind in %s: %w", d.dir, err)
		}
	}
	if err := os.RemoveAll(d.dir); err != nil {
		return fmt.Errorf("what the demo has made is left behind: %w", err)
	}
	switch {
	case ctx.Err() != nil:
		return errors.New("the demo was interrupted; nothing is left behind")
	case errors.As(err, new(*exec.ExitError)):
		return errors.New("the demo ended early; what went wrong stands above")
	}
	return err
}

// pool is the thin pool of a demo of the lvm backend.
func (d demonstration) pool() lvm.InitOptions {
	return lvm.InitOptions{
		VolumeGroup: filepath.Base(d.dir), ThinPool: "pool", LoopFile: filepath.Join(d.dir, "pool.img"), Size: demoPoolSize,
	}
}

func (d demonstration) makePool(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return errors.New("it makes a volume group, which takes root")
	}
	if err := lvm.CheckSupport(); err != nil {
		return err
	}
	_, err := lvm.Init(ctx, d.pool())
	return err
}

// runInside starts the process inside and waits for its end.
func (d demonstration) runInside(ctx context.Context) error {
	executable, err := os.Executable()
	if err != nil {
		return err
	}
	inner := exec.CommandContext(ctx, executable, "demo", "--"+insideFlag+"="+d.dir, "--backend="+d.backend, fmt.Sprintf("--pause=%t", d.pause))
	inner.Stdin, inner.Stdout, inner.Stderr = os.Stdin, os.Stdout, os.Stderr
	inner.Cancel = func() error { return inner.Process.Signal(syscall.SIGTERM) }
	inner.SysProcAttr = namespace()
	// Pdeathsig means the death of the thread that starts the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := inner.Start(); err != nil {
		return fmt.Errorf("the demo needs mounts of its own, which means root or user namespaces, and the kernel gives this user neither (%w)", err)
	}
	return inner.Wait()
}

// namespace is a mount namespace and, for an ordinary user, a user namespace
// around it in which the user is root.
func namespace() *syscall.SysProcAttr {
	attributes := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() != 0 {
		attributes.Cloneflags |= syscall.CLONE_NEWUSER
		attributes.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		attributes.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	return attributes
}

// inside starts the server and walks through the story.
func (d demonstration) inside(ctx context.Context, out io.Writer) error {
	// Else a mount here would propagate to the host.
	if err := syscall.Mount("none", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mounts private: %w", err)
	}
	// The server's log would interrupt the story.
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	pods := filepath.Join(d.dir, "pods")
	if err := os.Mkdir(pods, 0o755); err != nil {
		return err
	}
	options, store := d.server()
	ctx, stop := context.WithCancelCause(ctx)
	served := make(chan struct{})
	go func() {
		defer close(served)
		stop(serve(ctx, options))
	}()
	err := demo.Run(ctx, demo.Config{
		Socket: options.driver.Endpoint, Store: store, Pods: pods, Out: out, Pause: pauser(ctx, d.pause, out),
	})
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		err = cause // the server's own error says more than that it is not there
	}
	interrupted := errors.Is(err, context.Canceled)
	stop(nil)
	<-served
	if interrupted {
		return nil // the process outside says so
	}
	return err
}

// server returns the options of the server, and where it keeps its volumes.
func (d demonstration) server() (serveOptions, demo.Store) {
	o := serveOptions{
		driver:      driver.Config{Endpoint: filepath.Join(d.dir, "csi.sock"), NodeID: hostname(), Name: driver.DefaultName},
		backend:     d.backend,
		root:        filepath.Join(d.dir, "root"),
		freezeLimit: hostpath.DefaultFreezeLimit,
	}
	if d.backend != "lvm" {
		return o, demo.Directory(o.root)
	}
	pool := d.pool()
	o.lvm = lvm.Options{VolumeGroup: pool.VolumeGroup, ThinPool: pool.ThinPool, LockDir: filepath.Join(d.dir, "lock")}
	return o, demo.VolumeGroup(pool.VolumeGroup)
}

// pauser returns what the demo does between two steps: wait for Enter, if it
// is to pause. The end of the input counts as Enter for ever.
func pauser(ctx context.Context, pause bool, out io.Writer) func() error {
	if !pause {
		return ctx.Err
	}
	lines := make(chan struct{})
	go func() {
		defer close(lines)
		for scanner := bufio.NewScanner(os.Stdin); scanner.Scan(); {
			lines <- struct{}{}
		}
	}()
	return func() error {
		fmt.Fprint(out, "  -- Enter --")
		select {
		case <-lines:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
