package driver

import (
	"context"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/snapdriver/snapdriver/pkg/driver/faults"
	"github.com/snapdriver/snapdriver/pkg/snapshotcore"
)

// DefaultName is the name of the driver unless it is given another.
const DefaultName = "csi.snapdriver.dev"

// Config is what a Server needs to know.
type Config struct {
	// Endpoint is the Unix socket to serve on: unix:///path, unix:/path or /path.
	Endpoint string

	// SocketGroup is the ID of a group whose members may connect, beside the
	// user of this process; 0: nobody else.
	SocketGroup int

	// Name is the driver's name; two drivers on one node have two names.
	Name string

	// Version is reported as vendor_version and in metrics. Not empty.
	Version string

	// NodeID identifies this node among all nodes; up to 256 bytes.
	NodeID string

	// ExpandOnNode makes NodeExpandVolume grow volumes, and takes
	// ControllerExpandVolume away: for a cluster of nodes, where whoever calls
	// the latter does not know on which node the volume is.
	ExpandOnNode bool

	// MaxVolumesPerNode is reported to the scheduler; 0: no limit.
	MaxVolumesPerNode int64

	// MetricsAddress is where /metrics and /healthz are served over HTTP, as
	// "host:port"; empty: nowhere.
	MetricsAddress string

	// Faults lets classes ask for faults; nil: such classes are refused.
	Faults *faults.Injector

	// PrivateDir is the backend's own directory, an absolute path. A caller's
	// path that overlaps it is refused. Empty: there is none.
	PrivateDir string

	// StopTimeout is how long running calls may take to end when the server
	// stops; 0: ten seconds.
	StopTimeout time.Duration

	// Open opens the core. The server listens already while it runs and answers
	// Probe with ready=false; it closes the core when it stops.
	Open func(context.Context) (*snapshotcore.Core, error)

	// WaitForStorage has Open tried again when it fails, but for ErrInvalid.
	WaitForStorage bool
}

const (
	defaultStopTimeout = 10 * time.Second
	maxNodeID          = 256 // CSI NodeGetInfoResponse.node_id
	maxTopologyPart    = 63  // CSI Topology: prefix of a key, and value
	maxSocketPath      = 107 // sun_path of unix(7), less its final zero
)

// driverName is a DNS name in lower case, as the prefix of a topology key has
// to be (CSI GetPluginInfoResponse.name, Topology).
var driverName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)

// check completes the configuration and says what is wrong with it.
func (c *Config) check() error {
	if c.StopTimeout == 0 {
		c.StopTimeout = defaultStopTimeout
	}
	switch {
	case !driverName.MatchString(c.Name) || len(topologyPrefix+c.Name) > maxTopologyPart:
		return fmt.Errorf("driver name %q: give a DNS name in lower case of at most %d characters, such as %s", c.Name, maxTopologyPart-len(topologyPrefix), DefaultName)
	case c.Version == "":
		return fmt.Errorf("version: it is empty; CSI wants one")
	case c.NodeID == "" || len(c.NodeID) > maxNodeID:
		return fmt.Errorf("node ID %q: give 1 to %d bytes, such as the node's name", c.NodeID, maxNodeID)
	case c.PrivateDir != "" && !filepath.IsAbs(c.PrivateDir):
		return fmt.Errorf("the backend's directory %q: give an absolute path", c.PrivateDir)
	case c.SocketGroup < 0:
		return fmt.Errorf("group of the socket: %d is negative; give the number of a group, or 0 for none", c.SocketGroup)
	case c.MaxVolumesPerNode < 0:
		return fmt.Errorf("maximum of volumes per node: %d is negative; 0 means no limit", c.MaxVolumesPerNode)
	}
	_, err := SocketPath(c.Endpoint)
	return err
}

// SocketPath returns the path of the Unix socket that an endpoint names.
func SocketPath(endpoint string) (string, error) {
	path := endpoint
	if rest, found := strings.CutPrefix(path, "unix:"); found {
		path = strings.TrimPrefix(rest, "//")
	}
	if !filepath.IsAbs(path) {
		return "", fmt.Errorf("endpoint %q: CSI is served on a Unix socket only; give unix:///absolute/path.sock", endpoint)
	}
	if len(path) > maxSocketPath {
		return "", fmt.Errorf("endpoint %q: the path has %d bytes, Linux allows %d for a socket; give a shorter one", endpoint, len(path), maxSocketPath)
	}
	return filepath.Clean(path), nil
}
