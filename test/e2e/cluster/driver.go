package cluster

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// LoadDriver builds the driver's image and gives it to the nodes under a name,
// whose tag becomes the driver's version. The image is what the Dockerfile would
// make: the program, and the files of the Debian packages that the Dockerfile
// installs, as they are on this machine. What it forgets to install is therefore
// missing here too.
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
	files := []file{{path: "/tmp", mode: 0o1777}, {path: recipe.entrypoint[0], source: program}}
	for _, dir := range rootLinks {
		files = append(files, file{path: "/" + dir, link: "usr/" + dir})
	}
	for _, p := range recipe.packages {
		installed, err := packageFiles(p)
		if err != nil {
			return err
		}
		files = append(files, installed...)
	}
	return writeArchive(archive, []image{{name: name, files: files, entrypoint: recipe.entrypoint, cmd: recipe.cmd}})
}

// recipe is what this package understands of a Dockerfile.
type recipe struct {
	packages        []string
	entrypoint, cmd []string
}

var installLine = regexp.MustCompile(`apt-get install -y --no-install-recommends ([a-z0-9 .+-]+)`)

func readDockerfile(path string) (recipe, error) {
	var r recipe
	content, err := os.ReadFile(path)
	if err != nil {
		return r, err
	}
	if m := installLine.FindSubmatch(bytes.ReplaceAll(content, []byte("\\\n"), nil)); m != nil {
		r.packages = strings.Fields(string(m[1]))
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
	if len(r.packages) == 0 || len(r.entrypoint) == 0 {
		return r, fmt.Errorf("%s: found no packages or no ENTRYPOINT in it", path)
	}
	return r, nil
}

var library = regexp.MustCompile(`(/\S+) \(0x`) // in ldd's output

// packageFiles lists what a Debian package has installed, and the libraries
// that its programs load, but for its documentation.
func packageFiles(name string) ([]file, error) {
	out, err := exec.Command("dpkg", "-L", name).Output()
	if err != nil {
		return nil, fmt.Errorf("the Dockerfile installs %s, which this machine lacks (hack/setup.sh): %w", name, err)
	}
	var files []file
	add := func(path string) {
		info, err := os.Stat(path)
		if err != nil || !info.Mode().IsRegular() {
			return // a directory, or a link to nothing
		}
		files = append(files, file{path: merged(path), source: path, mode: int64(info.Mode().Perm())})
	}
	for path := range strings.Lines(string(out)) {
		path = strings.TrimSpace(path)
		if strings.HasPrefix(path, "/usr/share/") {
			continue
		}
		add(path)
		libraries, err := exec.Command("ldd", path).Output()
		if err != nil {
			continue // not a dynamic program
		}
		for _, m := range library.FindAllSubmatch(libraries, -1) {
			add(string(m[1]))
		}
	}
	return files, nil
}

// rootLinks are the directories that Debian has merged into /usr.
var rootLinks = []string{"bin", "sbin", "lib", "lib64"}

// merged is path with the links of rootLinks resolved.
func merged(path string) string {
	for _, dir := range rootLinks {
		if strings.HasPrefix(path, "/"+dir+"/") {
			return "/usr" + path
		}
	}
	return path
}
