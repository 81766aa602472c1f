package compat

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/snapdriver/snapdriver/internal/testenv"
)

// hosts are the filesystems on which fixtures are made and served: one without
// reflinks and one with, where archives are laid out otherwise.
var hosts = []string{"ext4", "xfs"}

// TestHostpath has root directories that earlier versions have left served: all
// that is in them is listed, read, restored, and deleted.
func TestHostpath(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	testenv.RequireRoot(t)
	testenv.RequirePrograms(t, "tar", "mkfs.ext4", "mkfs.xfs")
	if *newFixture != "" {
		for _, host := range hosts {
			writeHostpath(t, host, filepath.Join("testdata", *newFixture, "hostpath-"+host))
		}
		return
	}
	for _, fixture := range kept(t, "hostpath-*") {
		for _, host := range hosts {
			t.Run(strings.TrimPrefix(fixture, "testdata/")+" on "+host, func(t *testing.T) { serveHostpath(t, fixture, host) })
		}
	}
}

// serveHostpath serves a fixture on a filesystem.
func serveHostpath(t *testing.T, fixture, host string) {
	b := newHostpath(t, host)
	archive := filepath.Join(t.TempDir(), "tar")
	b.must("write the archive", os.WriteFile(archive, unpacked(t, fixture, "tar.zst"), 0o600))
	testenv.Run(t, "tar", "-xpf", archive, "-C", b.dir, "--numeric-owner", "--same-owner", "--xattrs", "--xattrs-include=*")
	b.serve(part(t, fixture, "json"))
	b.expectEmpty()
	testenv.ExpectNoLeaks(t, b.dir)
}

// newHostpath has a filesystem of its own.
func newHostpath(t *testing.T, host string) *bed {
	dir := testenv.Filesystem(t, host, 8*gib)
	return newBed(t, dir, map[string]kind{
		"directory": {size: mib, formats: []string{"", "tar.zst"}},
		"ext4":      {fsType: "ext4", parameters: map[string]string{"layout": "image"}, size: 16 * mib, formats: []string{""}},
		"xfs":       {fsType: "xfs", parameters: map[string]string{"layout": "image"}, size: 300 * mib, formats: []string{""}},
		"block":     {block: true, size: mib, formats: []string{""}},
	})
}

// writeHostpath has the driver make some of everything, and keeps it.
func writeHostpath(t *testing.T, host, fixture string) {
	refuseToReplace(t, fixture)
	b := newHostpath(t, host)
	text := b.makeAll()
	archive := filepath.Join(t.TempDir(), "tar")
	testenv.Run(t, "tar", "-cf", archive, "-C", b.dir, "--format=posix", "--sort=name", "--numeric-owner",
		"--sparse", "--hole-detection=raw", "--xattrs", "--xattrs-include=*", "root")
	data, err := os.ReadFile(archive)
	b.must("read the archive", err)
	b.must("make a directory", os.MkdirAll(filepath.Dir(fixture), 0o755))
	b.must("write the archive", os.WriteFile(fixture+".tar.zst", packed(t, data), 0o644))
	b.must("write the manifest", os.WriteFile(fixture+".json", text, 0o644))
}

// expectEmpty fails the test unless nothing is left of any object soon, for
// what was deleted is removed in the background.
func (b *bed) expectEmpty() {
	b.t.Helper()
	b.Start()
	defer b.Stop()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		left, err := filepath.Glob(filepath.Join(b.Root, "*", "*"))
		if err == nil && len(left) == 0 {
			return
		}
		if err != nil || time.Now().After(deadline) {
			b.t.Fatalf("left behind: %q, %v", left, err)
		}
	}
}
