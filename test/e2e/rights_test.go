package e2e

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
)

// right is what a program is allowed, or has asked for.
type right struct {
	program               string
	group, resource, verb string // resource: with its subresource, as in a rule
}

// programs are those that the roles of the manifests are for. Some share a
// service account, but each asks under its own name.
var programs = map[string]string{
	"snapdriver-provisioner": "csi-provisioner",
	"snapdriver-topology":    "csi-provisioner",
	"snapdriver-capacity":    "csi-provisioner",
	"snapdriver-snapshotter": "csi-snapshotter",
	"snapdriver-resizer":     "csi-resizer",
	"snapdriver-election":    "csi-resizer",
	"snapdriver-placement":   "snapdriver",
	"snapshot-controller":    "snapshot-controller",
}

// checkRights compares what the programs were allowed with what they have asked
// the apiserver for: they lacked no right, each has used only those of its own
// roles, though all that share a service account have them, and, if all tests
// ran, there is nothing that could be taken away.
func checkRights(allTests bool) error {
	granted, err := grantedRules("overlays/kind", "overlays/distributed", "snapshot-controller")
	if err != nil {
		return err
	}
	used, problems := usedRights()
	for r := range used {
		if !allow(granted[r.program], r) {
			problems = append(problems, fmt.Errorf("%s owes its right to %s %s of %q to a role of another program", r.program, r.verb, r.resource, r.group))
		}
	}
	if allTests {
		problems = append(problems, unneeded(granted, used)...)
	}
	slices.SortFunc(problems, func(a, b error) int { return cmp.Compare(a.Error(), b.Error()) })
	return errors.Join(problems...)
}

// unneeded denies the programs, in a copy of their rules, one rule after the
// other: something that they did has to be forbidden then. And of each rule they
// have used everything.
func unneeded(granted map[string][]rbacv1.PolicyRule, used map[right]bool) (problems []error) {
	for program, rules := range granted {
		for i, rule := range rules {
			rest := slices.Delete(slices.Clone(rules), i, i+1)
			suffices := true
			for r := range used {
				suffices = suffices && (r.program != program || allow(rest, r))
			}
			if suffices {
				problems = append(problems, fmt.Errorf("%s can do without the rule %v", program, rule))
			}
			for _, r := range rightsOf(program, rule) {
				if !used[r] && !excused(r, used) {
					problems = append(problems, fmt.Errorf("%s never uses its right to %s %s of %q", r.program, r.verb, r.resource, r.group))
				}
			}
		}
	}
	return problems
}

// excused says whether a right that was not used has to be there. Who watches
// also lists, unless the server sends the list through the watch; and an event
// that happens again is patched.
func excused(r right, used map[right]bool) bool {
	watch := r
	watch.verb = "watch"
	return r.verb == "list" && used[watch] || r.resource == "events" && r.verb == "patch"
}

// grantedRules reads the roles in directories of deploy/ and returns the rules
// for each program.
func grantedRules(dirs ...string) (map[string][]rbacv1.PolicyRule, error) {
	roles := map[string]rbacv1.ClusterRole{}
	for _, dir := range dirs {
		text, err := kubectl("kustomize", filepath.Join(kube.Root, "deploy", dir))
		if err != nil {
			return nil, err
		}
		documents := utilyaml.NewYAMLOrJSONDecoder(strings.NewReader(text), 4096)
		for {
			var role rbacv1.ClusterRole // a Role has the same fields
			err := documents.Decode(&role)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return nil, err
			}
			if len(role.Rules) > 0 && !slices.Contains(userRoles, role.Name) {
				roles[role.Kind+role.Name] = role // several directories have it
			}
		}
	}
	granted := map[string][]rbacv1.PolicyRule{}
	for _, role := range roles {
		program, known := programs[role.Name]
		if !known {
			return nil, fmt.Errorf("whose is the role %s? Add it to programs", role.Name)
		}
		granted[program] = append(granted[program], role.Rules...)
	}
	return granted, nil
}

// userRoles are for people, whose work no test does in full.
var userRoles = []string{"snapdriver-snapshot-viewer", "snapdriver-snapshot-editor"}

// rightsOf is all that a rule allows.
func rightsOf(program string, rule rbacv1.PolicyRule) (rights []right) {
	for _, group := range rule.APIGroups {
		for _, resource := range rule.Resources {
			for _, verb := range rule.Verbs {
				rights = append(rights, right{program, group, resource, verb})
			}
		}
	}
	return rights
}

// allow says whether one of the rules, in which there are no wildcards, allows it.
func allow(rules []rbacv1.PolicyRule, r right) bool {
	return slices.ContainsFunc(rules, func(rule rbacv1.PolicyRule) bool {
		return slices.Contains(rule.APIGroups, r.group) && slices.Contains(rule.Resources, r.resource) && slices.Contains(rule.Verbs, r.verb)
	})
}

// usedRights reads the apiserver's audit log. What was forbidden is a problem.
func usedRights() (map[right]bool, []error) {
	file, err := os.Open(kube.AuditLog())
	if err != nil {
		return nil, []error{err}
	}
	defer file.Close()
	used, refused := map[right]bool{}, map[right]bool{}
	var problems []error
	lines := bufio.NewReader(file)
	for {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) { // a line that is being written does not count
			return used, problems
		}
		if err != nil {
			return used, append(problems, err)
		}
		var event auditv1.Event
		if err := json.Unmarshal(bytes.TrimSpace(line), &event); err != nil {
			return used, append(problems, fmt.Errorf("%s: %w", kube.AuditLog(), err))
		}
		r, isRight := rightOf(event)
		if !isRight {
			continue
		}
		switch {
		case event.Annotations["authorization.k8s.io/decision"] != "forbid":
			used[r] = true
		case !refused[r] && !duringUndeployment(event):
			refused[r] = true
			problems = append(problems, fmt.Errorf("%s was refused to %s %s of %q: %s", r.program, r.verb, r.resource, r.group, event.RequestURI))
		}
	}
}

// duringUndeployment says whether somebody may lack a right because it was
// taken away together with the driver.
func duringUndeployment(event auditv1.Event) bool {
	return slices.ContainsFunc(undeployments, func(p period) bool {
		return event.RequestReceivedTimestamp.After(p.from) && event.RequestReceivedTimestamp.Time.Before(p.to)
	})
}

func rightOf(event auditv1.Event) (right, bool) {
	program, _, _ := strings.Cut(event.UserAgent, "/")
	known := slices.Contains(slices.Collect(maps.Values(programs)), program)
	object := event.ObjectRef
	if !known || object == nil {
		return right{}, false
	}
	resource := object.Resource
	if object.Subresource != "" {
		resource += "/" + object.Subresource
	}
	return right{program, object.APIGroup, resource, event.Verb}, true
}
