package main

import (
	"cmp"
	"fmt"
	"path/filepath"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/snapdriver/snapdriver/pkg/backend/lvm"
)

// lvmFlags are the server's flags for the lvm backend.
func lvmFlags(flags *pflag.FlagSet, o *lvm.Options) {
	flags.StringVar(&o.VolumeGroup, "volume-group", "", "`name` of the volume group of the lvm backend")
	flags.StringVar(&o.ThinPool, "thin-pool", "", "`name` of the thin pool in it that keeps the volumes")
	flags.StringVar(&o.LoopFile, "loop-file", "", "`file` that holds the volume group, to be bound to a loop device if it is not")
	flags.StringVar(&o.LockDir, "lock-dir", lvm.DefaultLockDir,
		"`directory` for lock files, the same for every driver and container of the node")
	o.Limits = lvm.DefaultPoolLimits()
	flags.IntVar(&o.Limits.DataPercent, "pool-data-limit", o.Limits.DataPercent,
		"`percent` of the thin pool's space at which new volumes, snapshots and growth are refused")
	flags.IntVar(&o.Limits.MetadataPercent, "pool-metadata-limit", o.Limits.MetadataPercent,
		"`percent` of the thin pool's metadata at which they are refused; a pool whose metadata are full stops all writing")
	flags.Float64Var(&o.Limits.Overprovision, "pool-overprovision-limit", o.Limits.Overprovision,
		"how many `times` the pool's size its volumes may have, taken together; with 1 they cannot fill it, snapshots apart")
	flags.Int64Var(&o.Limits.MetadataReserve, "vg-metadata-reserve", o.Limits.MetadataReserve,
		"`bytes` of the volume group's metadata area that are kept free for repairs")
	flags.IntVar(&o.Limits.Extension.AtPercent, "pool-extend-at", 0,
		"`percent` of its space or metadata at which the pool is extended from what is free in the volume group; 0 means never")
	flags.IntVar(&o.Limits.Extension.ByPercent, "pool-extend-by", 20, "`percent` of its size by which it is extended")
}

func lvmCommand() *cobra.Command {
	command := &cobra.Command{
		Use:   "lvm",
		Short: "Set up what the lvm backend needs",
		Args:  cobra.NoArgs,
		RunE:  func(command *cobra.Command, _ []string) error { return command.Help() },
	}
	command.AddCommand(lvmInitCommand())
	return command
}

func lvmInitCommand() *cobra.Command {
	var o lvm.InitOptions
	var bytes string
	command := &cobra.Command{
		Use:   "init",
		Short: "Make a volume group with a thin pool, on an empty device or in a new file",
		Long: `Makes a volume group with a thin pool, of sizes that suit snapdriver, and says how to start the driver with it.

It takes a device that holds nothing (no filesystem, no partitions, nothing that is in use, no data at its beginning
or end), or makes a sparse file and a loop device over it. Anything else it refuses and does not touch. When it fails
or is interrupted it undoes what it has made. Repeated, it finds what is there.`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			if bytes != "" {
				parsed, err := humanize.ParseBytes(bytes)
				if err != nil || parsed > 1<<62 {
					return fmt.Errorf("--size: %q is no size; give one such as 20GiB", bytes)
				}
				o.Size = int64(parsed)
			}
			if o.LoopFile != "" {
				absolute, err := filepath.Abs(o.LoopFile)
				if err != nil {
					return err
				}
				o.LoopFile = absolute
			}
			made, err := lvm.Init(command.Context(), o)
			if err == nil {
				fmt.Fprint(command.OutOrStdout(), describePool(o, made))
			}
			return err
		},
	}
	flags := command.Flags()
	flags.SortFlags = false
	flags.StringVar(&o.Device, "device", "", "block `device` that holds nothing")
	flags.StringVar(&o.LoopFile, "loop-file", "", "new `file` to use as a device, for trying things out")
	flags.StringVar(&bytes, "size", "", "`size` of the new file, such as 20GiB")
	flags.StringVar(&o.VolumeGroup, "volume-group", "snapdriver", "`name` of the volume group to make")
	flags.StringVar(&o.ThinPool, "thin-pool", "pool", "`name` of the thin pool to make in it")
	command.MarkFlagsOneRequired("device", "loop-file")
	command.MarkFlagsMutuallyExclusive("device", "loop-file")
	command.MarkFlagsRequiredTogether("loop-file", "size")
	return command
}

// describePool says what is there, and how to start the driver with it.
func describePool(o lvm.InitOptions, made lvm.Made) string {
	verb := "Made"
	if made.Existed {
		verb = "Nothing to do: there is"
	}
	text := fmt.Sprintf(`%s thin pool %s/%s on %s:
  %-9s for volumes and snapshots
  %-9s for the pool's metadata, and as much for their repair
  %-9s left in the volume group, to extend either
  room for the names and tags of about %s volumes and snapshots

Start the driver with:

  snapdriver --backend=lvm --volume-group=%s --thin-pool=%s`,
		verb, o.VolumeGroup, o.ThinPool, cmp.Or(o.LoopFile, made.Device),
		humanize.IBytes(uint64(made.Pool)), humanize.IBytes(uint64(made.Metadata)), humanize.IBytes(uint64(made.Free)),
		humanize.Comma(made.Objects), o.VolumeGroup, o.ThinPool)
	if o.LoopFile != "" {
		text += " --loop-file=" + o.LoopFile
	}
	return text + "\n"
}
