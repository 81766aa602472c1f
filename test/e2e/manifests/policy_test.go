package manifests

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	core "k8s.io/api/core/v1"
	rbac "k8s.io/api/rbac/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// pinned is an image with a version. A digest would be one image of several
// architectures' and could not be built here.
var pinned = regexp.MustCompile(`^[a-z0-9.-]+\.[a-z]+/[a-z0-9/_-]+:v?[0-9]+\.[0-9]+\.[0-9]+$`)

// TestImages: each image has a version, and is named in one place.
func TestImages(t *testing.T) {
	line := regexp.MustCompile(`(?m)^\s*(?:- )?image: (\S+)`)
	named := map[string]string{}
	for path, text := range sources(t, "deploy") {
		for _, match := range line.FindAllSubmatch(text, -1) {
			image := string(match[1])
			if !pinned.MatchString(image) {
				t.Errorf("%s: %s has no registry or no version", path, image)
			}
			name := image[:strings.LastIndex(image, ":")]
			if before, twice := named[name]; twice {
				t.Errorf("%s is named in %s and in %s", name, before, path)
			}
			named[name] = path
		}
	}
	for path, text := range sources(t, "examples") {
		for name, pod := range pods(decode(t, text)) {
			for _, container := range slices.Concat(pod.InitContainers, pod.Containers) {
				if !pinned.MatchString(container.Image) {
					t.Errorf("%s: %s: %s has no registry or no version", path, name, container.Image)
				}
			}
		}
	}
}

// TestContainersAreConfined: a container of ours runs as nobody, with nothing,
// but for those that are named here; why, their manifests say.
func TestContainersAreConfined(t *testing.T) {
	privileged, root := []string{"driver"}, []string{"driver", "node-driver-registrar"}
	for _, dir := range kustomizations(t) {
		for name, pod := range pods(decode(t, render(t, dir))) {
			if pod.SecurityContext == nil || pod.SecurityContext.SeccompProfile == nil || pod.SecurityContext.SeccompProfile.Type != core.SeccompProfileTypeRuntimeDefault {
				t.Errorf("%s: %s has not the seccomp profile RuntimeDefault", dir, name)
			}
			if pod.HostNetwork || pod.HostPID || pod.HostIPC {
				t.Errorf("%s: %s shares a namespace of the host's", dir, name)
			}
			if pod.PriorityClassName == "" {
				t.Errorf("%s: %s has no priority class", dir, name)
			}
			for _, container := range pod.Containers {
				complaints := confinement(pod.SecurityContext, container, slices.Contains(privileged, container.Name), slices.Contains(root, container.Name))
				for _, complaint := range complaints {
					t.Errorf("%s: %s: %s %s", dir, name, container.Name, complaint)
				}
			}
		}
	}
}

// confinement says how a container is not confined.
func confinement(pod *core.PodSecurityContext, container core.Container, privileged, root bool) (complaints []string) {
	complain := func(yes bool, complaint string) {
		if yes {
			complaints = append(complaints, complaint)
		}
	}
	is := func(b *bool) bool { return b != nil && *b }
	context := container.SecurityContext
	if context == nil {
		return []string{"has no security context"}
	}
	complain(!is(context.ReadOnlyRootFilesystem), "may write to its root filesystem")
	complain(container.Resources.Requests.Cpu().IsZero() || container.Resources.Requests.Memory().IsZero(), "does not say what it needs")
	complain(container.Resources.Limits.Memory().IsZero(), "has no limit of memory")
	complain(container.LivenessProbe == nil && slices.Contains([]string{"driver", "node-driver-registrar", "snapshot-controller"}, container.Name), "has no liveness probe")
	complain(is(context.Privileged) != privileged, "is privileged, or ought to be and is not")
	if privileged {
		return complaints
	}
	complain(context.AllowPrivilegeEscalation == nil || *context.AllowPrivilegeEscalation, "may gain privileges")
	complain(context.Capabilities == nil || !slices.Equal(context.Capabilities.Drop, []core.Capability{"ALL"}) || len(context.Capabilities.Add) > 0, "has capabilities")
	user := pod.RunAsUser
	if context.RunAsUser != nil {
		user = context.RunAsUser
	}
	complain(user == nil || (*user == 0) != root, "runs as root, or ought to and does not")
	complain(!root && !is(context.RunAsNonRoot) && !is(pod.RunAsNonRoot), "may run as root")
	return complaints
}

