package lvm

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

// The tags of a logical volume of ours; the package comment says what each is
// for. LVM allows letters, digits and _+.-/=!:#& in a tag, and 1,024 bytes.
const (
	tagVersion = "sd.v"
	tagKind    = "sd.kind"
	tagName    = "sd.name"
	tagCreated = "sd.created"
	tagMode    = "sd.mode"
	tagFS      = "sd.fs"
	tagAskedFS = "sd.asked-fs"
	tagAccess  = "sd.access"
	tagSource  = "sd.source"
	tagNew     = "sd.new"
	tagGrow    = "sd.grow"
	tagReady   = "sd.ready-after"

	ourTags      = "sd."
	version      = "1"
	maxTag       = 1024
	kindVolume   = "volume"
	kindSnapshot = "snapshot"
)

// maxName is how many bytes of a name fit into a tag.
var maxName = base64.RawURLEncoding.DecodedLen(maxTag - len(tagName+"="))

// record is what the tags of a logical volume of ours say.
type record struct {
	kind    string
	name    string
	created time.Time
	mode    backend.Mode

	// fsType is the filesystem that is on it or, of one that is not formatted
	// yet, will be; empty for a raw device. askedFS: it was asked for, and not
	// left to us.
	fsType  string
	askedFS bool

	access []backend.AccessMode
	source backend.Source

	// unformatted, unless it is empty, says that no filesystem was ever made
	// here, nor in what this was made from, and has the UUIDs of all that this
	// program may have begun to make: that of this volume, and of each that it
	// was made from.
	unformatted []uuid.UUID

	// grow is the size in bytes that the volume has at least, once it is whole.
	grow int64

	// readyAfter is a snapshot's backend.SnapshotSpec.ReadyAfter.
	readyAfter time.Duration
}

// errVersion says that another version of this program wrote the tags.
var errVersion = errors.New("made by another version of this program")

// tags returns the tags that say what the record does.
func (r record) tags() []string {
	tags := []string{
		tag(tagVersion, version),
		tag(tagKind, r.kind),
		tag(tagName, base64.RawURLEncoding.EncodeToString([]byte(r.name))),
		tag(tagCreated, r.created.UTC().Format(time.RFC3339Nano)),
		tag(tagMode, string(r.mode)),
	}
	if r.fsType != "" {
		tags = append(tags, tag(tagFS, r.fsType))
	}
	if r.askedFS {
		tags = append(tags, tag(tagAskedFS, r.fsType))
	}
	for _, mode := range r.access {
		tags = append(tags, tag(tagAccess, string(mode)))
	}
	if source := r.sourceID(); source != "" {
		tags = append(tags, tag(tagSource, source))
	}
	tags = append(tags, r.newTags()...)
	if r.grow != 0 {
		tags = append(tags, tag(tagGrow, strconv.FormatInt(r.grow, 10)))
	}
	if r.readyAfter != 0 {
		tags = append(tags, tag(tagReady, r.readyAfter.String()))
	}
	return tags
}

func tag(key, value string) string { return key + "=" + value }

// isNew says whether no filesystem was ever made where one belongs.
func (r record) isNew() bool { return len(r.unformatted) > 0 }

// newTags are the tags that go when a filesystem has been made.
func (r record) newTags() (tags []string) {
	for _, id := range r.unformatted {
		tags = append(tags, tag(tagNew, id.String()))
	}
	return tags
}

// sourceID returns the ID of what it was made from; empty: from nothing.
func (r record) sourceID() string {
	if r.source.Snapshot.IsZero() {
		return r.source.Volume.String()
	}
	return r.source.Snapshot.String()
}

// isOurs says whether a logical volume with these tags is ours, be it of this
// version or of another.
func isOurs(tags []string) bool {
	return slices.ContainsFunc(tags, func(t string) bool {
		key, _, _ := strings.Cut(t, "=")
		return key == tagVersion
	})
}

// parseTags returns the record that the tags of a logical volume of ours hold.
// Tags of others are passed over. One of ours that is not known, is there
// twice, or is missing is an error, since nobody can tell what is meant.
func parseTags(tags []string) (record, error) {
	values := map[string][]string{}
	for _, t := range tags {
		if key, value, _ := strings.Cut(t, "="); strings.HasPrefix(key, ourTags) {
			values[key] = append(values[key], value)
		}
	}
	p := tagParser{values: values}
	if v := p.one(tagVersion); p.err == nil && v != version {
		return record{}, fmt.Errorf("tag %s is %q, this program knows %q: %w", tagVersion, v, version, errVersion)
	}
	r := record{
		kind:        p.oneOf(tagKind, kindVolume, kindSnapshot),
		name:        p.base64(tagName),
		created:     p.time(tagCreated),
		mode:        backend.Mode(p.oneOf(tagMode, string(backend.Filesystem), string(backend.Block))),
		fsType:      p.optional(tagFS),
		access:      p.accessModes(),
		source:      p.source(),
		unformatted: p.uuids(tagNew),
		grow:        p.size(tagGrow),
		readyAfter:  p.duration(tagReady),
	}
	asked := p.optional(tagAskedFS)
	r.askedFS = asked != ""
	p.end()
	if p.err == nil {
		p.err = r.check(asked)
	}
	if p.err != nil {
		return record{}, p.err
	}
	return r, nil
}

