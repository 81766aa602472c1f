package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/snapdriver/snapdriver/pkg/driver"
	"github.com/snapdriver/snapdriver/pkg/placement"
)

func placeCommand() *cobra.Command {
	config := placement.Config{}
	command := &cobra.Command{
		Use:   "place",
		Short: "Send claims made from this node's snapshots and volumes to this node, in Kubernetes",
		Long: `Runs beside the driver on each of several nodes, with credentials of Kubernetes, which the driver itself has not. The
scheduler does not know on which node the source of a claim lies; this sets the annotation
volume.kubernetes.io/selected-node on the claims whose source is on this node.`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error { return place(command.Context(), config) },
	}
	flags := command.Flags()
	flags.SortFlags = false
	flags.StringVar(&config.Driver, "driver-name", driver.DefaultName, "`name` of the driver")
	flags.StringVar(&config.Node, "node-id", hostname(), "`ID` of this node, the same as the driver's: the node's name")
	logFlags(flags)
	return command
}

func place(ctx context.Context, config placement.Config) error {
	access, err := rest.InClusterConfig()
	if err != nil {
		return fmt.Errorf("place: %w", err)
	}
	access.QPS, access.Burst = 50, 100 // as the sidecars
	if config.Client, err = dynamic.NewForConfig(access); err != nil {
		return fmt.Errorf("place: %w", err)
	}
	return placement.Run(ctx, config)
}
