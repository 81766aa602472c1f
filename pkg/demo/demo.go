package demo

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// Config says where the driver is and where to tell the story.
type Config struct {
	// Socket is the driver's unix socket.
	Socket string
	// Store is where the driver keeps its volumes, to show what changes there.
	Store Store
	// Pods is an existing empty directory in which volumes are staged and
	// published, as the kubelet does it in its own directory.
	Pods string

	Out io.Writer
	// Pause is called between the steps; an error from it ends the walk.
	Pause func() error
}

// Run walks through the whole story. It returns an error when the driver does
// not do what the story says. What it made is deleted at its end; when it is
// cut short, what is left lies in the store and in Pods.
func Run(ctx context.Context, config Config) error {
	n := &narrator{Config: config}
	connection, err := grpc.NewClient("unix://"+config.Socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUnaryInterceptor(n.intercept))
	if err != nil {
		return fmt.Errorf("connect to %s: %w", config.Socket, err)
	}
	defer connection.Close()
	w := &walk{
		narrator:   n,
		identity:   csi.NewIdentityClient(connection),
		controller: csi.NewControllerClient(connection),
		node:       csi.NewNodeClient(connection),
		snapshot:   "snapshot-" + uuid.NewString(),
	}
	w.original.name, w.original.pod = "pvc-"+uuid.NewString(), "app"
	w.restored.name, w.restored.pod = "pvc-"+uuid.NewString(), "app-restored"

	if err := w.waitReady(ctx); err != nil {
		return err
	}
	n.printf("%s PODS is %s,\nwhere they are staged and published as in /var/lib/kubelet. Long IDs are cut short.\n", config.Store.introduce(), config.Pods)
	steps := w.steps()
	for i, step := range steps {
		n.begin(i+1, len(steps), step)
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("step %d, %s: %w", i+1, step.title, err)
		}
		n.changes()
		if i+1 < len(steps) {
			if err := config.Pause(); err != nil {
				return err
			}
		}
	}
	return w.checkNothingLeft()
}

// waitReady waits, without a word, until the driver has opened its storage.
func (w *walk) waitReady(ctx context.Context) error {
	w.quiet = true
	defer func() { w.quiet = false }()
	for {
		probe, err := w.identity.Probe(ctx, &csi.ProbeRequest{}, grpc.WaitForReady(true))
		if err != nil || probe.GetReady().GetValue() {
			return err
		}
		time.Sleep(time.Millisecond)
	}
}

// step is one scene: why it happens, and what happens.
type step struct {
	title string
	story string
	do    func(context.Context) error
}

// walk is the state of the story.
type walk struct {
	*narrator
	identity   csi.IdentityClient
	controller csi.ControllerClient
	node       csi.NodeClient

	original, restored volume
	snapshot           string // name
	snapshotID         string
}

// volume is one of the two volumes of the story.
type volume struct {
	name string // the PersistentVolume's
	id   string
	pod  string
}

func (w *walk) staging(v volume) string { return filepath.Join(w.Pods, "staging-"+v.pod) }
func (w *walk) target(v volume) string  { return filepath.Join(w.Pods, v.pod) }

func (w *walk) checkNothingLeft() error {
	left, err := w.Store.left()
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return fmt.Errorf("%s is left after everything was deleted", left[0])
	}
	fmt.Fprintln(w.Out, "\nEverything is deleted; nothing is left on disk. That was the life of a snapshot.")
	return nil
}
