package driver

import (
	"regexp"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

const topologyPrefix = "topology."

// topology is where this node is: one segment, for what lies on a node can be
// reached from there only.
type topology struct {
	key, value string
}

// newTopology returns the topology of a node: the key
// topology.<driver name>/node, and as value the node's ID, or a shortened form
// of it with a hash where it is no valid value (CSI Topology).
func newTopology(driver, node string) topology {
	return topology{key: topologyPrefix + driver + "/node", value: topologyValue(node)}
}

var (
	validValue  = regexp.MustCompile(`^[A-Za-z0-9]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?$`)
	invalidRune = regexp.MustCompile(`[^-_.A-Za-z0-9]`)
)

func topologyValue(node string) string {
	if validValue.MatchString(node) {
		return node
	}
	hash := backend.NodeHash(node)
	short := invalidRune.ReplaceAllString(node, "-")
	short = short[:min(len(short), maxTopologyPart-len(hash)-1)]
	return strings.TrimLeft(short+"-"+hash, "-_.")
}

// accessible is accessible_topology of all that lies on this node.
func (t topology) accessible() *csi.Topology {
	return &csi.Topology{Segments: map[string]string{t.key: t.value}}
}

// includes says whether a topology takes this node in: it has no segments but
// ours.
func (t topology) includes(other *csi.Topology) bool {
	for key, value := range other.GetSegments() {
		// Keys are case-insensitive.
		if !strings.EqualFold(key, t.key) || value != t.value {
			return false
		}
	}
	return true
}

// admits says whether a requirement can be met on this node. Where nothing is
// requisite, what is preferred counts: a provisioner on each node asks its own
// driver, and the one on a preferred node will serve.
func (t topology) admits(requirement *csi.TopologyRequirement) bool {
	choices := requirement.GetRequisite()
	if len(choices) == 0 {
		choices = requirement.GetPreferred()
	}
	for _, choice := range choices {
		if t.includes(choice) {
			return true
		}
	}
	return len(choices) == 0
}
