package mounts

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/internal/testenv"
	"github.com/snapdriver/snapdriver/pkg/backend"
)

func TestParseFlags(t *testing.T) {
	for name, test := range map[string]struct {
		options []string
		want    Flags
		err     string
	}{
		"none":      {nil, 0, ""},
		"several":   {[]string{"ro", "noexec"}, ReadOnly | unix.ST_NOEXEC, ""},
		"defaults":  {[]string{"rw", "relatime"}, 0, ""},
		"unknown":   {[]string{"uid=1000"}, 0, "mount_flags[0]: it is not"},
		"of a bind": {[]string{"rw", "remount"}, 0, "mount_flags[1]: it is not"},
		"joined":    {[]string{"ro,suid"}, 0, "not among the allowed"},
		"empty":     {[]string{""}, 0, "not among the allowed"},
	} {
		got, err := ParseFlags(test.options)
		if got != test.want || (err == nil) != (test.err == "") || !strings.Contains(fmt.Sprint(err), test.err) {
			t.Errorf("%s: %x %v", name, got, err)
		}
		if err != nil && !errors.Is(err, backend.ErrInvalid) {
			t.Errorf("%s: %v is not ErrInvalid", name, err)
		}
	}
}

func TestCleanPath(t *testing.T) {
	for path, want := range map[string]string{
		"/a/b": "/a/b", "//a//b/": "/a/b", "/a/./b": "/a/b", "/a b\n": "/a b\n", "/a..b": "/a..b",
		"": "", "a": "", "/a/../b": "", "/..": "",
	} {
		if got, err := CleanPath("field", path); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q %v, want %q", path, got, err, want)
		}
	}
}

// tree is a filesystem of a test with a volume and empty directories.
func tree(t *testing.T, dirs ...string) string {
	t.Helper()
	base := testenv.Filesystem(t, "ext4", 256<<20)
	for _, dir := range append(dirs, "volume", "volume/sub", "volume2") {
		if err := os.MkdirAll(filepath.Join(base, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return base
}

func bind(t *testing.T, source, path string) {
	t.Helper()
	if err := Bind(source, path, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := Unmount(path); err != nil {
			t.Error(err)
		}
	})
}

// TestBindLink: a link to a device is the device, as udev means it. A link to
// anything else is nothing that could be bound.
func TestBindLink(t *testing.T) {
	device := loopDevice(t, "ext4")
	base := tree(t, "directory")
	at := func(name string) string { return filepath.Join(base, name) }
	for link, to := range map[string]string{"to-device": device, "to-directory": at("volume"), "to-nothing": at("nothing")} {
		if err := os.Symlink(to, at(link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(at("file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	bind(t, at("to-device"), at("file"))
	if holds, err := Holds(at("file"), backend.Mount{Source: device}); err != nil || !holds {
		t.Errorf("the device is not what the link to it has brought: %v", err)
	}
	for _, link := range []string{"to-directory", "to-nothing"} {
		if err := Bind(at(link), at("directory"), 0); err == nil {
			t.Errorf("%s was bound", link)
			_ = Unmount(at("directory"))
		}
	}
}

// TestUnmountWhatIsInUse waits for who has it in use for a moment, and not for who
// keeps it.
func TestUnmountWhatIsInUse(t *testing.T) {
	base := tree(t, "target")
	target := filepath.Join(base, "target")
	bind(t, filepath.Join(base, "volume"), target)
	used, err := os.Open(target)
	if err != nil {
		t.Fatal(err)
	}
	if err := Unmount(target); !errors.Is(err, backend.ErrPrecondition) {
		t.Errorf("in use: %v", err)
	}
	time.AfterFunc(longestPause/4, func() { _ = used.Close() })
	if err := Unmount(target); err != nil {
		t.Errorf("in use for a moment: %v", err)
	}
}

// TestElsewhere: a part of a volume mounted somewhere keeps it in use, but is
// no target of its own; a volume whose name begins alike does not count.
func TestElsewhere(t *testing.T) {
	base := tree(t, "staging", "target", "part", "other")
	at := func(name string) string { return filepath.Join(base, name) }
	volume := backend.Mount{Source: at("volume")}
	check := func(inUse bool, elsewhere int) {
		t.Helper()
		if got, err := InUse(volume); got != inUse || err != nil {
			t.Errorf("in use: %v %v, want %v", got, err, inUse)
		}
		if got, err := Elsewhere(volume, at("staging"), at("gone/x")); len(got) != elsewhere || err != nil {
			t.Errorf("elsewhere: %q %v, want %d", got, err, elsewhere)
		}
	}
	bind(t, at("volume2"), at("other"))
	check(false, 0)
	bind(t, at("volume/sub"), at("part"))
	check(true, 0)
	bind(t, volume.Source, at("staging"))
	check(true, 0)
	bind(t, at("staging"), at("target"))
	check(true, 1)
	if got, err := InUse(backend.Mount{Source: at("gone")}); got || err != nil {
		t.Errorf("a volume that is gone is in use: %v", err)
	}
}

// TestElsewhereSeenTwice: where the kubelet's directory is visible twice, the
// second sight of a mount is not taken for a second target.
func TestElsewhereSeenTwice(t *testing.T) {
	base := tree(t, "kubelet/target", "kubelet2")
	if err := unix.Mount("", base, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	bind(t, filepath.Join(base, "kubelet"), filepath.Join(base, "kubelet2"))
	target := filepath.Join(base, "kubelet", "target")
	bind(t, filepath.Join(base, "volume"), target)
	if again, err := Mounted(filepath.Join(base, "kubelet2", "target")); !again || err != nil {
		t.Fatalf("the mount is not seen twice: %v", err)
	}
	if others, err := Elsewhere(backend.Mount{Source: filepath.Join(base, "volume")}, target); len(others) > 0 || err != nil {
		t.Errorf("elsewhere: %q %v", others, err)
	}
}
