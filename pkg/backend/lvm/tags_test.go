package lvm

import (
	"errors"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/uuid"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

var (
	someVolume   = backend.NewVolumeID("node", "volume")
	someSnapshot = backend.NewSnapshotID("node", "snapshot")
	someTime     = time.Date(2026, 2, 3, 4, 5, 6, 789, time.UTC)
)

// records are one of each kind.
var records = map[string]record{
	"volume": {
		kind: kindVolume, name: "pvc-1 (ä)", created: someTime, mode: backend.Filesystem, fsType: "ext4", unformatted: []uuid.UUID{identityOf("x")},
		access: []backend.AccessMode{backend.SingleNodeMultiWriter, backend.SingleNodeWriter},
	},
	"restored": {
		kind: kindVolume, name: "", created: someTime, mode: backend.Filesystem, fsType: "xfs", askedFS: true,
		access: []backend.AccessMode{backend.SingleNodeWriter}, source: backend.Source{Snapshot: someSnapshot}, grow: 1 << 40,
	},
	"block": {
		kind: kindVolume, name: "n", created: someTime, mode: backend.Block, source: backend.Source{Volume: someVolume},
	},
	"snapshot": {
		kind: kindSnapshot, name: "s", created: someTime, mode: backend.Filesystem, fsType: "btrfs", source: backend.Source{Volume: someVolume},
	},
	"unready": {
		kind: kindSnapshot, name: "u", created: someTime, mode: backend.Block, source: backend.Source{Volume: someVolume}, readyAfter: time.Minute + 1,
	},
}

var compareRecords = cmp.Options{cmp.AllowUnexported(record{}), cmpopts.EquateComparable(backend.Source{})}

// allowedTag is what LVM takes (lvm(8), tags).
var allowedTag = regexp.MustCompile(`^[A-Za-z0-9_+./=!:#&][A-Za-z0-9_+.\-/=!:#&]*$`)

func checkRoundTrip(t *testing.T, r record) {
	t.Helper()
	tags := r.tags()
	for _, tag := range tags {
		if !allowedTag.MatchString(tag) || len(tag) > maxTag {
			t.Errorf("LVM does not take the tag %q", tag)
		}
	}
	slices.Sort(tags) // as lvm reports them
	got, err := parseTags(tags)
	if diff := cmp.Diff(r, got, compareRecords); err != nil || diff != "" {
		t.Errorf("%q: %v\n%s", tags, err, diff)
	}
}

func TestTagsHoldTheRecord(t *testing.T) {
	for name, r := range records {
		t.Run(name, func(t *testing.T) { checkRoundTrip(t, r) })
	}
	long := records["volume"]
	long.name = strings.Repeat("\xff", maxName)
	checkRoundTrip(t, long)
}

// Who reads the tags without this program can rely on these.
func TestTagsAreReadable(t *testing.T) {
	want := []string{
		"sd.v=1", "sd.kind=volume", "sd.name=cHZjLTEgKMOkKQ", "sd.created=2026-02-03T04:05:06.000000789Z", "sd.mode=filesystem", "sd.fs=ext4",
		"sd.access=SINGLE_NODE_MULTI_WRITER", "sd.access=SINGLE_NODE_WRITER", "sd.new=" + identityOf("x").String(),
	}
	if diff := cmp.Diff(want, records["volume"].tags()); diff != "" {
		t.Error(diff)
	}
}

func TestTagsThatAreRefused(t *testing.T) {
	const none = ""
	for _, test := range []struct {
		of, tag, instead string // none: it is missing
		err              string // part of the error
	}{
		{"volume", "sd.v", "sd.v=2", "another version"},
		{"volume", "sd.v", "sd.v", "sd.v"},
		{"volume", "sd.kind", none, "sd.kind: it is missing"},
		{"volume", "sd.kind", "sd.kind=clone", "sd.kind"},
		{"volume", "sd.name", "sd.name=???", "sd.name"},
		{"volume", "sd.name", "sd.name=cH", "sd.name"}, // its last bits are not zero
		{"volume", "sd.created", "sd.created=yesterday", "sd.created"},
		{"volume", "sd.mode", "sd.mode=tape", "sd.mode"},
		{"volume", "sd.fs", none, "sd.fs"},
		{"volume", "sd.fs", "sd.fs=vfat", "vfat"},
		{"volume", "sd.new", "sd.new=1", "sd.new"},
		{"volume", "sd.new", "sd.new=" + strings.ToUpper(identityOf("x").String()), "sd.new"},
		{"volume", "sd.new", "sd.newer=1", "sd.newer: it is not known"},
		{"restored", "sd.asked-fs", "sd.asked-fs=ext4", "sd.asked-fs"},
		{"restored", "sd.source", "sd.source=elsewhere", "sd.source"},
		{"restored", "sd.grow", "sd.grow=-1", "sd.grow"},
		{"restored", "sd.grow", "sd.grow=0x10", "sd.grow"},
		{"block", "sd.source", "sd.fs=ext4", "filesystem"},
		{"block", "sd.source", "sd.new=" + identityOf("x").String(), "filesystem"},
		{"block", "sd.source", "sd.mode=filesystem", "sd.mode: it is there 2 times"},
		{"snapshot", "sd.source", none, "snapshot"},
		{"snapshot", "sd.source", "sd.source=" + someSnapshot.String(), "snapshot"},
		{"snapshot", "sd.name", "sd.grow=1", "sd.name"},
		{"unready", "sd.ready-after", "sd.ready-after=60s", "sd.ready-after"},
		{"unready", "sd.ready-after", "sd.ready-after=-1m0s", "sd.ready-after"},
		{"block", "sd.source", "sd.ready-after=1m0s", "for snapshots"},
	} {
		var tags []string
		for _, tag := range records[test.of].tags() {
			if !strings.HasPrefix(tag, test.tag+"=") {
				tags = append(tags, tag)
			}
		}
		if test.instead != none {
			tags = append(tags, test.instead)
		}
		got, err := parseTags(tags)
		if err == nil || !strings.Contains(err.Error(), test.err) {
			t.Errorf("%q: %+v, %v; expected an error that says %q", tags, got, err, test.err)
		}
		if errors.Is(err, errVersion) != (test.instead == "sd.v=2") {
			t.Errorf("%q: %v", tags, err)
		}
	}
}

// An administrator, or a backup program, may put tags on our volumes.
func TestTagsOfOthersArePassedOver(t *testing.T) {
	want := records["block"]
	got, err := parseTags(append(want.tags(), "backup=nightly", "sdx", "sd"))
	if diff := cmp.Diff(want, got, compareRecords); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	for tags, ours := range map[string]bool{"": false, "backup": false, "sd.vault=1": false, "sd.kind=volume": false, "sd.v=1": true, "x,sd.v=99": true, "sd.v": true} {
		if isOurs(strings.Split(tags, ",")) != ours {
			t.Errorf("%q: expected ours %v", tags, ours)
		}
	}
}

func FuzzParseTags(f *testing.F) {
	for _, r := range records {
		f.Add(strings.Join(r.tags(), ","))
	}
	f.Add(",,sd.v=1,sd.v=1,sd.,=")
	f.Fuzz(func(t *testing.T, text string) {
		r, err := parseTags(strings.Split(text, ","))
		if err != nil {
			return
		}
		again, err := parseTags(r.tags())
		if diff := cmp.Diff(r, again, compareRecords); err != nil || diff != "" {
			t.Errorf("%q: %v\n%s", text, err, diff)
		}
	})
}

func FuzzTagsRoundTrip(f *testing.F) {
	f.Add("name", int64(0), uint8(0), int64(0))
	f.Add("\x00\xff,\n=", int64(1<<60), uint8(0xff), int64(1<<62))
	modes := []backend.AccessMode{backend.MultiNodeReaderOnly, backend.SingleNodeReaderOnly, backend.SingleNodeWriter}
	kinds := slices.Sorted(maps.Keys(records))
	f.Fuzz(func(t *testing.T, name string, nanoseconds int64, bits uint8, grow int64) {
		r := records[kinds[int(bits)%len(kinds)]]
		if len(name) > maxName {
			t.Skip("CreateVolume refuses it")
		}
		r.name, r.created = name, time.Unix(0, nanoseconds).UTC()
		if r.kind == kindVolume {
			r.grow = max(grow, 0)
			r.access = modes[:int(bits>>2)%len(modes)]
			if len(r.access) == 0 {
				r.access = nil
			}
		}
		checkRoundTrip(t, r)
	})
}

func BenchmarkTags(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := parseTags(records["volume"].tags()); err != nil {
			b.Fatal(err)
		}
	}
}
