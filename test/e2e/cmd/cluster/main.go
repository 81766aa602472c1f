// The program cluster makes, uses and ends the Kubernetes cluster of package
// cluster:
//
//	cluster build             make programs and images, in the user's cache
//	cluster [-nodes 2] up     start it, with CRDs and snapshot controller
//	cluster driver NAME       build the driver's image and give it to the nodes
//	cluster exec COMMAND...   run a command in the first node, with kubectl and ctr set up
//	cluster kubeconfig        print the file for kubectl outside the nodes
//	cluster reboot            end it and start it again
//	cluster down              end it and remove all that it wrote
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/snapdriver/snapdriver/test/e2e/cluster"
)

func main() {
	log.SetFlags(log.Ltime)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		log.Print("cluster: ", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	root := flag.String("root", ".", "the repository")
	count := flag.Int("nodes", 1, "number of nodes")
	flag.Parse()
	absolute, err := filepath.Abs(*root)
	if err != nil {
		return err
	}
	c, err := cluster.Default(absolute)
	if err != nil {
		return err
	}
	nodes := cluster.Nodes(*count)
	switch verb, args := flag.Arg(0), flag.Args(); verb {
	case "build":
		return c.Build()
	case "up":
		return c.Up(ctx, *count)
	case "driver":
		return c.LoadDriver(nodes, flag.Arg(1))
	case "exec":
		cmd, err := c.Command(nodes[0], args[1:]...)
		if err != nil {
			return err
		}
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		return cmd.Run()
	case "kubeconfig":
		fmt.Println(c.Kubeconfig())
		return nil
	case "down":
		return c.Down(ctx, false)
	case "reboot":
		return c.Reboot(ctx, *count)
	case "run": // the first process of a node, started by up
		all := cluster.Nodes(cluster.MaxNodes)
		i := slices.IndexFunc(all, func(n cluster.Node) bool { return n.Name == flag.Arg(1) })
		if i < 0 {
			return fmt.Errorf("there is no node %q", flag.Arg(1))
		}
		return c.Run(all[i])
	case "sshd": // in a node, for Kubernetes' tests
		return c.ServeSSH()
	default:
		return fmt.Errorf("%q is none of build, up, driver, exec, kubeconfig, reboot, down", verb)
	}
}
