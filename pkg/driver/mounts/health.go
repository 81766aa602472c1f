package mounts

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/internal/fshealth"
	"github.com/snapdriver/snapdriver/pkg/backend"
)

// The reasons of conditions that a volume is not where it is said to be.
const (
	NotStaged    = "NotStaged"
	NotPublished = "NotPublished"
)

// Sight is the mount table as it was at one moment: it is read once, however
// many volumes are looked at.
type Sight struct{ table table }

// Look reads the mount table.
func Look() (Sight, error) {
	table, err := readTable()
	return Sight{table}, err
}

// Filesystem returns what is wrong with the filesystem on a volume's device,
// if it is mounted. A volume that is bound has no filesystem of its own.
func (s Sight) Filesystem(m backend.Mount) ([]backend.Condition, error) {
	if m.FSType == "" || m.Source == "" {
		return nil, nil
	}
	var device unix.Stat_t
	if err := unix.Stat(m.Source, &device); err != nil {
		return nil, fmt.Errorf("look at %q: %w", m.Source, err)
	}
	for _, info := range s.table {
		if info.FSType == m.FSType && deviceOf(info) == device.Rdev {
			return fshealth.Conditions(info), nil
		}
	}
	return nil, nil
}

// Staged returns what is wrong with the mount of a volume at the path where it
// is said to be staged. It was mounted there writably.
func (s Sight) Staged(m backend.Mount, path string) ([]backend.Condition, error) {
	mount, err := s.wholeAt(m, path)
	switch {
	case err != nil:
		return misplaced(err, NotStaged, path)
	case slices.Contains(strings.Split(mount.Options, ","), "ro"):
		return []backend.Condition{{
			Severity: backend.Inaccessible, Reason: "StagedReadOnly",
			Message: fmt.Sprintf("somebody has made the mount read-only: unstage the volume and stage it again: %s", path),
		}}, nil
	}
	return nil, nil
}

// Published returns what is wrong with the mount of a volume at the path where
// it is said to be published. Read-only it may be.
func (s Sight) Published(m backend.Mount, path string) ([]backend.Condition, error) {
	_, err := s.wholeAt(m, path)
	return misplaced(err, NotPublished, path)
}

// That a volume is not at a path, and what is there instead.
var (
	errNothing = errors.New("nothing is mounted there")
	errOther   = errors.New("something else is mounted there")
)

// misplaced makes these errors a condition.
func misplaced(err error, reason, path string) ([]backend.Condition, error) {
	if !errors.Is(err, errNothing) && !errors.Is(err, errOther) {
		return nil, err
	}
	return []backend.Condition{{Severity: backend.Inaccessible, Reason: reason, Message: fmt.Sprintf("%v: %s", err, path)}}, nil
}

// wholeAt returns the mount of the volume that is seen at path: errNothing,
// errOther. What is mounted at the path itself is not touched, for it may hang.
func (s Sight) wholeAt(m backend.Mount, path string) (*mountinfo.Info, error) {
	parent, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNothing, err)
	}
	top := s.table.topAt(filepath.Join(parent, filepath.Base(path)))
	if top == nil {
		return nil, errNothing
	}
	uses, err := s.table.usesOf(m)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(uses, func(u use) bool { return u.whole && u.mount == top }) {
		return nil, errOther
	}
	return top, nil
}

// topAt returns what is mounted at a path that goes through no symbolic link,
// over all else that is mounted there; nil: nothing.
func (t table) topAt(path string) *mountinfo.Info {
	covered := map[int]bool{}
	var here []*mountinfo.Info
	for _, info := range t {
		if info.Mountpoint == path {
			here = append(here, info)
			covered[info.Parent] = true
		}
	}
	for _, info := range here {
		if !covered[info.ID] {
			return info
		}
	}
	return nil
}
