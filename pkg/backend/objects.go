package backend

import "time"

// Mode is how a volume is accessed (CSI VolumeCapability.access_type).
type Mode string

// The modes of a volume.
const (
	Filesystem Mode = "filesystem"
	Block      Mode = "block"
)

// AccessMode is who may use a volume at once: the CSI access modes that one
// node can honour, under their CSI names.
type AccessMode string

// The access modes that one node can honour.
const (
	SingleNodeWriter       AccessMode = "SINGLE_NODE_WRITER"
	SingleNodeReaderOnly   AccessMode = "SINGLE_NODE_READER_ONLY"
	SingleNodeSingleWriter AccessMode = "SINGLE_NODE_SINGLE_WRITER"
	SingleNodeMultiWriter  AccessMode = "SINGLE_NODE_MULTI_WRITER"
	MultiNodeReaderOnly    AccessMode = "MULTI_NODE_READER_ONLY"
)

// Profile is what makes volumes alike: all that a size limit or a price could
// depend on.
type Profile struct {
	Mode Mode `json:"mode"`

	// FSType is the filesystem asked for; empty: the backend's choice.
	FSType string `json:"fsType,omitempty"`

	// Parameters are the StorageClass parameters meant for the backend.
	Parameters map[string]string `json:"parameters,omitempty"`
}

// Source is what a new volume is filled from: nothing (the zero Source), a
// snapshot, or a volume.
type Source struct {
	Snapshot SnapshotID `json:"snapshot,omitzero"`
	Volume   VolumeID   `json:"volume,omitzero"`
}

// VolumeSpec is what a volume is asked to be.
type VolumeSpec struct {
	ID   VolumeID `json:"id"`
	Name string   `json:"name"`
	Profile

	// AccessModes are sorted and without repetition.
	AccessModes []AccessMode `json:"accessModes"`
	Capacity    int64        `json:"capacityBytes"`
	Source      Source       `json:"source,omitzero"`
}

// Volume is a committed volume. Capacity is its present size.
type Volume struct {
	VolumeSpec
	CreatedAt time.Time `json:"createdAt"`

	// OnDevice says that the volume is a block device below, so that growing
	// it has a second half on the node.
	OnDevice bool `json:"onDevice,omitempty"`
}

// SnapshotSpec is what a snapshot is asked to be.
type SnapshotSpec struct {
	ID     SnapshotID `json:"id"`
	Name   string     `json:"name"`
	Source VolumeID   `json:"source"`

	// Parameters are the VolumeSnapshotClass parameters meant for the backend.
	Parameters map[string]string `json:"parameters,omitempty"`

	// ReadyAfter is how long after its cut the snapshot is to count as not
	// ready to use: zero, but for tests of those who have to wait then. The
	// backend keeps it and does nothing else about it.
	ReadyAfter time.Duration `json:"readyAfter,omitzero"`
}

// Snapshot is a committed snapshot.
type Snapshot struct {
	SnapshotSpec

	// Mode is the source's mode; a volume made from the snapshot has it too.
	Mode Mode `json:"mode"`

	// Size is the size in bytes that a volume made from the snapshot needs at
	// least: the source's size at the cut.
	Size int64 `json:"sizeBytes"`

	// CreatedAt is the moment of the cut. It never changes.
	CreatedAt time.Time `json:"createdAt"`
}

// ReadyIn is how long it will still take until the snapshot can be used; not
// positive: it can be.
func (s Snapshot) ReadyIn(now time.Time) time.Duration {
	return s.CreatedAt.Add(s.ReadyAfter).Sub(now)
}
