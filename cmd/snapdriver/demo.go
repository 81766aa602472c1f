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
	"github.com/snapdriver/snapdriver/pkg/demo"
	"github.com/snapdriver/snapdriver/pkg/driver"
)

// insideFlag tells the demo that it runs in its own mount namespace already,
// and in which directory.
const insideFlag = "inside"

func demoCommand() *cobra.Command {
	var pause bool
	var inside string
	command := &cobra.Command{
		Use:   "demo",
		Short: "Take and restore a snapshot through the real server, and explain every call",
		Long: `Starts the real server on a temporary directory and, as its client, takes a snapshot of a volume and restores it.
It prints every RPC as it happens, which sidecar would have called it because of which Kubernetes object, and what
changed on disk. It needs no cluster and, where the kernel lets users have namespaces, not even root. Nothing is left behind.`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			if inside == "" {
				return demoOutside(command.Context(), pause)
			}
			return demoInside(command.Context(), inside, pause, command.OutOrStdout())
		},
	}
	command.Flags().BoolVar(&pause, "pause", false, "wait for Enter between the steps")
	command.Flags().StringVar(&inside, insideFlag, "", "")
	_ = command.Flags().MarkHidden(insideFlag) // errs only on an unknown flag
	return command
}

// demoOutside runs the demo in a process with a mount namespace of its own, so
// that its mounts go with it however it ends, and removes what it kept on disk.
func demoOutside(ctx context.Context, pause bool) error {
	dir, err := os.MkdirTemp("", "snapdriver-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	executable, err := os.Executable()
	if err != nil {
		return err
	}
	inner := exec.CommandContext(ctx, executable, "demo", "--"+insideFlag+"="+dir, fmt.Sprintf("--pause=%t", pause))
	inner.Stdin, inner.Stdout, inner.Stderr = os.Stdin, os.Stdout, os.Stderr
	inner.Cancel = func() error { return inner.Process.Signal(syscall.SIGTERM) }
	inner.SysProcAttr = namespace()
	// Pdeathsig means the death of the thread that starts the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := inner.Start(); err != nil {
		return fmt.Errorf("the demo needs mounts of its own, which means root or user namespaces, and the kernel gives this user neither (%w)", err)
	}
	err = inner.Wait()
	switch {
	case ctx.Err() != nil:
		return errors.New("the demo was interrupted; nothing is left behind")
	case err != nil:
		return errors.New("the demo ended early; what went wrong stands above")
	}
	return nil
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

// demoInside starts the server below dir and walks through the story.
func demoInside(ctx context.Context, dir string, pause bool, out io.Writer) error {
	// Else a mount here would propagate to the host.
	if err := syscall.Mount("none", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mounts private: %w", err)
	}
	// The server's log would interrupt the story.
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	pods := filepath.Join(dir, "pods")
	if err := os.Mkdir(pods, 0o755); err != nil {
		return err
	}
	socket := filepath.Join(dir, "csi.sock")
	ctx, stop := context.WithCancelCause(ctx)
	served := make(chan struct{})
	go func() {
		defer close(served)
		stop(serve(ctx, serveOptions{
			driver:      driver.Config{Endpoint: socket, NodeID: hostname(), Name: driver.DefaultName},
			backend:     "hostpath",
			root:        filepath.Join(dir, "root"),
			freezeLimit: hostpath.DefaultFreezeLimit,
		}))
	}()
	err := demo.Run(ctx, demo.Config{
		Socket: socket, Root: filepath.Join(dir, "root"), Pods: pods, Out: out, Pause: pauser(ctx, pause, out),
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
