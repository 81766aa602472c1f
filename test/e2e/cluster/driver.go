package cluster

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// LoadDriver builds the driver's image and gives it to the nodes under a name,
// whose tag becomes the driver's version. The image is what the Dockerfile would
// make: the program, and those of this machine's programs that the Dockerfile
// puts in. What it forgets is therefore missing here too.
func (c Cluster) LoadDriver(nodes []Node, name string) error {
	archive := c.Program("driver.tar")
	if err := c.buildDriver(archive, name); err != nil {
		return err
	}
	for _, n := range nodes {
		if err := c.ImportImages(n, archive); err != nil {
			return err
		}
	}
	return nil
}

func (c Cluster) buildDriver(archive, name string) error {
	_, version, _ := strings.Cut(filepath.Base(name), ":")
	program := c.Program("snapdriver")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w -X main.version="+version, "-o", program, "./cmd/snapdriver")
	build.Dir, build.Env, build.Stderr = c.Root, append(os.Environ(), "CGO_ENABLED=0"), os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("%s: %w", build, err)
	}
	recipe, err := readDockerfile(filepath.Join(c.Root, "Dockerfile"))
	if err != nil {
		return err
	}
	files, err := c.machinePrograms("driver-image", recipe.programs...)
	if err != nil {
		return err
	}
	files = append(files, file{path: recipe.entrypoint[0], source: program})
	return writeArchive(archive, []image{{name: name, files: files, entrypoint: recipe.entrypoint, cmd: recipe.cmd}})
}

// machinePrograms returns programs of this machine with what they need to run, by
// way of a directory of that name.
func (c Cluster) machinePrograms(dir string, names ...string) ([]file, error) {
	root := c.Program(dir)
	if err := os.RemoveAll(root); err != nil {
		return nil, err
	}
	programs := exec.Command(filepath.Join(c.Root, "hack/image-programs.sh"), append([]string{root}, names...)...)
	if out, err := programs.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%s: %w: %s", programs, err, out)
	}
	return filesBelow(root)
}

// recipe is what this package understands of a Dockerfile.
type recipe struct {
	programs        []string
	entrypoint, cmd []string
}

var programsLine = regexp.MustCompile(`(?m)^RUN /image-programs\.sh /image (.+)$`)

func readDockerfile(path string) (recipe, error) {
	var r recipe
	content, err := os.ReadFile(path)
	if err != nil {
		return r, err
	}
	if m := programsLine.FindSubmatch(content); m != nil {
		r.programs = strings.Fields(string(m[1]))
	}
	for line := range strings.Lines(string(content)) {
		instruction, value, _ := strings.Cut(line, " ")
		switch instruction {
		case "ENTRYPOINT":
			err = json.Unmarshal([]byte(value), &r.entrypoint)
		case "CMD":
			err = json.Unmarshal([]byte(value), &r.cmd)
		}
		if err != nil {
			return r, fmt.Errorf("%s: %s: %w", path, instruction, err)
		}
	}
	if len(r.programs) == 0 || len(r.entrypoint) == 0 {
		return r, fmt.Errorf("%s: found no programs or no ENTRYPOINT in it", path)
	}
	return r, nil
}

// filesBelow returns what lies below a directory, as an image that has it as
// its root.
func filesBelow(root string) (files []file, err error) {
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		f := file{path: strings.TrimPrefix(path, root), mode: int64(info.Mode().Perm())}
		switch {
		case d.Type() == fs.ModeSymlink:
			f.link, err = os.Readlink(path)
		case d.Type().IsRegular():
			f.source = path
		case info.Mode()&fs.ModeSticky != 0:
			f.mode |= 0o1000
		}
		files = append(files, f)
		return err
	})
	return files, err
}
