package faults

import (
	"context"
	"fmt"
	"path"
	"sync"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"k8s.io/klog/v2"

	"github.com/snapdriver/snapdriver/pkg/backend"
	"github.com/snapdriver/snapdriver/pkg/snapshotcore"
)

// Injector makes creations go wrong whose class asks for it. A nil Injector
// refuses them.
type Injector struct {
	crash func()

	mu sync.Mutex
	// failed counts, for what does not exist yet, the attempts that a fault has
	// made fail. One that is given up stays for as long as the process does.
	failed map[string]int
}

// New returns an Injector, and says so in the log for nobody to miss it. crash
// ends the process at once.
func New(crash func()) *Injector {
	klog.Warning("FAULTS ARE ENABLED (--enable-faults): any StorageClass or VolumeSnapshotClass may make this driver fail, hang and crash. Not for data that matter.")
	return &Injector{crash: crash, failed: map[string]int{}}
}

// Intercept takes the fault that a class asks for out of a request, and lets it
// act on what the request is to create.
func (i *Injector) Intercept(ctx context.Context, request any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	text, asked := parameterOf(request)
	if !asked {
		return next(ctx, request)
	}
	if i == nil {
		return nil, fmt.Errorf("parameters: %s: faults are not enabled on this driver; start it with --enable-faults, or use a class without the parameter: %w", parameter, backend.ErrInvalid)
	}
	wanted, err := parse(text)
	if err != nil {
		return nil, err
	}
	method := path.Base(info.FullMethod)
	act := &action{fault: wanted, injector: i}
	switch r := request.(type) {
	case *csi.GetCapacityRequest, *csi.ValidateVolumeCapabilitiesRequest:
		return next(ctx, without(request)) // they ask what the class could do; nothing is created
	case *csi.CreateVolumeRequest:
		if wanted.kind == notReady {
			return nil, fmt.Errorf("parameters: %s: %s is for snapshots, a volume is always ready: %w", parameter, notReady, backend.ErrInvalid)
		}
		act.subject = method + " " + r.GetName()
	case *csi.CreateSnapshotRequest:
		act.subject = method + " " + r.GetName()
	default:
		return nil, fmt.Errorf("parameters: %s: there are no faults of %s: %w", parameter, method, backend.ErrInvalid)
	}
	if wanted.kind == hang {
		act.log()
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return next(context.WithValue(ctx, key{}, act), without(request))
}

// parameterOf returns the fault that a request asks for, as it was given.
func parameterOf(request any) (text string, asked bool) {
	if r, has := request.(interface{ GetParameters() map[string]string }); has {
		text, asked = r.GetParameters()[parameter]
	}
	return text, asked
}

// without returns the request without the parameter. The original stays as it
// is, for the log.
func without(request any) any {
	clone := proto.Clone(request.(proto.Message))
	delete(clone.(interface{ GetParameters() map[string]string }).GetParameters(), parameter)
	return clone
}

// key is the one of the action in the context of a call.
type key struct{}

// Around is what the fault of this call does around a creation; nil: there is
// no fault.
func Around(ctx context.Context) snapshotcore.Around {
	if act, has := ctx.Value(key{}).(*action); has {
		return act.around
	}
	return nil
}

// ReadyAfter is how long the snapshot that this call creates is to count as
// not ready.
func ReadyAfter(ctx context.Context) time.Duration {
	if act, has := ctx.Value(key{}).(*action); has && act.kind == notReady {
		return act.duration
	}
	return 0
}

// action is a fault that acts on the creation of one object.
type action struct {
	fault
	injector *Injector
	subject  string // what is created
}

func (a *action) log() { klog.InfoS("Fault", "kind", a.kind, "of", a.subject) }

// around implements snapshotcore.Around. It is called for new objects only:
// one that exists has been acknowledged, and is answered without a fault.
func (a *action) around(ctx context.Context, work func() error) error {
	a.log()
	switch a.kind {
	case slow:
		select {
		case <-time.After(a.duration):
		case <-ctx.Done():
			return ctx.Err()
		}
	case failing:
		if err := a.fail(); err != nil {
			return err
		}
	}
	if err := work(); err != nil {
		return err
	}
	if a.kind == crashAfterCommit {
		a.injector.crash()
	}
	a.injector.forget(a.subject)
	return nil
}

// fail returns the error that the class asks for, or nil when it was returned
// as often as the class says.
func (a *action) fail() error {
	i := a.injector
	i.mu.Lock()
	defer i.mu.Unlock()
	if a.times == 0 {
		return status.Errorf(a.code, "fault: %s, every time", a.code)
	}
	if i.failed[a.subject] >= a.times { // more, where the class was another then
		return nil
	}
	i.failed[a.subject]++
	return status.Errorf(a.code, "fault: %s, time %d of %d", a.code, i.failed[a.subject], a.times)
}

// forget ends the count for what exists now.
func (i *Injector) forget(subject string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	delete(i.failed, subject)
}
