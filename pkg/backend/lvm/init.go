package lvm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"

	"github.com/snapdriver/snapdriver/internal/dm"
	"github.com/snapdriver/snapdriver/pkg/backend"
)

// InitOptions say where a thin pool is to be made: on Device, or on a loop device
// over the new file LoopFile.
type InitOptions struct {
	VolumeGroup, ThinPool string

	// Device is the path of a block device that holds nothing.
	Device string

	// LoopFile is the path of a file that does not exist, and Size what it is
	// to have, in bytes.
	LoopFile string
	Size     int64

	step backend.StepFunc
}

// Made is a thin pool that Init has made or found. Sizes are bytes.
type Made struct {
	// Existed says that the pool was there already, on that very device.
	Existed bool

	Device               string
	Pool, Metadata, Free int64 // Free: of the volume group

	// Objects is about how many volumes and snapshots the metadata area of the
	// volume group has room for.
	Objects int64
}

// Init makes a volume group with a thin pool, of sizes that suit this backend.
// What it has made is undone when it fails; what it finds is never touched. It
// succeeds when it has been done before.
func Init(ctx context.Context, o InitOptions) (Made, error) {
	made, err := initialize(ctx, o)
	if err != nil {
		return Made{}, fmt.Errorf("make thin pool %s/%s: %w", o.VolumeGroup, o.ThinPool, err)
	}
	return made, nil
}

func initialize(ctx context.Context, o InitOptions) (made Made, err error) {
	if err := CheckSupport(); err != nil {
		return Made{}, err
	}
	if err := o.validate(); err != nil {
		return Made{}, err
	}
	i := &initialization{runner: &runner{step: o.step}, InitOptions: o}
	if made, err := i.existing(ctx); err != nil || made.Existed {
		return made, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, i.undo())
		}
	}()
	if err := i.takeDevice(ctx); err != nil {
		return Made{}, err
	}
	if err := i.makePool(ctx); err != nil {
		return Made{}, err
	}
	return i.describe(ctx)
}

// CheckSupport says what this machine lacks for thin pools; nil: nothing.
func CheckSupport() error {
	for program, pkg := range map[string]string{"lvm": "lvm2", "thin_check": "thin-provisioning-tools", "blkid": "util-linux"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("the program %s is not installed: install %s", program, pkg)
		}
	}
	err := dm.Supported(dm.ThinPoolTarget)
	if errors.Is(err, dm.ErrUnsupported) {
		return fmt.Errorf("thin pools are %w: load its module dm_thin_pool on the node, or use another kernel", dm.ErrUnsupported)
	}
	return err
}

func (o InitOptions) validate() error {
	if err := checkNames(o.VolumeGroup, o.ThinPool); err != nil {
		return err
	}
	switch {
	case (o.Device == "") == (o.LoopFile == ""):
		return fmt.Errorf("give a device or a loop file, one of them: %w", backend.ErrInvalid)
	case o.LoopFile != "" && o.Size < minInitSize:
		return fmt.Errorf("a loop file of %s: give it %s at least: %w", size(o.Size), size(minInitSize), backend.ErrInvalid)
	}
	return nil
}

// initialization is one run of Init.
type initialization struct {
	*runner
	InitOptions

	device string
	undoes []func(context.Context) error // of what was made, in order
}

func (i *initialization) onFailure(undo func(context.Context) error) {
	i.undoes = append(i.undoes, undo)
}

// undo undoes all that was made, the last first, also when the caller has gone.
// It ends with the first failure, for what lies below is still in use then.
func (i *initialization) undo() error {
	for _, undo := range slices.Backward(i.undoes) {
		if err := undo(context.Background()); err != nil {
			return fmt.Errorf("undo it: %w", err)
		}
	}
	return nil
}

func (i *initialization) removeVolumeGroup(ctx context.Context) error {
	return i.change(ctx, "vgremove", "--yes", "--force", i.VolumeGroup)
}

func (i *initialization) removePhysicalVolume(ctx context.Context) error {
	return i.change(ctx, "pvremove", "--yes", i.device)
}

func (i *initialization) detachLoopFile(context.Context) error { return detachLoop(i.LoopFile) }

func (i *initialization) removeLoopFile(context.Context) error { return os.Remove(i.LoopFile) }

