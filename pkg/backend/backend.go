package backend

import "context"

// Backend stores volumes and snapshots. The package comment is part of its
// contract. Sizes are bytes.
type Backend interface {
	// Recover removes what a crash left behind and returns every committed
	// object. It is called once, before any other method. An object that is
	// damaged, or that another version of the program wrote, does not make it
	// fail: the object is kept, named in Inventory.Damaged, and everything
	// else is served.
	Recover(ctx context.Context) (Inventory, error)

	// Limits returns the sizes that a volume of this profile may have.
	// ErrInvalid when the profile cannot be served, with the reason: an unknown
	// parameter, a filesystem that is not on offer. It does no I/O.
	Limits(profile Profile) (Limits, error)

	// Available returns how large a volume of this profile could be created
	// now; never negative. ErrInvalid as for Limits.
	Available(ctx context.Context, profile Profile) (int64, error)

	// CreateVolume makes and commits a volume of exactly spec.Capacity bytes,
	// which the core has checked against Limits. With a source, the volume
	// holds what the source holds; the source exists, has the same mode, is
	// not larger, and stays until the method returns. ErrInvalid when the
	// source cannot become a volume of this profile, ErrExhausted when it is
	// larger than Available offers, with what stands in the way and what to do,
	// or when space runs out, ErrPrecondition when an object of that ID lies
	// there that Recover did not serve, ErrBusy while the source is being cut
	// for another. Cancelling ctx abandons the work.
	CreateVolume(ctx context.Context, spec VolumeSpec, progress *Progress) (Volume, error)

	// ExpandVolume sets the size of a committed volume, attached or not, to
	// capacity, which is larger than the present one. A filesystem on it is
	// not grown: that needs a mount, see Mount. ErrNotFound; ErrExhausted when
	// it is to grow by more than Available offers, or when space runs out.
	ExpandVolume(ctx context.Context, id VolumeID, capacity int64) (Volume, error)

	// DeleteVolume detaches and deletes a volume that is not in use. Deleting
	// what does not exist succeeds. It takes no longer for a full volume than
	// for an empty one.
	DeleteVolume(ctx context.Context, id VolumeID) error

	// CreateSnapshot cuts and commits a snapshot of a committed volume, which
	// may be in use while it is cut. ErrInvalid for an unknown parameter,
	// ErrNotFound, ErrExhausted, ErrPrecondition when the volume is in
	// use in a way that rules a snapshot out, and ErrBusy while it is being cut
	// for another. Cancelling ctx abandons the work.
	CreateSnapshot(ctx context.Context, spec SnapshotSpec, progress *Progress) (Snapshot, error)

	// DeleteSnapshot deletes a snapshot. Deleting what does not exist
	// succeeds. Volumes made from it are not affected.
	DeleteSnapshot(ctx context.Context, id SnapshotID) error

	// Attach makes a committed volume ready to be mounted and says what to
	// mount. Attaching an attached volume brings its device to the volume's
	// present size and returns the same answer. ErrNotFound.
	Attach(ctx context.Context, id VolumeID) (Mount, error)

	// Attached says what Attach would say, without attaching, and whether the
	// volume is attached. A volume that needs no attaching always is. Source is
	// empty while it is not attached, the rest is not. ErrNotFound.
	Attached(ctx context.Context, id VolumeID) (Mount, bool, error)

	// Detach undoes Attach. Detaching what is not attached, or does not
	// exist, succeeds. A device that is still open goes when it is closed, or
	// with the next Detach or DeleteVolume after that.
	Detach(ctx context.Context, id VolumeID) error

	// VolumeHealth returns what is wrong with a volume now; nothing: it is not
	// known to be otherwise than healthy. It knows the committed volumes and
	// those of Inventory.DamagedVolumes; of all others ErrNotFound. What keeps
	// a volume from being used is a condition and no error: an error says that
	// the question could not be answered. No two conditions have both the same
	// Severity and the same Reason.
	//
	// It may be called at any moment, whatever other call works on the volume,
	// and neither waits for that nor takes its unfinished work for damage. It
	// is cheap enough to be called for every volume every minute: it starts no
	// process, its cost does not grow with the number of volumes, and it
	// writes nothing. Where the storage hangs, so may it.
	VolumeHealth(ctx context.Context, id VolumeID) ([]Condition, error)

	// StorageHealth returns what is wrong now with what all volumes lie on, as
	// VolumeHealth does and at the same price. The severities are Degraded, and
	// Inaccessible when volumes cannot be expected to work.
	StorageHealth(ctx context.Context) ([]Condition, error)

	// Gauges returns figures about what all volumes lie on, always the same
	// ones, under distinct names. It is as cheap as VolumeHealth.
	Gauges(ctx context.Context) ([]Gauge, error)

	// Close ends work in the background, which the next Recover goes on with,
	// and frees the storage for another process. Volumes stay attached: pods
	// go on using them.
	Close() error
}

// Inventory is what Recover found.
type Inventory struct {
	Volumes   []Volume
	Snapshots []Snapshot

	// Damaged has a line for each object that is not served: what it is,
	// where it lies now, and why it cannot be.
	Damaged []string

	// DamagedVolumes are the volumes among them, as far as their IDs can be
	// told, and those that an earlier Recover has set aside.
	DamagedVolumes []VolumeID

	// Unfinished are the IDs of objects that are not served and not damaged
	// either: only what a crash has left to do could not be done. DeleteVolume and
	// DeleteSnapshot delete them.
	Unfinished []string
}

// Limits are the sizes that volumes of one profile may have, in bytes. Every
// size is a multiple of Granularity.
type Limits struct {
	Default     int64
	Min         int64
	Max         int64
	Granularity int64
}

// Mount says how to mount an attached volume.
type Mount struct {
	// Source is an absolute path: a directory or device to bind, or a device
	// that holds a filesystem. Empty: the volume is not attached.
	Source string

	// FSType is the filesystem on the device Source. Empty: bind Source itself.
	FSType string

	// Options are options of the filesystem, without values, without which
	// mounting fails or misleads.
	Options []string
}

// StepFunc is called before each step of an operation that changes the
// storage, with the step's name. Tests use it to stop an operation where a
// crash would. It is nil in production.
type StepFunc func(name string)

// At calls f, unless it is nil.
func (f StepFunc) At(name string) {
	if f != nil {
		f(name)
	}
}
