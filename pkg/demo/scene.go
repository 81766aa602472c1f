package demo

import (
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/moby/sys/mountinfo"
)

// scene is what the disk and the mount table look like at one moment: what
// there is, and a word on it.
type scene map[string]string

// look takes in everything below the driver's root and what is mounted below
// pods. What cannot be read is not there: the story is told all the same.
func look(root, pods string) scene {
	s := scene{}
	_ = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		name, _ := filepath.Rel(root, path)
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
	mounts, _ := mountinfo.GetMounts(mountinfo.PrefixFilter(pods))
	for _, mount := range mounts {
		name, _ := filepath.Rel(pods, mount.Mountpoint)
		s["mount PODS/"+name] = "shows " + shortRoot(mount.Root, root)
	}
	return s
}

// inTrash says whether a path is on its way out: deleted, as far as anybody
// can tell.
func inTrash(name string) bool { return name == "trash" || strings.HasPrefix(name, "trash/") }

// shortRoot names a directory below the driver's root, given its path within
// its filesystem, which need not be mounted at /.
func shortRoot(path, root string) string {
	for suffix := root; suffix != "/" && suffix != "."; {
		if rest, found := strings.CutPrefix(path, suffix); found {
			return "ROOT" + rest
		}
		_, rest, found := strings.Cut(strings.TrimPrefix(suffix, "/"), "/")
		if !found {
			break
		}
		suffix = "/" + rest
	}
	return path
}

// changesTo lists what has come, gone and changed: + - ~.
func (s scene) changesTo(after scene) []string {
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(after)) {
		before, existed := s[name]
		switch now := after[name]; {
		case !existed:
			lines = append(lines, strings.TrimSpace(fmt.Sprintf("+ %s  %s", name, now)))
		case before != now:
			lines = append(lines, fmt.Sprintf("~ %s  %s -> %s", name, before, now))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s)) {
		if _, exists := after[name]; !exists {
			lines = append(lines, "- "+name)
		}
	}
	return lines
}
