package placement

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"
)

// Config says for which driver claims are placed, and where.
type Config struct {
	// Driver is the driver's name, Node the ID of this node: in Kubernetes the
	// node's name.
	Driver, Node string

	Client dynamic.Interface
}

// How long a claim waits to be looked at: twice as long each time that it is
// found without a node, be it that its source is not there yet, or that the
// driver had no room for it.
const (
	firstDelay = 50 * time.Millisecond
	lastDelay  = 30 * time.Second
)

// Run places claims until ctx ends.
func Run(ctx context.Context, config Config) error {
	p := &placer{
		Config: config,
		queue:  workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[cache.ObjectName](firstDelay, lastDelay)),
	}
	informer, err := p.watch()
	if err != nil {
		return err
	}
	p.claims = informer.GetStore()
	stop := context.AfterFunc(ctx, p.queue.ShutDown)
	defer stop()
	var watching sync.WaitGroup
	watching.Go(func() { informer.RunWithContext(ctx) })
	klog.InfoS("Placing claims", "driver", p.Driver, "node", p.Node)
	for p.next(ctx) {
	}
	watching.Wait()
	return nil
}

type placer struct {
	Config
	claims cache.Store
	queue  workqueue.TypedRateLimitingInterface[cache.ObjectName]
}

// watch makes the informer that fills claims and queue. (What package
// dynamicinformer makes would link the types of every API that there is.)
func (p *placer) watch() (cache.SharedIndexInformer, error) {
	claims := p.Client.Resource(claimResource)
	source := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			return claims.List(ctx, options)
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			return claims.Watch(ctx, options)
		},
	}
	informer := cache.NewSharedIndexInformer(cache.ToListWatcherWithWatchListSemantics(source, p.Client), &unstructured.Unstructured{}, 0, nil)
	err := informer.SetTransform(func(object any) (any, error) {
		if claim, is := object.(*unstructured.Unstructured); is {
			claim.SetManagedFields(nil) // the larger part of an object, and of no use here
		}
		return object, nil
	})
	if err != nil {
		return nil, err
	}
	_, err = informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    p.changed,
		UpdateFunc: func(_, claim any) { p.changed(claim) },
		DeleteFunc: p.gone,
	})
	return informer, err
}

func (p *placer) changed(object any) {
	claim := object.(*unstructured.Unstructured)
	switch {
	case isBound(claim):
		p.gone(claim)
	case waits(claim):
		p.queue.AddRateLimited(cache.MetaObjectToName(claim))
	}
}

func (p *placer) gone(object any) {
	if name, err := cache.DeletionHandlingObjectToName(object); err == nil {
		p.queue.Forget(name)
	}
}

// claim returns a claim as it was when last seen, nil if it is not there.
func (p *placer) claim(name cache.ObjectName) *unstructured.Unstructured {
	object, exists, err := p.claims.GetByKey(name.String())
	if err != nil || !exists {
		return nil
	}
	return object.(*unstructured.Unstructured)
}

// next looks at the next claim in the queue, and says whether there will be
// more.
func (p *placer) next(ctx context.Context) bool {
	name, end := p.queue.Get()
	if end {
		return false
	}
	defer p.queue.Done(name)
	claim := p.claim(name)
	if claim == nil || !waits(claim) {
		return true // it was deleted or placed meanwhile
	}
	switch err := p.place(ctx, claim); {
	case errors.Is(err, errNotOurs):
		p.queue.Forget(name)
	case err != nil:
		klog.V(2).InfoS("Cannot place claim yet", "claim", name, "why", err)
		p.queue.AddRateLimited(name)
	default:
		klog.InfoS("Placed claim on the node of its source", "claim", name, "node", p.Node)
	}
	return true
}

// errNotOurs: the claim is another driver's, or its source is on another node.
var errNotOurs = errors.New("not ours")

// place sends a claim to this node, if its source is here.
func (p *placer) place(ctx context.Context, claim *unstructured.Unstructured) error {
	class, err := p.Client.Resource(classResource).Get(ctx, text(claim, "spec", "storageClassName"), metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("its class: %w", err)
	}
	if text(class, "provisioner") != p.Driver {
		return errNotOurs
	}
	home, err := p.nodeHash(ctx, claim)
	if err != nil {
		return err
	}
	if home != p.hash() {
		return errNotOurs
	}
	return p.selectNode(ctx, claim)
}

// selectNode sets the annotation on a claim, unless somebody has changed the
// claim meanwhile.
func (p *placer) selectNode(ctx context.Context, claim *unstructured.Unstructured) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"resourceVersion": claim.GetResourceVersion(),
		"annotations":     map[string]string{selectedNode: p.Node},
	}})
	if err != nil {
		return err
	}
	_, err = p.Client.Resource(claimResource).Namespace(claim.GetNamespace()).
		Patch(ctx, claim.GetName(), types.MergePatchType, patch, metav1.PatchOptions{})
	return err
}