// check looks whether the values of a record go together.
func (r record) check(askedFS string) error {
	_, known := filesystems[r.fsType]
	switch {
	case r.mode == backend.Block && (r.fsType != "" || r.isNew()):
		return fmt.Errorf("tags %s and %s are for volumes that hold a filesystem", tagFS, tagNew)
	case r.mode == backend.Filesystem && !known:
		return fmt.Errorf("tag %s: the filesystem %q is not known", tagFS, r.fsType)
	case r.askedFS && askedFS != r.fsType:
		return fmt.Errorf("tag %s: %q is not the filesystem %q", tagAskedFS, askedFS, r.fsType)
	case r.kind == kindSnapshot && (r.source.Volume.IsZero() || r.askedFS || len(r.access) > 0 || r.grow != 0):
		return errors.New("tags: not those of a snapshot")
	case r.kind == kindVolume && r.readyAfter != 0:
		return fmt.Errorf("tag %s is for snapshots", tagReady)
	}
	return nil
}

// tagParser takes values out and keeps the first error.
type tagParser struct {
	values map[string][]string
	err    error
}

func (p *tagParser) fail(key, format string, args ...any) {
	if p.err == nil {
		p.err = fmt.Errorf("tag %s: %s", key, fmt.Sprintf(format, args...))
	}
}

// optional returns the only value of a key, and empty when there is none.
func (p *tagParser) optional(key string) string {
	values, there := p.values[key]
	delete(p.values, key)
	switch {
	case len(values) > 1:
		p.fail(key, "it is there %d times", len(values))
	case there && values[0] == "" && key != tagName:
		p.fail(key, "it is empty")
	case there:
		return values[0]
	}
	return ""
}

// one returns the value of a key that has to be there.
func (p *tagParser) one(key string) string {
	if _, there := p.values[key]; !there {
		p.fail(key, "it is missing")
	}
	return p.optional(key)
}

func (p *tagParser) oneOf(key string, allowed ...string) string {
	value := p.one(key)
	if !slices.Contains(allowed, value) {
		p.fail(key, "%q is not one of %q", value, allowed)
	}
	return value
}

func (p *tagParser) base64(key string) string {
	text, err := base64.RawURLEncoding.Strict().DecodeString(p.one(key))
	if err != nil {
		p.fail(key, "%v", err)
	}
	return string(text)
}

func (p *tagParser) time(key string) time.Time {
	value, err := time.Parse(time.RFC3339Nano, p.one(key))
	if err != nil {
		p.fail(key, "%v", err)
	}
	return value.UTC()
}

// all returns the values of a key in alphabetical order; LVM keeps none.
func (p *tagParser) all(key string) []string {
	values := slices.Sorted(slices.Values(p.values[key]))
	delete(p.values, key)
	return values
}

func (p *tagParser) accessModes() (modes []backend.AccessMode) {
	for _, value := range p.all(tagAccess) {
		modes = append(modes, backend.AccessMode(value))
	}
	return modes
}

func (p *tagParser) source() backend.Source {
	id := p.optional(tagSource)
	if id == "" {
		return backend.Source{}
	}
	if volume, err := backend.ParseVolumeID(id); err == nil {
		return backend.Source{Volume: volume}
	}
	snapshot, err := backend.ParseSnapshotID(id)
	if err != nil {
		p.fail(tagSource, "%q is no ID of ours", id)
	}
	return backend.Source{Snapshot: snapshot}
}

func (p *tagParser) uuids(key string) (ids []uuid.UUID) {
	for _, text := range p.all(key) {
		id, err := uuid.Parse(text)
		if err != nil || id.String() != text {
			p.fail(key, "%q is no UUID", text)
		}
		ids = append(ids, id)
	}
	return ids
}

func (p *tagParser) size(key string) int64 {
	text := p.optional(key)
	if text == "" {
		return 0
	}
	size, err := strconv.ParseInt(text, 10, 64)
	if err != nil || size <= 0 || strconv.FormatInt(size, 10) != text {
		p.fail(key, "%q is no size in bytes", text)
	}
	return size
}

func (p *tagParser) duration(key string) time.Duration {
	text := p.optional(key)
	if text == "" {
		return 0
	}
	duration, err := time.ParseDuration(text)
	if err != nil || duration <= 0 || duration.String() != text {
		p.fail(key, "%q is no duration", text)
	}
	return duration
}

// end complains about tags of ours that nobody asked for.
func (p *tagParser) end() {
	for key := range p.values {
		p.fail(key, "it is not known")
	}
}