// TestPrivilegesHaveReasons: where a manifest gives more than it has to, a
// comment beside it says why.
func TestPrivilegesHaveReasons(t *testing.T) {
	privileges := map[string]string{"privileged": "true", "runAsUser": "0", "hostNetwork": "true", "hostPID": "true", "allowPrivilegeEscalation": "true"}
	found := 0
	var check func(path string, node *yaml.Node)
	check = func(path string, node *yaml.Node) {
		if node.Kind == yaml.MappingNode {
			for i := 0; i < len(node.Content); i += 2 {
				key, value := node.Content[i], node.Content[i+1]
				if want, is := privileges[key.Value]; is && value.Value == want {
					found++
					if key.HeadComment+value.LineComment == "" {
						t.Errorf("%s:%d: no comment says why %s is %s", path, key.Line, key.Value, value.Value)
					}
				}
			}
		}
		for _, child := range node.Content {
			check(path, child)
		}
	}
	for path, text := range sources(t, "deploy") {
		decoder := yaml.NewDecoder(strings.NewReader(string(text)))
		for {
			var document yaml.Node
			if decoder.Decode(&document) != nil {
				break
			}
			check(path, &document)
		}
	}
	if found == 0 {
		t.Error("no privilege was found: is this test looking where it should?")
	}
}

// TestRolesAreNarrow: no wildcard, no secret, no way to more rights.
func TestRolesAreNarrow(t *testing.T) {
	for _, dir := range kustomizations(t) {
		for _, object := range decode(t, render(t, dir)) {
			var name string
			var rules []rbac.PolicyRule
			switch o := object.(type) {
			case *rbac.ClusterRole:
				name, rules = o.Name, o.Rules
			case *rbac.Role:
				name, rules = o.Name, o.Rules
			default:
				continue
			}
			for _, rule := range rules {
				words := slices.Concat(rule.APIGroups, rule.Resources, rule.Verbs)
				for _, forbidden := range []string{"*", "secrets", "escalate", "bind", "impersonate", "pods/exec", "clusterroles", "roles"} {
					if slices.Contains(words, forbidden) {
						t.Errorf("%s: %s: a rule has %q", dir, name, forbidden)
					}
				}
			}
		}
	}
}

// TestTokens: only the containers that call the API can.
func TestTokens(t *testing.T) {
	want := map[string]bool{"csi-provisioner": true, "csi-snapshotter": true, "csi-resizer": true, "placement": true}
	for _, dir := range kustomizations(t) {
		pod, is := pods(decode(t, render(t, dir)))["snapdriver"]
		if !is {
			continue
		}
		if pod.AutomountServiceAccountToken == nil || *pod.AutomountServiceAccountToken {
			t.Errorf("%s: every container gets a token", dir)
		}
		got := map[string]bool{}
		for _, container := range pod.Containers {
			for _, mount := range container.VolumeMounts {
				if mount.Name == "api-access" {
					got[container.Name] = true
				}
			}
		}
		for _, container := range pod.Containers {
			if got[container.Name] != want[container.Name] {
				t.Errorf("%s: %s has a token: %v", dir, container.Name, got[container.Name])
			}
		}
	}
}

