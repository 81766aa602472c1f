package hostpath

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

func TestProfiles(t *testing.T) {
	const mounted, raw = backend.Filesystem, backend.Block
	for _, test := range []struct {
		mode   backend.Mode
		fsType string
		layout string
		want   kind
		err    string // named by the error
	}{
		{mounted, "", "", kind{layoutDirectory, ""}, ""},
		{mounted, "", "directory", kind{layoutDirectory, ""}, ""},
		{mounted, "", "image", kind{layoutImage, ""}, ""},
		{mounted, "ext4", "image", kind{layoutImage, "ext4"}, ""},
		{mounted, "xfs", "image", kind{layoutImage, "xfs"}, ""},
		{raw, "", "", kind{layoutBlock, ""}, ""},
		{raw, "", "image", kind{layoutBlock, ""}, ""},
		{mounted, "ext4", "", kind{}, "layout: image"},
		{mounted, "btrfs", "image", kind{}, "ext4, xfs"},
		{mounted, "", "block", kind{}, "directory, image"},
		{raw, "", "directory", kind{}, "always an image"},
		{raw, "ext4", "", kind{}, "fs_type"},
	} {
		profile := backend.Profile{Mode: test.mode, FSType: test.fsType}
		if test.layout != "" {
			profile.Parameters = map[string]string{"layout": test.layout}
		}
		got, err := parseProfile(profile)
		checkParsed(t, profile, got, test.want, err, test.err)
	}
}

func TestFormats(t *testing.T) {
	for _, test := range []struct {
		of   layout
		key  string
		text string
		want format
		err  string
	}{
		{layoutDirectory, "", "", formatTar, ""},
		{layoutDirectory, "format", "tar", formatTar, ""},
		{layoutDirectory, "format", "tar.zst", formatTarZstd, ""},
		{layoutImage, "", "", formatImage, ""},
		{layoutBlock, "format", "image", formatImage, ""},
		{layoutDirectory, "format", "image", "", "tar.zst"},
		{layoutImage, "format", "tar", "", "layout image"},
		{layoutDirectory, "Format", "tar", "", `"Format"`},
	} {
		parameters := map[string]string{}
		if test.key != "" {
			parameters[test.key] = test.text
		}
		got, err := parseFormat(parameters, test.of)
		checkParsed(t, parameters, got, test.want, err, test.err)
	}
}

func checkParsed[T comparable](t *testing.T, input any, got, want T, err error, named string) {
	t.Helper()
	switch {
	case named == "" && (err != nil || got != want):
		t.Errorf("%v: %v, %v; expected %v", input, got, err, want)
	case named != "" && (!errors.Is(err, backend.ErrInvalid) || !strings.Contains(err.Error(), named)):
		t.Errorf("%v: got error %v, expected ErrInvalid that names %s", input, err, named)
	}
}

// FuzzParameters: what is accepted is something that can be made, and what is
// not is the caller's fault.
func FuzzParameters(f *testing.F) {
	for _, seed := range []struct{ mode, fsType, key, value string }{
		{"filesystem", "", "layout", "directory"},
		{"filesystem", "xfs", "layout", "image"},
		{"block", "", "layout", "image"},
		{"block", "ext4", "", ""},
		{"filesystem", "", "format", "tar.zst"},
		{"", "", "format", "../x"},
	} {
		f.Add(seed.mode, seed.fsType, seed.key, seed.value)
	}
	f.Fuzz(func(t *testing.T, mode, fsType, key, value string) {
		profile := backend.Profile{Mode: backend.Mode(mode), FSType: fsType, Parameters: map[string]string{key: value}}
		kind, err := parseProfile(profile)
		if err != nil && !errors.Is(err, backend.ErrInvalid) {
			t.Error(err)
		}
		made := kind.fsType
		if kind.layout == layoutImage {
			made = kind.newFilesystem()
		}
		if limits := kind.limits(); err == nil && (!kind.layout.holds(made) || limits.Min > limits.Default || limits.Default > limits.Max) {
			t.Errorf("%+v: %+v with %+v", profile, kind, limits)
		}
		for _, of := range []layout{layoutDirectory, layoutImage, layoutBlock} {
			format, err := parseFormat(profile.Parameters, of)
			if err != nil && !errors.Is(err, backend.ErrInvalid) || err == nil && !slices.Contains(of.formats(), format) {
				t.Errorf("%+v of %s: %q, %v", profile.Parameters, of, format, err)
			}
		}
	})
}
