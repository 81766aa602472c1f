// Command snapdriver is a CSI driver for volumes and snapshots on one node.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// version is set by the linker; see the Makefile.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "snapdriver:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	root := serveCommand()
	root.Version = version
	root.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	root.SilenceUsage = true
	root.SilenceErrors = true
	root.CompletionOptions.DisableDefaultCmd = true
	root.AddCommand(demoCommand(), importCommand(), lvmCommand(), placeCommand())
	return root
}
