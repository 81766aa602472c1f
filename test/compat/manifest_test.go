package compat

import (
	"embed"
	"encoding/json"
	"flag"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
)

var newFixture = flag.String("new", "", "write what this version makes as fixtures of this `name`")

// fixtures are in the program, for in a virtual machine there is nothing else.
//
//go:embed testdata
var fixtures embed.FS

// kept returns the fixtures of a name, each without its parts' endings.
func kept(t *testing.T, name string) (found []string) {
	t.Helper()
	manifests, err := fs.Glob(fixtures, "testdata/*/"+name+".json")
	if err != nil || len(manifests) == 0 {
		t.Fatalf("no fixtures: %q, %v", manifests, err)
	}
	for _, name := range manifests {
		found = append(found, strings.TrimSuffix(name, ".json"))
	}
	return found
}

// part returns one file of a fixture.
func part(t *testing.T, fixture, ending string) []byte {
	t.Helper()
	data, err := fixtures.ReadFile(fixture + "." + ending)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// unpacked is part, for one that is compressed.
func unpacked(t *testing.T, fixture, ending string) []byte {
	t.Helper()
	decoder, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer decoder.Close()
	data, err := decoder.DecodeAll(part(t, fixture, ending), nil)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// packed compresses what unpacked returns.
func packed(t *testing.T, data []byte) []byte {
	t.Helper()
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithWindowSize(128<<20))
	if err != nil {
		t.Fatal(err)
	}
	return encoder.EncodeAll(data, nil)
}

func refuseToReplace(t *testing.T, fixture string) {
	t.Helper()
	if _, err := os.Lstat(fixture + ".json"); err == nil {
		t.Fatalf("%s is there, and may not change", fixture)
	}
}

// manifest says what a fixture holds.
type manifest struct {
	Volumes   []volume
	Snapshots []snapshot
}

type volume struct {
	Name, ID       string
	Kind           string // of a bed's kinds
	Asked          int64  // bytes, as CreateVolume was called with
	Size           int64  // bytes
	SourceVolume   string `json:",omitempty"`
	SourceSnapshot string `json:",omitempty"`
	Content        content
}

type snapshot struct {
	Name, ID string
	Kind     string // of the source
	Format   string `json:",omitempty"`
	Source   string
	Size     int64 // bytes
	Created  time.Time
	Content  content
}

func (m *manifest) sort() {
	slices.SortFunc(m.Volumes, func(a, b volume) int { return strings.Compare(a.ID, b.ID) })
	slices.SortFunc(m.Snapshots, func(a, b snapshot) int { return strings.Compare(a.ID, b.ID) })
}

// serve has the driver, in a process of its own, serve what is there, of which
// text is the manifest: all is read, asked for again, listed, restored, and
// deleted.
func (b *bed) serve(text []byte) {
	b.t.Helper()
	var expected manifest
	b.must("read the manifest", json.Unmarshal(text, &expected))
	b.Start()
	for _, v := range expected.Volumes {
		b.expect("the content of "+v.Name, v.Content, b.read(v))
		b.expect("what creating "+v.Name+" again answers", v.ID, b.create(v).ID)
	}
	for _, s := range expected.Snapshots {
		b.expect("the content of "+s.Name, s.Content, b.restored(s))
		b.expect("what creating "+s.Name+" again answers", s.ID, b.cut(s).ID)
	}
	b.expect("what is listed", expected, b.list(expected))
	for _, s := range expected.Snapshots {
		b.deleteSnapshot(s.ID)
	}
	for _, v := range expected.Volumes {
		b.delete(v.ID)
	}
	b.expect("what is listed in the end", manifest{}, b.list(manifest{}))
	b.Stop()
}

// makeAll has the driver make volumes of each kind, snapshots of them, and
// volumes of these, and returns the manifest.
func (b *bed) makeAll() (text []byte) {
	b.t.Helper()
	b.Start()
	var made manifest
	for _, name := range slices.Sorted(maps.Keys(b.kinds)) {
		k := b.kinds[name]
		origin := b.create(volume{Name: name, Kind: name, Asked: k.size})
		b.write(origin, 1)
		first := len(made.Snapshots)
		for _, format := range k.formats {
			s := b.cut(snapshot{Name: strings.TrimSpace(name + " snapshot " + format), Kind: name, Format: format, Source: origin.ID})
			made.Snapshots = append(made.Snapshots, s)
		}
		b.write(origin, 2)
		restored := b.create(volume{Name: name + " restored", Kind: name, Asked: k.size, SourceSnapshot: made.Snapshots[first].ID})
		clone := b.create(volume{Name: name + " clone", Kind: name, Asked: k.size, SourceVolume: origin.ID})
		clone.Size = b.grow(clone, 2*k.size)
		made.Volumes = append(made.Volumes, origin, restored, clone)
	}
	for i, v := range made.Volumes {
		made.Volumes[i].Content = b.read(v)
	}
	for i, s := range made.Snapshots {
		made.Snapshots[i].Content = b.restored(s)
	}
	b.Stop()
	made.sort()
	text, err := json.MarshalIndent(made, "", "\t")
	b.must("write the manifest", err)
	return append(text, '\n')
}

// expect fails the test unless what was got is what was expected.
func (b *bed) expect(what string, expected, got any) {
	b.t.Helper()
	if diff := cmp.Diff(expected, got); diff != "" {
		b.t.Errorf("%s (-expected +got):\n%s", what, diff)
	}
}
