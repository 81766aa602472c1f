package demo

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
)

// scene is what the disk and the mount table look like at one moment: what
// there is, and a word on it.
type scene map[string]string

// look takes in everything that the driver keeps and what is mounted below
// pods. What cannot be read is not there: the story is told all the same.
func look(store Store, pods string) scene {
	s := scene{}
	store.look(s)
	mounts, _ := mountinfo.GetMounts(mountinfo.PrefixFilter(pods))
	for _, mount := range mounts {
		name, _ := filepath.Rel(pods, mount.Mountpoint)
		s["mount PODS/"+name] = "shows " + store.shown(mount)
	}
	return s
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
