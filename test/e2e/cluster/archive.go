package cluster

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path"
	"runtime"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// file is one entry of an image: the file source of this machine, or a symbolic
// link, or literal text, or, with none of them, a directory.
type file struct {
	path   string
	source string
	link   string
	text   string
	mode   int64 // default 0755
}

// writeArchive writes images as one file for "ctr images import".
func writeArchive(archive string, images []image) error {
	tagged := map[name.Tag]v1.Image{}
	for _, i := range images {
		tag, err := name.NewTag(i.name)
		if err != nil {
			return err
		}
		if tagged[tag], err = i.build(); err != nil {
			return fmt.Errorf("image %s: %w", i.name, err)
		}
	}
	// Nobody shall ever import half an archive.
	if err := tarball.MultiWriteToFile(archive+".new", tagged); err != nil {
		return err
	}
	return os.Rename(archive+".new", archive)
}

func (i image) build() (v1.Image, error) {
	content, err := layer(i.files)
	if err != nil {
		return nil, err
	}
	built, err := mutate.AppendLayers(empty.Image, static.NewLayer(content, types.DockerUncompressedLayer))
	if err != nil {
		return nil, err
	}
	config, err := built.ConfigFile()
	if err != nil {
		return nil, err
	}
	config.OS, config.Architecture = "linux", runtime.GOARCH
	config.Config = v1.Config{
		Entrypoint: i.entrypoint, Cmd: i.cmd, User: i.user,
		Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
	}
	return mutate.ConfigFile(built, config)
}

// layer is a tar file of files and of the directories above them.
func layer(files []file) ([]byte, error) {
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	made := map[string]bool{"/": true}
	var mkdirs func(dir string) error
	mkdirs = func(dir string) error {
		if made[dir] {
			return nil
		}
		made[dir] = true
		if err := mkdirs(path.Dir(dir)); err != nil {
			return err
		}
		return w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir[1:] + "/", Mode: 0o755})
	}
	for _, f := range files {
		if made[f.path] {
			continue
		}
		made[f.path] = true
		if err := mkdirs(path.Dir(f.path)); err != nil {
			return nil, err
		}
		if err := f.write(w); err != nil {
			return nil, err
		}
	}
	return buffer.Bytes(), w.Close()
}

func (f file) write(w *tar.Writer) error {
	header := tar.Header{Name: f.path[1:], Mode: f.mode}
	if header.Mode == 0 {
		header.Mode = 0o755
	}
	content := []byte(f.text)
	switch {
	case f.source != "":
		var err error
		if content, err = os.ReadFile(f.source); err != nil {
			return err
		}
		fallthrough
	case f.text != "":
		header.Typeflag, header.Size = tar.TypeReg, int64(len(content))
	case f.link != "":
		header.Typeflag, header.Linkname = tar.TypeSymlink, f.link
	default:
		header.Typeflag, header.Name = tar.TypeDir, header.Name+"/"
	}
	if err := w.WriteHeader(&header); err != nil {
		return err
	}
	_, err := w.Write(content)
	return err
}

// busybox is a system of one static program: a shell and the usual tools.
func busybox() []file {
	files := []file{
		{path: "/tmp", mode: 0o1777},
		{path: "/root", mode: 0o700},
		{path: "/etc/passwd", text: "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n", mode: 0o644},
		{path: "/etc/group", text: "root:x:0:\nnogroup:x:65534:\n", mode: 0o644},
	}
	program, err := exec.LookPath("busybox")
	if err != nil { // Missing has said so; reading the file will fail
		program = "/bin/busybox"
	}
	files = append(files, file{path: "/bin/busybox", source: program})
	applets, _ := exec.Command(program, "--list").Output()
	for applet := range strings.FieldsSeq(string(applets)) {
		files = append(files, file{path: "/bin/" + applet, link: "busybox"})
	}
	return files
}
