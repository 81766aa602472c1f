package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
)

// space is a namespace of a test's own.
type space struct {
	testing.TB
	name string
}

// newSpace makes a namespace for a test that runs alone. When the test ends the
// namespace is deleted with all that is in it, and nothing may be left: no
// volume, no snapshot, no finalizer, nothing on the node.
func newSpace(t testing.TB) space {
	t.Helper()
	t.Cleanup(func() { expectNothingLeft(t) })
	return newSpaceBesideOthers(t)
}

// newSpaceBesideOthers is for tests that run at the same time. A test that
// failed shows what there was.
func newSpaceBesideOthers(t testing.TB) space {
	t.Helper()
	made, err := core.CoreV1().Namespaces().Create(t.Context(),
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "e2e-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s := space{t, made.Name}
	t.Cleanup(func() {
		if t.Failed() {
			s.dump()
		}
		s.delete()
	})
	s.await("the default service account", func(ctx context.Context) error {
		_, err := core.CoreV1().ServiceAccounts(s.name).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
	return s
}

// delete deletes the namespace and waits until it is gone.
func (s space) delete() {
	s.Helper()
	ctx := context.Background() // the test's own has ended
	err := core.CoreV1().Namespaces().Delete(ctx, s.name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		s.Error(err)
	}
	s.await("the end of the namespace", func(ctx context.Context) error {
		namespace, err := core.CoreV1().Namespaces().Get(ctx, s.name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(fmt.Errorf("it is still there: %v", namespace.Status.Conditions), err)
	})
}

// dump shows what a failed test leaves behind.
func (s space) dump() {
	for _, args := range [][]string{
		{"-n", s.name, "get", "pods,pvc,volumesnapshots", "-o", "wide"},
		{"-n", s.name, "get", "events", "--sort-by=.lastTimestamp"},
		{"get", "pv,volumesnapshotcontents"},
		{"-n", driverSpace, "get", "pods"},
		{"-n", driverSpace, "logs", "-l", driverLabel, "-c", "driver", "--tail=25", "--prefix"},
	} {
		out, err := kubectl(args...)
		s.Logf("kubectl %s\n%s\n%v", strings.Join(args, " "), out, err)
	}
}

// patience is how long something may take that a user would wait for.
const patience = 2 * time.Minute

// await waits until check succeeds, and fails the test with what it said last.
func (s space) await(what string, check func(context.Context) error) {
	s.Helper()
	s.awaitFor(patience, what, check)
}

func (s space) awaitFor(limit time.Duration, what string, check func(context.Context) error) {
	s.Helper()
	if err := poll(limit, check); err != nil {
		s.Fatalf("waited %v for %s: %v", limit, what, err)
	}
}

func poll(limit time.Duration, check func(context.Context) error) error {
	last := errors.New("never looked")
	err := wait.PollUntilContextTimeout(context.Background(), 250*time.Millisecond, limit, true, func(ctx context.Context) (bool, error) {
		if err := check(ctx); err == nil || ctx.Err() == nil {
			last = err
		}
		return last == nil, nil
	})
	if err != nil {
		return last
	}
	return nil
}

// kubectl runs kubectl in the namespace.
func (s space) kubectl(args ...string) string {
	s.Helper()
	out, err := kubectl(append([]string{"-n", s.name}, args...)...)
	if err != nil {
		s.Fatal(err)
	}
	return out
}

// sh runs a command line in a pod and returns what it printed.
func (s space) sh(pod, line string) string {
	s.Helper()
	return s.kubectl("exec", pod, "--", "sh", "-c", line)
}

func (s space) awaitPod(name string) {
	s.Helper()
	s.awaitPodFor(patience, name)
}

func (s space) awaitPodFor(limit time.Duration, name string) {
	s.Helper()
	s.awaitFor(limit, "pod "+name+" to be ready", func(ctx context.Context) error {
		pod, err := core.CoreV1().Pods(s.name).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		return podReady(pod)
	})
}

func podReady(pod *corev1.Pod) error {
	ready := slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
	if !ready {
		return fmt.Errorf("%s: %v", pod.Status.Phase, pod.Status.Conditions)
	}
	return nil
}

func (s space) awaitClaim(name string, done func(*corev1.PersistentVolumeClaim) bool) {
	s.Helper()
	s.await("claim "+name, func(ctx context.Context) error {
		claim, err := core.CoreV1().PersistentVolumeClaims(s.name).Get(ctx, name, metav1.GetOptions{})
		if err == nil && !done(claim) {
			err = fmt.Errorf("its status is %v", claim.Status)
		}
		return err
	})
}

// awaitSnapshot waits until a snapshot can be restored, and returns it.
func (s space) awaitSnapshot(name string) *snapshotv1.VolumeSnapshot {
	s.Helper()
	var found *snapshotv1.VolumeSnapshot
	s.await("snapshot "+name+" to be ready to use", func(ctx context.Context) (err error) {
		found, err = snaps.SnapshotV1().VolumeSnapshots(s.name).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		status := found.Status
		switch {
		case status == nil:
			return errors.New("it has no status")
		case status.Error != nil && status.Error.Message != nil:
			return errors.New(*status.Error.Message)
		case status.ReadyToUse == nil || !*status.ReadyToUse:
			return errors.New("readyToUse is not true")
		}
		return nil
	})
	return found
}

// awaitEvent waits for a warning about an object whose message contains text.
func (s space) awaitEvent(object, text string) {
	s.Helper()
	s.awaitEventIn(s.name, object, text)
}

func (s space) awaitEventIn(namespace, object, text string) {
	s.Helper()
	s.await(fmt.Sprintf("an event of %s with %q", object, text), func(ctx context.Context) error {
		events, err := core.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=" + object})
		if err != nil {
			return err
		}
		var messages []string
		for _, event := range events.Items {
			if event.Type == corev1.EventTypeWarning && strings.Contains(event.Message, text) {
				return nil
			}
			messages = append(messages, event.Message)
		}
		return fmt.Errorf("there are %q", messages)
	})
}
