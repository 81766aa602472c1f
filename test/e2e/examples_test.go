package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// examples applies the files of examples/ and knows which.
type examples struct {
	space
	applied []string
}

// apply applies a file, with old replaced by new in it.
func (e *examples) apply(name string, replace ...string) {
	e.Helper()
	content, err := os.ReadFile(filepath.Join(repository, "examples", name))
	if err != nil {
		e.Fatal(err)
	}
	file := filepath.Join(e.TempDir(), name)
	if err := os.WriteFile(file, []byte(strings.NewReplacer(replace...).Replace(string(content))), 0o644); err != nil {
		e.Fatal(err)
	}
	args := []string{"apply", "-f", file}
	if !strings.Contains(string(content), "kind: Namespace\n") {
		args = append(args, "-n", e.name)
	}
	if _, err := kubectl(args...); err != nil {
		e.Fatal(err)
	}
	e.applied = append(e.applied, name)
}

// TestImportArchive: what the incubator's hostPath plugin left behind, a .tgz
// with the path of the volume in it, becomes a snapshot that can be restored.
func TestImportArchive(t *testing.T) {
	s := newSpace(t)
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "tmp", "volume", "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "tmp", "volume", "sub", "old"), []byte("years ago\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	// As docs/deploy.md has it.
	pipe := exec.Command("sh", "-c", `tar czf - tmp/volume |
		kubectl -n `+driverSpace+` exec -i daemonset/snapdriver -c driver -- snapdriver import - --name=old-data --namespace=`+s.name+` |
		kubectl apply -f -`)
	pipe.Dir = dir
	pipe.Env = append(os.Environ(), "PATH="+kube.Bin+":"+os.Getenv("PATH"), "KUBECONFIG="+kube.Kubeconfig())
	if out, err := pipe.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	s.awaitSnapshot("old-data")
	s.use("restored", directoryKind, small, fromSnapshot("old-data"))
	if got := s.sh("restored", "cat /data/sub/old"); got != "years ago" {
		t.Errorf("restored is %q", got)
	}
	s.kubectl("patch", "volumesnapshotcontent", s.contentOf("old-data").Name, "--type=merge", "-p", `{"spec":{"deletionPolicy":"Delete"}}`)
}

// TestExamples walks every example, in an order in which they build on each
// other, and looks at what the reader is told to expect.
func TestExamples(t *testing.T) {
	e := &examples{space: newSpace(t)}

	e.apply("claim.yaml")
	e.awaitPod("app")
	e.awaitOutput("app", "cat /data/greeting", "hello")
	e.apply("snapshot.yaml")
	if size := e.awaitSnapshot("data-before-upgrade").Status.RestoreSize.String(); size != "1Gi" {
		t.Errorf("restoreSize is %s, want the claim's 1Gi", size)
	}
	e.sh("app", "echo changed >/data/greeting")
	e.apply("restore.yaml")
	e.awaitPod("app-restored")
	e.expectLog("app-restored", "hello")
	e.apply("clone.yaml")
	e.awaitPod("app-clone")
	e.expectLog("app-clone", "changed")

	e.apply("image.yaml")
	e.awaitPod("db")
	e.awaitOutput("db", "cat /data/table", "rows")
	e.apply("restore-larger.yaml")
	e.awaitPod("db-larger")
	e.expectLog("db-larger", "rows")
	if size := e.number("db-larger", "df -Pm /data | awk 'END {print $2}'"); size < 200 || size > 256 {
		t.Errorf("the larger restore has %d MiB, want about 256", size)
	}

	e.apply("block.yaml")
	e.awaitPod("raw")
	e.awaitOutput("raw", "head -n 1 /dev/disk", "written")
	e.apply("block-snapshot.yaml")
	e.awaitPod("raw-restored")
	e.expectLog("raw-restored", "written")

	e.retainAndImport()
	e.ephemeral()
	e.scheduled()
	e.statefulSet()
	e.namespaceUser()
	e.expectAllApplied()
}

func (e *examples) retainAndImport() {
	e.Helper()
	e.apply("retain.yaml")
	e.awaitSnapshot("data-kept")
	content := e.contentOf("data-kept")
	e.kubectl("delete", "volumesnapshot", "data-kept")
	e.kubectl("delete", "volumesnapshotcontent", content.Name) // what is on the disk stays

	e.applyImport(*content.Status.SnapshotHandle)
	e.awaitSnapshot("data-imported")
	e.use("imported", directoryKind, "1Gi", fromSnapshot("data-imported"))
	e.awaitOutput("imported", "cat /data/greeting", "changed")
}

// applyImport makes a VolumeSnapshot of a snapshot that the driver has. Nothing
// of a test shall stay, so the example's Retain becomes Delete. More is as in
// apply.
func (e *examples) applyImport(handle string, more ...string) {
	e.Helper()
	e.apply("import.yaml", append(more, "SNAPSHOT_HANDLE", handle, "namespace: default", "namespace: "+e.name, "Retain", "Delete")...)
}