// Remove undoes Init, and deletes all that has come to lie in the volume group
// since. ErrNotFound when it does not lie where the options say.
func Remove(ctx context.Context, o InitOptions) error {
	i := &initialization{runner: &runner{}, InitOptions: o}
	made, err := i.existing(ctx)
	if err == nil && !made.Existed {
		err = backend.ErrNotFound
	}
	i.undoes = []func(context.Context) error{i.removePhysicalVolume, i.removeVolumeGroup}
	if o.LoopFile != "" {
		i.undoes = slices.Insert(i.undoes, 0, i.removeLoopFile, i.detachLoopFile)
	}
	if err == nil {
		err = i.undo()
	}
	if err != nil {
		return fmt.Errorf("remove volume group %s: %w", o.VolumeGroup, err)
	}
	return nil
}

// makePool makes the physical volume, the volume group and the pool.
func (i *initialization) makePool(ctx context.Context) error {
	bytes, err := sizeOf(i.device)
	if err != nil {
		return err
	}
	if bytes < minInitSize {
		return fmt.Errorf("%s has %s: %s are needed at least: %w", i.device, size(bytes), size(minInitSize), backend.ErrInvalid)
	}
	plan := planPool(bytes)
	// Without --yes, so that lvm refuses what it finds there and we did not.
	if err := i.change(ctx, "pvcreate", "--metadatasize", inBytes(plan.area), i.device); err != nil {
		return err
	}
	i.onFailure(i.removePhysicalVolume)
	if err := i.change(ctx, "vgcreate", "--physicalextentsize", inBytes(extentSize), i.VolumeGroup, i.device); err != nil {
		return err
	}
	i.onFailure(i.removeVolumeGroup)
	group, err := i.group(ctx)
	if err != nil {
		return err
	}
	if err := i.change(ctx, "lvcreate", "--yes", "--type", "thin-pool", "--name", i.ThinPool,
		"--size", inBytes(plan.data(group.Free)),
		"--poolmetadatasize", inBytes(plan.metadata), "--poolmetadataspare", "y",
		"--chunksize", inBytes(plan.chunk), "--zero", "y", "--discards", "passdown", i.VolumeGroup); err != nil {
		return err
	}
	// Writers to a full pool get an error at once. Else they wait for a minute,
	// and with them every command that has to suspend one of their devices.
	return i.change(ctx, "lvchange", "--errorwhenfull", "y", i.VolumeGroup+"/"+i.ThinPool)
}

// groupRow is what lvm reports of a volume group.
type groupRow struct {
	Name     string `json:"vg_name"`
	Free     int64  `json:"vg_free,string"`
	AreaFree int64  `json:"vg_mda_free,string"`
}

// group returns the volume group; the zero groupRow when there is none of that name.
func (i *initialization) group(ctx context.Context) (groupRow, error) {
	rows, err := report[groupRow](ctx, i.runner, "vgs", "--options", "vg_name,vg_free,vg_mda_free", "--select", "vg_name="+i.VolumeGroup)
	if err != nil || len(rows) == 0 {
		return groupRow{}, err
	}
	if len(rows) > 1 {
		return groupRow{}, fmt.Errorf("there are %d volume groups of the name %s: rename all but one (vgrename), by their UUIDs: %w", len(rows), i.VolumeGroup, backend.ErrPrecondition)
	}
	return rows[0], nil
}

// describe returns what is there now.
func (i *initialization) describe(ctx context.Context) (Made, error) {
	group, err := i.group(ctx)
	if err != nil {
		return Made{}, err
	}
	rows, err := report[struct {
		Size     int64 `json:"lv_size,string"`
		Metadata int64 `json:"lv_metadata_size,string"`
	}](ctx, i.runner, "lvs", "--options", "lv_size,lv_metadata_size", i.VolumeGroup+"/"+i.ThinPool)
	if err != nil || len(rows) != 1 {
		return Made{}, errors.Join(err, fmt.Errorf("lvm reports %d pools of that name", len(rows)))
	}
	return Made{Device: i.device, Pool: rows[0].Size, Metadata: rows[0].Metadata, Free: group.Free, Objects: group.AreaFree / usualText}, nil
}
