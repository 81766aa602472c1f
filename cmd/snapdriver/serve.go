package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/klog/v2"

	"github.com/snapdriver/snapdriver/pkg/backend"
	"github.com/snapdriver/snapdriver/pkg/backend/hostpath"
	"github.com/snapdriver/snapdriver/pkg/backend/lvm"
	"github.com/snapdriver/snapdriver/pkg/driver"
	"github.com/snapdriver/snapdriver/pkg/driver/faults"
	"github.com/snapdriver/snapdriver/pkg/driver/mounts"
	"github.com/snapdriver/snapdriver/pkg/snapshotcore"
)

// serveOptions are the flags of the server, as they were given.
type serveOptions struct {
	driver      driver.Config
	backend     string
	root        string
	freezeLimit time.Duration
	lvm         lvm.Options
	faults      bool
}

const defaultEndpoint = "unix:///run/snapdriver/csi.sock"

func serveCommand() *cobra.Command {
	var o serveOptions
	command := &cobra.Command{
		Use:   "snapdriver",
		Short: "A CSI driver for volumes and snapshots on one node",
		Long: `snapdriver serves volumes of this node to Kubernetes through CSI, with snapshots as a first-class feature.

Without a subcommand it serves. Try "snapdriver demo" first: it needs no cluster and explains every call.`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error { return serve(command.Context(), o) },
	}
	flags := command.Flags()
	flags.SortFlags = false
	flags.StringVar(&o.driver.Endpoint, "endpoint", cmp.Or(os.Getenv("CSI_ENDPOINT"), defaultEndpoint),
		"Unix `socket` to serve CSI on; the default is the environment's CSI_ENDPOINT, if set")
	flags.IntVar(&o.driver.SocketGroup, "socket-group", 0,
		"`ID` of a group whose members may connect to the socket, as sidecars that do not run as root; 0 means nobody but this user")
	flags.StringVar(&o.driver.NodeID, "node-id", hostname(),
		"`ID` of this node, the same at every start; in Kubernetes the node's name")
	flags.StringVar(&o.backend, "backend", "hostpath",
		"what keeps the volumes: hostpath (directories and image files below --root), or lvm (thin volumes in --thin-pool)")
	flags.StringVar(&o.root, "root", "/var/lib/snapdriver",
		"`directory` for everything the hostpath backend keeps; snapshots are instant where its filesystem has reflinks (XFS, btrfs)")
	flags.DurationVar(&o.freezeLimit, "freeze-limit", hostpath.DefaultFreezeLimit,
		"the longest that writers to a mounted image volume may be held up by a snapshot")
	lvmFlags(flags, &o.lvm)
	flags.StringVar(&o.driver.Name, "driver-name", driver.DefaultName, "`name` of the driver, as StorageClasses give it as provisioner")
	flags.BoolVar(&o.driver.ExpandOnNode, "expand-on-node", false,
		"let the kubelet of a volume's node grow it, not the one csi-resizer of a cluster with several nodes")
	flags.Int64Var(&o.driver.MaxVolumesPerNode, "max-volumes-per-node", 0, "how many volumes the scheduler may put on this node; 0 means no limit")
	flags.StringVar(&o.driver.MetricsAddress, "metrics-address", "", "`host:port` to serve Prometheus metrics on, at /metrics; empty means nowhere")
	flags.BoolVar(&o.faults, "enable-faults", false,
		"let classes ask for faults by the parameter fault, to test operators and backup tools; not for data that matter (docs/faults.md)")
	flags.BoolVar(&o.driver.WaitForStorage, "wait-for-storage", false,
		"go on trying when the storage cannot be opened, and meanwhile take volumes from pods, instead of ending with an error")
	logFlags(flags)
	flags.Lookup("v").Usage = "log `level`; 5 logs every request and response, without secrets"
	return command
}

// logFlags adds the flags of klog that are of use.
func logFlags(flags *pflag.FlagSet) {
	all := flag.NewFlagSet("log", flag.ContinueOnError)
	klog.InitFlags(all)
	for _, name := range []string{"v", "vmodule"} {
		flags.AddGoFlag(all.Lookup(name))
	}
}

func serve(ctx context.Context, o serveOptions) error {
	o.driver.Version = version
	if o.backend == "hostpath" {
		o.driver.PrivateDir = o.root
	}
	if o.faults {
		o.driver.Faults = faults.New(crash)
	}
	o.driver.Open = func(ctx context.Context) (*snapshotcore.Core, error) {
		b, err := o.openBackend()
		if err != nil {
			return nil, err
		}
		core, err := snapshotcore.Open(ctx, b, snapshotcore.Options{NodeID: o.driver.NodeID, InUse: mounts.InUse})
		if err != nil {
			err = errors.Join(err, b.Close())
		}
		// To read what is there takes several times the memory of knowing it.
		debug.FreeOSMemory()
		return core, err
	}
	server, err := driver.New(o.driver)
	if err != nil {
		return err
	}
	defer klog.Flush()
	return server.Run(ctx)
}

// crash ends the process without any clean-up. Only the log is written out.
func crash() {
	klog.Flush()
	os.Exit(1)
}

func (o serveOptions) openBackend() (backend.Backend, error) {
	switch o.backend {
	case "hostpath":
		return hostpath.Open(o.root, hostpath.Options{FreezeLimit: o.freezeLimit, Step: step})
	case "lvm":
		if o.lvm.VolumeGroup == "" || o.lvm.ThinPool == "" {
			return nil, fmt.Errorf(`--backend=lvm: give --volume-group and --thin-pool; "snapdriver lvm init" makes both: %w`, backend.ErrInvalid)
		}
		o.lvm.Step = step
		return lvm.Open(o.lvm)
	default:
		return nil, fmt.Errorf("--backend: %q is not known; there are: hostpath, lvm: %w", o.backend, backend.ErrInvalid)
	}
}

// hostname is the default node ID; empty, which is refused later, when the
// kernel does not tell.
func hostname() string {
	name, _ := os.Hostname()
	return name
}
