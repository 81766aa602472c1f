package demo

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/moby/sys/mountinfo"
)

// VolumeGroup is a volume group with one thin pool, of the lvm backend.
type VolumeGroup string

func (g VolumeGroup) introduce() string {
	return fmt.Sprintf("Volumes are logical volumes (LV) in the volume group %s;", string(g))
}

func (g VolumeGroup) abbreviate() []string { return nil }

// logicalVolume is a row of lvs.
type logicalVolume struct {
	Name    string `json:"lv_name"`
	Size    string `json:"lv_size"`
	Origin  string `json:"origin"`
	Type    string `json:"segtype"`
	Written string `json:"data_percent"`
	Tags    string `json:"lv_tags"`
}

func (g VolumeGroup) look(s scene) {
	mounts, _ := mountinfo.GetMounts(g.holds)
	for _, mount := range mounts {
		flush(mount.Mountpoint) // else the pool would not show what the pods have written
	}
	volumes, _ := g.list()
	for _, v := range volumes {
		bytes, _ := strconv.ParseUint(v.Size, 10, 64)
		said := humanize.IBytes(bytes)
		if v.Origin != "" {
			said += ", shares the blocks of " + v.Origin
		}
		switch {
		case v.Type == "thin-pool":
			s["thin pool"] = v.Written + "% written"
		case v.Written != "":
			s["LV "+v.Name] = said + ", " + v.Written + "% written"
		default: // without a device nobody knows, and nobody writes
			s["LV "+v.Name] = said
		}
	}
}

func (g VolumeGroup) list() ([]logicalVolume, error) {
	out, err := g.lvs("--reportformat", "json", "--units", "b", "--nosuffix", "--options", "lv_name,lv_size,origin,segtype,data_percent,lv_tags").Output()
	if err != nil {
		return nil, err
	}
	var parsed struct {
		Report []struct {
			LV []logicalVolume `json:"lv"`
		} `json:"report"`
	}
	if err := json.Unmarshal(out, &parsed); err != nil || len(parsed.Report) == 0 {
		return nil, err
	}
	return parsed.Report[0].LV, nil
}

func (g VolumeGroup) lvs(arguments ...string) *exec.Cmd {
	command := exec.Command("lvm", append(append([]string{"lvs"}, arguments...), string(g))...)
	command.Env = append(os.Environ(), "LC_ALL=C", "DM_DISABLE_UDEV=1", "LVM_SUPPRESS_FD_WARNINGS=1")
	return command
}

// holds is a filter of mounts: those of devices of this group.
func (g VolumeGroup) holds(mount *mountinfo.Info) (skip, stop bool) {
	return !strings.HasPrefix(filepath.Base(mount.Source), double(string(g))+"-"), false
}

// shown names the logical volume whose device is mounted.
func (g VolumeGroup) shown(mount *mountinfo.Info) string {
	if skip, _ := g.holds(mount); skip {
		return mount.Source
	}
	name := strings.TrimPrefix(filepath.Base(mount.Source), double(string(g))+"-")
	return "LV " + strings.ReplaceAll(name, "--", "-") + ", " + mount.FSType
}

// double is how device-mapper's names write a hyphen.
func double(name string) string { return strings.ReplaceAll(name, "-", "--") }

// showSnapshot shows the record of a snapshot with lvs.
func (g VolumeGroup) showSnapshot(n *narrator, id string) error {
	volumes, err := g.list()
	if err != nil {
		return err
	}
	n.printf("\n  The snapshot is a logical volume that shares its blocks; its tags are its record:\n")
	n.shell("node", shortenIDs("lvs -o lv_tags "+string(g)+"/"+id))
	for _, v := range volumes {
		if v.Name != id {
			continue
		}
		for tag := range strings.SplitSeq(v.Tags, ",") {
			n.printf("    %s\n", shortenIDs(tag))
		}
	}
	return nil
}

func (g VolumeGroup) left() ([]string, error) {
	volumes, err := g.list()
	var left []string
	for _, v := range volumes {
		if v.Type != "thin-pool" {
			left = append(left, v.Name)
		}
	}
	return left, err
}
