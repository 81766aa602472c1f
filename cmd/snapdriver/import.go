package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/snapdriver/snapdriver/pkg/driver"
	"github.com/snapdriver/snapdriver/pkg/importer"
)

func importCommand() *cobra.Command {
	var endpoint, size, namespace, name string
	command := &cobra.Command{
		Use:   "import ARCHIVE|-",
		Short: "Make a snapshot of a tar file, and print the VolumeSnapshot for kubectl apply",
		Long: `Makes a snapshot of an archive of a directory: a tar file, plain or compressed with gzip or zstd, such as the .tgz files
that the hostPath plugin of kubernetes-incubator/snapshot left in /tmp. It is a client of the driver that runs, and has to
run where that does, as root. "-" is the standard input, so that in Kubernetes:

  kubectl -n snapdriver exec -i daemonset/snapdriver -c driver -- snapdriver import - --name=NAME <ARCHIVE | kubectl apply -f -

The same archive always becomes the same snapshot. An import that was cut off is repeated.`,
		Args: cobra.ExactArgs(1),
		RunE: func(command *cobra.Command, arguments []string) error {
			archive, err := openArchive(arguments[0], command.InOrStdin())
			if err != nil {
				return err
			}
			defer archive.Close()
			return runImport(command.Context(), importOptions{endpoint, size, namespace, name}, archive, command.OutOrStdout(), command.ErrOrStderr())
		},
	}
	flags := command.Flags()
	flags.SortFlags = false
	flags.StringVar(&endpoint, "endpoint", cmp.Or(os.Getenv("CSI_ENDPOINT"), defaultEndpoint), "Unix `socket` of the driver; the default is the environment's CSI_ENDPOINT, if set")
	flags.StringVar(&size, "size", "", "`size` that a claim made from the snapshot has to have, such as 5GiB; the default is what the files take, and a filesystem for them")
	flags.StringVar(&namespace, "namespace", "default", "`namespace` of the VolumeSnapshot")
	flags.StringVar(&name, "name", "imported", "`name` of the VolumeSnapshot")
	return command
}

// importOptions are the flags of the import, as they were given.
type importOptions struct {
	endpoint, size, namespace, name string
}

func runImport(ctx context.Context, o importOptions, archive *os.File, out, log io.Writer) error {
	socket, err := driver.SocketPath(o.endpoint)
	if err != nil {
		return err
	}
	config := importer.Config{Socket: socket, Archive: archive, Directory: os.TempDir()}
	if o.size != "" {
		bytes, err := humanize.ParseBytes(o.size)
		if err != nil || bytes == 0 || int64(bytes) < 0 {
			return fmt.Errorf("--size: %q is not a size; give one such as 5GiB", o.size)
		}
		config.Size = int64(bytes)
	}
	imported, err := importer.Run(ctx, config)
	if err != nil {
		return fmt.Errorf("import: %w", err)
	}
	verb := "made"
	if imported.Before {
		verb = "found, from an earlier import of this archive,"
	}
	fmt.Fprintf(log, "%s %s; a claim made from it needs %s\n", verb, imported.Handle, humanize.IBytes(uint64(imported.Size)))
	return imported.WriteManifest(out, o.namespace, o.name)
}

// openArchive opens a file, or keeps what in has in a file without a name: an
// archive is read more than once.
func openArchive(path string, in io.Reader) (*os.File, error) {
	if path != "-" {
		return os.Open(path)
	}
	file, err := os.CreateTemp("", "snapdriver-import-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(file.Name()); err != nil {
		return nil, err
	}
	if _, err := io.Copy(file, in); err != nil {
		return nil, fmt.Errorf("read the standard input: %w", err)
	}
	return file, nil
}