func (e *examples) ephemeral() {
	e.Helper()
	e.apply("ephemeral.yaml")
	e.awaitPod("scratch")
	e.awaitOutput("scratch", "cat /scratch/result", "intermediate")
	e.kubectl("delete", "pod", "scratch")
	e.await("the claim to go with its pod", func(ctx context.Context) error {
		_, err := core.CoreV1().PersistentVolumeClaims(e.name).Get(ctx, "scratch-scratch", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(errors.New("it is still there"), err)
	})
}

// scheduled runs the job twice within one period, which is longer than an hour
// here: the second snapshot takes the place of the first.
func (e *examples) scheduled() {
	e.Helper()
	e.apply("scheduled.yaml", `"3600"`, `"360000000"`)
	hourly := func() string {
		all := e.kubectl("get", "volumesnapshots", "-o", `jsonpath={range .items[*]}{.metadata.name} {.metadata.uid}{"\n"}{end}`)
		var found []string
		for line := range strings.Lines(all) {
			if strings.HasPrefix(line, "data-hourly-") {
				found = append(found, strings.TrimSpace(line))
			}
		}
		if len(found) != 1 {
			e.Fatalf("want one scheduled snapshot, got %q", found)
		}
		name, uid, _ := strings.Cut(found[0], " ")
		e.awaitSnapshot(name)
		return uid
	}
	run := func(job string) {
		e.kubectl("create", "job", "--from=cronjob/data-snapshots", job)
		e.kubectl("wait", "--for=condition=Complete", "--timeout=120s", "job/"+job)
	}
	run("first")
	first := hourly()
	run("second")
	if hourly() == first {
		e.Error("the second run has left the snapshot of the first")
	}
}

func (e *examples) statefulSet() {
	e.Helper()
	e.apply("statefulset.yaml")
	for _, pod := range []string{"web-0", "web-1"} {
		e.awaitPod(pod)
		e.awaitOutput(pod, "cat /data/starts", pod)
	}
	e.kubectl("delete", "pod", "web-0")
	e.awaitPod("web-0")
	e.awaitOutput("web-0", "cat /data/starts", "web-0\nweb-0")
}

// namespaceUser asks the cluster what the example's user may do.
func (e *examples) namespaceUser() {
	e.Helper()
	team := e.name + "-team"
	e.apply("namespace-user.yaml", "name: team", "name: "+team, "namespace: team", "namespace: "+team)
	e.Cleanup(func() { e.kubectl("delete", "namespace", team) })
	e.kubectl("create", "rolebinding", "guests", "--namespace="+team, "--clusterrole=view", "--serviceaccount="+team+":guest")
	for _, ask := range []struct{ user, namespace, verb, resource, want string }{
		{"developer", team, "create", "volumesnapshots.snapshot.storage.k8s.io", "yes"},
		{"developer", team, "delete", "volumesnapshots.snapshot.storage.k8s.io", "yes"},
		{"developer", team, "create", "persistentvolumeclaims", "yes"},
		{"developer", e.name, "get", "volumesnapshots.snapshot.storage.k8s.io", "no"},
		{"developer", team, "get", "volumesnapshotcontents.snapshot.storage.k8s.io", "no"},
		{"guest", team, "get", "volumesnapshots.snapshot.storage.k8s.io", "yes"},
		{"guest", team, "create", "volumesnapshots.snapshot.storage.k8s.io", "no"},
	} {
		answer, _ := kubectl("-n", ask.namespace, "auth", "can-i", ask.verb, ask.resource, // "no" is exit status 1
			"--as=system:serviceaccount:"+team+":"+ask.user)
		if answer != ask.want {
			e.Errorf("may the %s %s %s in %s? %q, want %s", ask.user, ask.verb, ask.resource, ask.namespace, answer, ask.want)
		}
	}
}

func (e *examples) expectAllApplied() {
	e.Helper()
	files, err := filepath.Glob(filepath.Join(repository, "examples", "*.yaml"))
	if err != nil {
		e.Fatal(err)
	}
	for _, file := range files {
		if !slices.Contains(e.applied, filepath.Base(file)) {
			e.Errorf("no test walks %s", file)
		}
	}
}

// awaitOutput waits until a command in a pod prints what is wanted: a ready pod
// may not have got as far yet.
func (s space) awaitOutput(pod, line, want string) {
	s.Helper()
	s.await(fmt.Sprintf("%q from %s", want, pod), func(context.Context) error {
		got, err := kubectl("-n", s.name, "exec", pod, "--", "sh", "-c", line)
		if err == nil && got != want {
			err = fmt.Errorf("%q", got)
		}
		return err
	})
}

// expectLog waits for the first line of a pod's log and compares it.
func (s space) expectLog(pod, want string) {
	s.Helper()
	s.await("the log of "+pod, func(ctx context.Context) error {
		log, err := core.CoreV1().Pods(s.name).GetLogs(pod, &corev1.PodLogOptions{}).DoRaw(ctx)
		if line, _, _ := strings.Cut(string(log), "\n"); err == nil && line != want {
			err = fmt.Errorf("%q, want %q", line, want)
		}
		return err
	})
}
