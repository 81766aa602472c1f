package hostpath

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

// The names in an object's directory.
const (
	recordFile = "meta.json"
	dataDir    = "data"
	imageFile  = "image"
)

// recordVersion is raised when an older program would misread a newer record.
const recordVersion = 1

// volumeRecord is what is stored with a volume.
type volumeRecord struct {
	Version int            `json:"version"`
	Volume  backend.Volume `json:"volume"`
	Layout  layout         `json:"layout"`
	FSType  string         `json:"fsType,omitempty"` // of layout image: what is on it
}

// snapshotRecord is what is stored with a snapshot.
type snapshotRecord struct {
	Version  int              `json:"version"`
	Snapshot backend.Snapshot `json:"snapshot"`
	Layout   layout           `json:"layout"` // of the source
	FSType   string           `json:"fsType,omitempty"`
	Format   format           `json:"format"`
}

// versioned is a record of either kind.
type versioned interface{ version() int }

func (r *volumeRecord) version() int   { return r.Version }
func (r *snapshotRecord) version() int { return r.Version }

// data returns the name of what holds the volume's data.
func (r volumeRecord) data() string {
	if r.Layout == layoutDirectory {
		return dataDir
	}
	return imageFile
}

func volumePath(id backend.VolumeID) string     { return path.Join(volumesDir, id.String()) }
func snapshotPath(id backend.SnapshotID) string { return path.Join(snapshotsDir, id.String()) }

func (b *Backend) readVolume(id backend.VolumeID) (volumeRecord, error) {
	return b.readVolumeIn(volumePath(id), id)
}

// readVolumeIn is readVolume for a volume that lies in dir.
func (b *Backend) readVolumeIn(dir string, id backend.VolumeID) (record volumeRecord, err error) {
	err = b.readRecord(dir, &record)
	switch {
	case err != nil:
	case record.Volume.ID != id:
		err = damage("its record is that of %q", record.Volume.ID)
	case !record.Layout.holds(record.FSType):
		err = notUnderstood("layout %q with filesystem %q", record.Layout, record.FSType)
	}
	return record, err
}

func (b *Backend) readSnapshot(id backend.SnapshotID) (record snapshotRecord, err error) {
	err = b.readRecord(snapshotPath(id), &record)
	switch {
	case err != nil:
	case record.Snapshot.ID != id:
		err = damage("its record is that of %q", record.Snapshot.ID)
	case !record.Layout.holds(record.FSType) || !slices.Contains(record.Layout.formats(), record.Format):
		err = notUnderstood("layout %q with filesystem %q in format %q", record.Layout, record.FSType, record.Format)
	}
	return record, err
}

// damagedError says why an object can never be served: it is not, or no longer,
// what this program could have written.
type damagedError struct{ reason string }

func (d damagedError) Error() string { return d.reason }

func damage(format string, args ...any) error {
	return damagedError{fmt.Sprintf(format, args...)}
}

// notUnderstood is no damage: what another version of this program wrote may
// mean something to that one.
func notUnderstood(format string, args ...any) error {
	return fmt.Errorf("its record is not understood, use the program that wrote it: %w", fmt.Errorf(format, args...))
}

// readRecord reads the record of the object in dir. ErrNotFound when there is
// no such object, a damagedError when its record makes no sense; any other
// error may be one of this moment or of this program.
func (b *Backend) readRecord(dir string, record versioned) error {
	text, err := b.readFile(path.Join(dir, recordFile))
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		if _, err := b.root.Lstat(dir); err == nil {
			return damage("it has no record")
		}
		return fmt.Errorf("%s: %w", path.Base(dir), backend.ErrNotFound)
	}
	if err != nil {
		return fmt.Errorf("read its record: %w", err)
	}
	return decodeRecord(text, record)
}

// decodeRecord is strict: a field that this program does not know may be one
// without which the rest means something else.
func decodeRecord(text []byte, record versioned) error {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(record)
	if err == nil && record.version() == recordVersion && onlySpace(text[decoder.InputOffset():]) {
		return nil
	}
	return explainRecord(text, err)
}

// explainRecord says what is wrong with a record, of which err is what
// decoding it has met. What is JSON, and not understood, another version of this
// program may have written: that is not damage.
func explainRecord(text []byte, err error) error {
	if !json.Valid(text) {
		return damage("its record is not JSON")
	}
	var header struct {
		Version int `json:"version"`
	}
	if headerErr := json.Unmarshal(text, &header); headerErr == nil && header.Version != recordVersion {
		return fmt.Errorf("its record has version %d and this program knows only version %d: use the program that wrote it", header.Version, recordVersion)
	}
	return notUnderstood("%w", err)
}

// onlySpace says whether text is nothing but what JSON calls white space.
func onlySpace(text []byte) bool { return len(bytes.Trim(text, " \t\r\n")) == 0 }

func encodeRecord(record any) ([]byte, error) {
	text, err := json.MarshalIndent(record, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode record: %w", err)
	}
	return append(text, '\n'), nil
}

// writeRecord makes a new file that holds the record. It is not synced.
func writeRecord(root *os.Root, name string, record any) error {
	text, err := encodeRecord(record)
	if err != nil {
		return err
	}
	file, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(text)
	return errors.Join(err, file.Close())
}
