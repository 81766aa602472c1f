package lvm

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/google/uuid"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

// object is a logical volume of ours: what it is called, how large it is in
// bytes, and what its tags say.
type object struct {
	id   string
	size int64
	record
}

// volume returns the volume that an object is.
func (o object) volume() backend.Volume {
	id, _ := backend.ParseVolumeID(o.id) // read has looked at it
	profile := backend.Profile{Mode: o.mode}
	if o.askedFS {
		profile.FSType = o.fsType
	}
	return backend.Volume{
		VolumeSpec: backend.VolumeSpec{
			ID: id, Name: o.name, Profile: profile, AccessModes: o.access, Capacity: o.size, Source: o.source,
		},
		CreatedAt: o.created,
		OnDevice:  true,
	}
}

// snapshot returns the snapshot that an object is.
func (o object) snapshot() backend.Snapshot {
	id, _ := backend.ParseSnapshotID(o.id) // read has looked at it
	return backend.Snapshot{
		SnapshotSpec: backend.SnapshotSpec{ID: id, Name: o.name, Source: o.source.Volume, ReadyAfter: o.readyAfter},
		Mode:         o.mode,
		Size:         o.size,
		CreatedAt:    o.created,
	}
}

// unfinished says whether a crash has come between the two commands that make
// a volume larger than its source.
func (o object) unfinished() bool { return o.size < o.grow }

// promise is how many bytes of the pool an object may come to take beyond
// those that its source has: nobody writes to a snapshot.
func (o object) promise() int64 {
	if o.kind == kindSnapshot {
		return 0
	}
	return max(o.size, o.grow)
}

// sameRequest says whether two records are of the same object, made at
// different times perhaps.
func (r record) sameRequest(other record) bool {
	return r.kind == other.kind && r.name == other.name && r.mode == other.mode && r.fsType == other.fsType && r.askedFS == other.askedFS &&
		slices.Equal(r.access, other.access) && r.source == other.source && r.grow == other.grow && r.readyAfter == other.readyAfter
}

// row is what lvm reports of one logical volume.
type row struct {
	Name string `json:"lv_name"`
	Size int64  `json:"lv_size,string"`
	Tags string `json:"lv_tags"`
	Pool string `json:"pool_lv"`

	// Device is a thin volume's ID in its pool, and Transaction that of the
	// pool in which it was made. Of a pool, Transaction is the present one.
	Device      number `json:"thin_id"`
	Transaction number `json:"transaction_id"`
}

// number is one that lvm leaves empty where there is none.
type number uint64

// UnmarshalText implements encoding.TextUnmarshaler.
func (n *number) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		return nil
	}
	value, err := strconv.ParseUint(string(text), 10, 64)
	*n = number(value)
	return err
}

const rowFields = "lv_name,lv_size,lv_tags,pool_lv,thin_id,transaction_id"

// counted says whether the kernel has finished making a thin volume, given the
// state of its pool.
func (r row) counted(pool poolState) bool { return uint64(r.Transaction) < pool.TransactionID }

func (r row) tags() []string { return strings.Split(r.Tags, ",") }

// object returns the object that a logical volume of ours is, or why it is none.
func (r row) object() (object, error) {
	record, err := parseTags(r.tags())
	if err != nil {
		return object{}, err
	}
	if record.kind == kindVolume {
		_, err = backend.ParseVolumeID(r.Name)
	} else {
		_, err = backend.ParseSnapshotID(r.Name)
	}
	if err != nil {
		return object{}, fmt.Errorf("its name is not that of a %s: %w", record.kind, errors.Unwrap(err))
	}
	return object{id: r.Name, size: r.Size, record: record}, nil
}

// namespace is what the UUIDs of our filesystems are derived in (RFC 9562, 5.5).
var namespace = uuid.MustParse("c3a3b1a5-6d6b-4d5b-9a39-0f8f0c1f7a64")

// identityOf returns the UUID of the filesystem that is made on a volume.
func identityOf(id string) uuid.UUID { return uuid.NewSHA1(namespace, []byte(id)) }

// index holds the objects that there are, by ID, and those that are not
// served, with the reason. lvm is the truth; nothing but this process makes
// objects or deletes them, apart from an administrator.
type index struct {
	mu      sync.Mutex // never held across I/O
	objects map[string]object
	damaged map[string]error
}

func (i *index) get(id string) (object, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	o, found := i.objects[id]
	return o, found
}

func (i *index) put(o object) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.objects[o.id] = o
	delete(i.damaged, o.id) // a request that was repeated has finished it
}

func (i *index) remove(id string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	delete(i.objects, id)
	delete(i.damaged, id)
}

func (i *index) ids() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Sorted(maps.Keys(i.objects))
}

// reason returns why an object is not served; nil: it is, or there is none.
func (i *index) reason(id string) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.damaged[id]
}

// fill replaces everything.
func (i *index) fill(objects []object, damaged map[string]error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.objects, i.damaged = map[string]object{}, damaged
	for _, o := range objects {
		i.objects[o.id] = o
	}
}
