package backend

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// An ID is derived from a name, so that a repeated request finds its own
// object without an index of names, and no text of a user's ever becomes part
// of a path or a command line:
//
//	vol-0a1b2c3d-00112233445566778899aabbccddeeff
//	 |      |     '- first 128 bits of SHA-256(name), hex
//	 |      '------- first 32 bits of SHA-256(node ID), hex
//	 '-------------- kind: vol or snap
const (
	volumePrefix   = "vol-"
	snapshotPrefix = "snap-"
	nodeDigits     = 8
	nameDigits     = 32
)

// VolumeID identifies a volume. The zero VolumeID identifies none. Only
// NewVolumeID and ParseVolumeID make others, so that every one is well formed.
type VolumeID struct{ id }

// SnapshotID identifies a snapshot, as VolumeID does a volume.
type SnapshotID struct{ id }

// NewVolumeID derives the ID of the volume called name on node.
func NewVolumeID(node, name string) VolumeID { return VolumeID{derive(volumePrefix, node, name)} }

// NewSnapshotID derives the ID of the snapshot called name on node.
func NewSnapshotID(node, name string) SnapshotID {
	return SnapshotID{derive(snapshotPrefix, node, name)}
}

// ParseVolumeID accepts exactly what VolumeID.String returns. An ID of any
// other form was never given out: ErrNotFound.
func ParseVolumeID(text string) (VolumeID, error) {
	parsed, err := parse("volume", volumePrefix, text)
	return VolumeID{parsed}, err
}

// ParseSnapshotID accepts exactly what SnapshotID.String returns. An ID of any
// other form was never given out: ErrNotFound.
func ParseSnapshotID(text string) (SnapshotID, error) {
	parsed, err := parse("snapshot", snapshotPrefix, text)
	return SnapshotID{parsed}, err
}

// UnmarshalText parses as ParseVolumeID does. Empty text is the zero VolumeID.
func (v *VolumeID) UnmarshalText(text []byte) (err error) {
	*v = VolumeID{}
	if len(text) > 0 {
		*v, err = ParseVolumeID(string(text))
	}
	return err
}

// UnmarshalText parses as ParseSnapshotID does. Empty text is the zero SnapshotID.
func (s *SnapshotID) UnmarshalText(text []byte) (err error) {
	*s = SnapshotID{}
	if len(text) > 0 {
		*s, err = ParseSnapshotID(string(text))
	}
	return err
}

// NodeHash returns what an ID made on node carries of that node's ID.
func NodeHash(node string) string { return hexDigest(node, nodeDigits) }

type id struct{ text string }

// String returns the ID as CSI sees it. It is safe as a file name, as the name
// of a logical volume and in a log.
func (i id) String() string { return i.text }

// IsZero says whether the ID identifies nothing.
func (i id) IsZero() bool { return i.text == "" }

// NodeHash returns the hash of the node on which the ID was made; see NodeHash.
func (i id) NodeHash() string {
	if i.IsZero() {
		return ""
	}
	end := len(i.text) - nameDigits - 1
	return i.text[end-nodeDigits : end]
}

// MarshalText returns what String returns.
func (i id) MarshalText() ([]byte, error) { return []byte(i.text), nil }

func derive(prefix, node, name string) id {
	return id{prefix + hexDigest(node, nodeDigits) + "-" + hexDigest(name, nameDigits)}
}

func hexDigest(text string, digits int) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])[:digits]
}

func parse(kind, prefix, text string) (id, error) {
	rest, found := strings.CutPrefix(text, prefix)
	if !found || len(rest) != nodeDigits+1+nameDigits || rest[nodeDigits] != '-' ||
		!isLowerHex(rest[:nodeDigits]) || !isLowerHex(rest[nodeDigits+1:]) {
		return id{}, fmt.Errorf("%s ID %.64q is not of the form that this driver gives out: %w", kind, text, ErrNotFound)
	}
	return id{text}, nil
}

func isLowerHex(s string) bool {
	return strings.Trim(s, "0123456789abcdef") == ""
}
