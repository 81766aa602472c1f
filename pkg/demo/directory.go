package demo

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/moby/sys/mountinfo"
)

// Directory is the root directory of the hostpath backend.
type Directory string

func (d Directory) introduce() string {
	return fmt.Sprintf("ROOT is %s, where the driver keeps its volumes;", string(d))
}

func (d Directory) abbreviate() []string { return []string{string(d), "ROOT"} }

func (d Directory) look(s scene) {
	_ = filepath.WalkDir(string(d), func(path string, entry fs.DirEntry, err error) error {
		name, _ := filepath.Rel(string(d), path)
		if err != nil || name == "." || name == "lock" || inTrash(name) {
			return nil
		}
		if info, err := entry.Info(); err == nil && !entry.IsDir() {
			s["ROOT/"+name] = humanize.IBytes(uint64(info.Size()))
		} else if !strings.Contains(name, "/") {
			return nil // the fixed directories say nothing
		} else {
			s["ROOT/"+name+"/"] = ""
		}
		return nil
	})
}

// inTrash says whether a path is on its way out: deleted, as far as anybody
// can tell.
func inTrash(name string) bool { return name == "trash" || strings.HasPrefix(name, "trash/") }

// shown names a directory below the root, given its path within its filesystem,
// which need not be mounted at /.
func (d Directory) shown(mount *mountinfo.Info) string {
	for suffix := string(d); suffix != "/" && suffix != "."; {
		if rest, found := strings.CutPrefix(mount.Root, suffix); found {
			return "ROOT" + rest
		}
		_, rest, found := strings.Cut(strings.TrimPrefix(suffix, "/"), "/")
		if !found {
			break
		}
		suffix = "/" + rest
	}
	return mount.Root
}

// showSnapshot lists the snapshot with tar, if there is one on this machine.
func (d Directory) showSnapshot(n *narrator, id string) error {
	archive := filepath.Join("snapshots", id, "data.tar")
	tar := exec.Command("tar", "tvf", archive)
	tar.Dir = string(d)
	listing, err := tar.Output()
	if errors.Is(err, exec.ErrNotFound) {
		return nil
	}
	n.printf("\n  The snapshot is an ordinary tar file:\n")
	n.shell("node:ROOT", shortenIDs("tar tvf "+archive))
	for line := range strings.Lines(string(listing)) {
		n.printf("    %s", line)
	}
	return err
}

func (d Directory) left() ([]string, error) {
	var left []string
	for _, dir := range []string{"volumes", "snapshots"} {
		entries, err := os.ReadDir(filepath.Join(string(d), dir))
		if err != nil {
			return nil, err
		}
		for _, entry := range entries {
			left = append(left, dir+"/"+entry.Name())
		}
	}
	return left, nil
}
