package lvm

import (
	"context"
	"fmt"
	"slices"

	"github.com/snapdriver/snapdriver/internal/dm"
	"github.com/snapdriver/snapdriver/pkg/backend"
)

// existing returns the pool, if it is there already, on the very device that is
// asked for; otherwise the zero Made, or ErrExists if another has the volume
// group's name.
func (i *initialization) existing(ctx context.Context) (Made, error) {
	group, err := i.group(ctx)
	if err != nil || group == (groupRow{}) {
		return Made{}, err
	}
	disks, err := report[struct {
		Path string `json:"pv_name"`
	}](ctx, i.runner, "pvs", "--options", "pv_name", "--select", "vg_name="+i.VolumeGroup)
	if err != nil {
		return Made{}, err
	}
	var paths []string
	for _, disk := range disks {
		paths = append(paths, disk.Path)
	}
	i.device, err = i.among(paths)
	if err != nil {
		return Made{}, err
	}
	pools, err := report[poolRow](ctx, i.runner, "lvs", "--options", "segtype", "--select", "lv_name="+i.ThinPool, i.VolumeGroup)
	if err != nil {
		return Made{}, err
	}
	if i.device == "" || len(pools) != 1 || pools[0].Type != dm.ThinPoolTarget {
		return Made{}, fmt.Errorf("there is a volume group %s already, on %q, and it is not what this would make: choose another name, or make a thin pool in it yourself (lvcreate --type thin-pool): %w", i.VolumeGroup, paths, backend.ErrExists)
	}
	made, err := i.describe(ctx)
	made.Existed = true
	return made, err
}

// among returns the one of these devices that is asked for; empty: none is.
func (i *initialization) among(paths []string) (string, error) {
	wanted := i.Device
	if i.LoopFile != "" {
		var err error
		if wanted, err = loopDevice(i.LoopFile); err != nil || wanted == "" {
			return "", err
		}
	}
	number, err := blockDevice(wanted)
	if err != nil {
		return "", err
	}
	at := slices.IndexFunc(paths, func(path string) bool {
		other, err := blockDevice(path)
		return err == nil && other == number
	})
	if at < 0 {
		return "", nil
	}
	return paths[at], nil
}
