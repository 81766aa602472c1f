package treecopy

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

// Foreign describes an archive that another program made.
type Foreign struct {
	// Root is the directory in the archive that is the root of the tree: the
	// archive's first entry, if all others lie in it ("tar cz /some/path"
	// makes it some/path), or else empty, which is the archive's top.
	Root string

	// Bytes is the size of all files together, holes included.
	Bytes int64

	// Entries is how many files, directories and others there are.
	Entries int64
}

// SurveyForeign looks through an archive: a tar file of any of the formats that
// GNU tar writes, as it is or compressed with gzip or zstd.
func SurveyForeign(ctx context.Context, in *os.File) (Foreign, error) {
	archive, err := openForeign(in, "")
	if err != nil {
		return Foreign{}, fmt.Errorf("open archive: %w", err)
	}
	defer archive.close()
	var found Foreign
	for first := true; ; first = false {
		header, err := archive.header()
		if err == io.EOF { //nolint:errorlint // as in pump
			return found, nil
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return Foreign{}, err
		}
		path, err := foreignPath(header.Name)
		if err != nil {
			return Foreign{}, fmt.Errorf("entry %.200q: %w", header.Name, err)
		}
		if first && header.Typeflag == tar.TypeDir {
			found.Root = path
		}
		if _, inside := below(found.Root, path); !inside {
			found.Root = ""
		}
		if header.Size > math.MaxInt64-found.Bytes {
			return Foreign{}, malformed("its files have more than %d bytes", int64(math.MaxInt64))
		}
		found.Bytes += header.Size
		found.Entries++
	}
}

// ReadForeign makes in root, an empty directory, the tree of an archive of which
// SurveyForeign has found what it is. It does as ReadTar does, but that holes
// become zeros and that POSIX ACLs are left out.
func ReadForeign(ctx context.Context, in *os.File, found Foreign, root *os.File, progress *backend.Progress) error {
	w := newWorkers(ctx)
	defer w.cancel(nil)
	m, err := newMover(w, root, progress)
	if err != nil {
		return err
	}
	archive, err := openForeign(in, found.Root)
	if err != nil {
		return fmt.Errorf("open archive: %w", err)
	}
	from := &tarSource{workers: w, in: &input{close: archive.close}, decoder: archive}
	to, err := newTreeSink(w, m, root)
	if err != nil {
		from.close()
		return classify(err)
	}
	return classify(w.transfer(from, to))
}

// foreignDecoder understands an archive with the help of the standard library,
// which knows all formats. Names and numbers are checked as in decoder.
type foreignDecoder struct {
	*foreignInput
	root string

	// held is the first entry of an archive that lacks its root, while a root
	// is made up.
	held    *tar.Header
	started bool // the root was returned
}

func openForeign(file *os.File, root string) (*foreignDecoder, error) {
	in, err := newForeignInput(file)
	return &foreignDecoder{foreignInput: in, root: root}, err
}

func (d *foreignDecoder) next(e *entry) (err error) {
	header := d.held
	if d.held = nil; header == nil {
		if header, err = d.header(); err == io.EOF && d.started { //nolint:errorlint // as in pump
			return d.end()
		} else if err != nil {
			return truncated(err)
		}
	}
	if *e, err = d.entry(header); err != nil {
		return fmt.Errorf("entry %.200q: %w", header.Name, err)
	}
	if !d.started && e.path != "" {
		*e = entry{mode: unix.S_IFDIR | 0o755, mtime: e.mtime, atime: e.mtime, contents: contents{file: noFile}}
		d.held = header
	} else if d.started == (e.path == "") || e.path == "" && !e.isDir() {
		return malformed("the root must be a directory and come first, and once")
	}
	d.started = true
	return nil
}

// entry makes an entry of a header.
func (d *foreignDecoder) entry(h *tar.Header) (e entry, err error) {
	if h.Uid < 0 || h.Uid >= math.MaxUint32 || h.Gid < 0 || h.Gid >= math.MaxUint32 {
		return e, malformed("it belongs to %d:%d", h.Uid, h.Gid)
	}
	e = entry{
		mode: uint32(h.Mode) & 0o7777, uid: uint32(h.Uid), gid: uint32(h.Gid),
		mtime: timespec(h.ModTime), atime: timespec(h.ModTime), contents: contents{file: noFile},
	}
	if !h.AccessTime.IsZero() {
		e.atime = timespec(h.AccessTime)
	}
	if e.path, err = d.path(h.Name); err != nil {
		return e, err
	}
	for key, value := range h.PAXRecords {
		if name, found := strings.CutPrefix(key, paxXattr); found && keptXattr(keyUnescaper.Replace(name)) {
			e.xattrs = append(e.xattrs, xattr{keyUnescaper.Replace(name), value})
		}
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		e.mode |= unix.S_IFREG
		if e.contents.size = h.Size; h.Size > 0 {
			e.contents.segments = []segment{{length: h.Size}}
		}
	case tar.TypeLink:
		if e.sameAs, err = d.path(h.Linkname); err == nil && e.sameAs == "" {
			err = malformed("it is a link to the root")
		}
	case tar.TypeSymlink:
		e.mode |= unix.S_IFLNK
		if e.target = h.Linkname; e.target == "" {
			err = malformed("it is a symbolic link to nothing")
		}
	case tar.TypeChar, tar.TypeBlock, tar.TypeDir, tar.TypeFifo:
		e.mode |= fileTypes[h.Typeflag]
		e.device = unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))
	default:
		err = malformed("it is of type %q, which is not known", h.Typeflag)
	}
	return e, err
}

// path returns the path below the root of what the archive calls name.
func (d *foreignDecoder) path(name string) (string, error) {
	path, err := foreignPath(name)
	if err != nil {
		return "", err
	}
	path, inside := below(d.root, path)
	if !inside {
		return "", malformed("%.200q is not in %.200q", name, d.root)
	}
	return path, nil
}

// foreignPath returns a name without what makes no difference: dots, and slashes
// at its ends or beside each other. A name that leads upward is refused.
func foreignPath(name string) (string, error) {
	var components []string
	for component := range strings.SplitSeq(name, "/") {
		switch {
		case component == ".." || strings.IndexByte(component, 0) >= 0:
			return "", malformed("its name has the component %q", component)
		case component != "" && component != ".":
			components = append(components, component)
		}
	}
	return strings.Join(components, "/"), nil
}

// below returns what path is called in the directory root, empty if it is that
// directory, and whether it is that or lies in it.
func below(root, path string) (string, bool) {
	if root == "" || path == root {
		return strings.TrimPrefix(path, root), true
	}
	return strings.CutPrefix(path, root+"/")
}

func timespec(t time.Time) unix.Timespec {
	return unix.Timespec{Sec: t.Unix(), Nsec: int64(t.Nanosecond())}
}