// TestSettings: what an overlay's settings.yaml says stands nowhere else.
func TestSettings(t *testing.T) {
	copied := filepath.Join(t.TempDir(), "deploy")
	if err := os.CopyFS(copied, os.DirFS(filepath.Join(repository, "deploy"))); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(copied + "/overlays/*/settings.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no settings: %v", err)
	}
	for _, file := range files {
		settings, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for key, value := range map[string]string{"namespace": "elsewhere", "driverName": "other.example", "kubeletDir": "/opt/kubelet"} {
			settings = regexp.MustCompile(`(?m)^  `+key+`: .*$`).ReplaceAll(settings, []byte("  "+key+": "+value))
		}
		if err := os.WriteFile(file, settings, 0o644); err != nil {
			t.Fatal(err)
		}
		text := render(t, filepath.Dir(file))
		decode(t, text)
		for _, old := range []string{"namespace: snapdriver", "csi.snapdriver.dev", "/var/lib/kubelet", "value: DRIVER_NAME", "KUBELET_DIR/", "path: KUBELET_DIR", "mountPath: KUBELET_DIR", "kind: ConfigMap"} {
			if strings.Contains(string(text), old) {
				t.Errorf("%s: %q is still there", file, old)
			}
		}
		for _, part := range []string{"namespace: elsewhere", "name: other.example", "path: /opt/kubelet/plugins/other.example", "path: /opt/kubelet/plugins_registry", "provisioner: other.example", "driver: other.example"} {
			if !strings.Contains(string(text), part) {
				t.Errorf("%s: %q is missing", file, part)
			}
		}
	}
}

// TestTwoDriversInOneCluster: the lvm overlay and another do not take each
// other's objects.
func TestTwoDriversInOneCluster(t *testing.T) {
	names := func(overlay string) map[string]bool {
		found := map[string]bool{}
		for _, object := range decode(t, render(t, filepath.Join(repository, "deploy/overlays", overlay))) {
			if o := object.(meta.Object); o.GetNamespace() == "" {
				found[fmt.Sprintf("%T %s", object, o.GetName())] = true
			}
		}
		return found
	}
	lvm := names("lvm")
	for _, other := range []string{"kind", "distributed"} {
		for name := range names(other) {
			if lvm[name] {
				t.Errorf("lvm and %s both have %s", other, name)
			}
		}
	}
}

// TestProgramKnowsItsFlags: the manifests give our program no flag that it has
// not.
func TestProgramKnowsItsFlags(t *testing.T) {
	checked := 0
	for _, dir := range kustomizations(t) {
		for _, container := range pods(decode(t, render(t, dir)))["snapdriver"].Containers {
			if !strings.Contains(container.Image, "/snapdriver:") {
				continue
			}
			var subcommand []string
			flags := container.Args
			if !strings.HasPrefix(flags[0], "-") {
				subcommand, flags = flags[:1], flags[1:]
			}
			known := help(t, subcommand...)
			for _, arg := range flags {
				checked++
				flag, _, _ := strings.Cut(arg, "=")
				if !regexp.MustCompile(`(?m)^\s+(-v, )?` + flag + `\s`).MatchString(known) {
					t.Errorf("%s: %s gives our program the flag %s, which it has not", dir, container.Name, flag)
				}
			}
		}
	}
	if checked == 0 {
		t.Error("no manifest gives our program a flag")
	}
}

// help returns what our program says of itself or of a subcommand.
func help(t *testing.T, subcommand ...string) string {
	t.Helper()
	cmd := exec.Command("go", append(append([]string{"run", "./cmd/snapdriver"}, subcommand...), "--help")...)
	cmd.Dir = repository
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}

// TestManifestsInDocs: Kubernetes knows all fields of the manifests that the
// docs show.
func TestManifestsInDocs(t *testing.T) {
	docs, err := filepath.Glob(repository + "/docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?ms)^```yaml\n(.*?)^```$")
	found := 0
	for _, path := range docs {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range block.FindAllSubmatch(text, -1) {
			decode(t, match[1])
			found++
		}
	}
	if found == 0 {
		t.Error("no manifest was found: is this test looking where it should?")
	}
}

// TestExamples: each is in the list, and Kubernetes knows all of its fields.
func TestExamples(t *testing.T) {
	list, err := os.ReadFile(repository + "/examples/README.md")
	if err != nil {
		t.Fatal(err)
	}
	for path, text := range sources(t, "examples") {
		decode(t, text)
		if name := filepath.Base(path); !strings.Contains(string(list), "]("+name+") |") {
			t.Errorf("examples/README.md has no line on %s", name)
		}
	}
}
