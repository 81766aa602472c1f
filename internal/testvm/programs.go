package testvm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
)

// makePrograms makes the image of the disk with the agent and these files.
func makePrograms(ctx context.Context, image string, files map[string]string) error {
	content, err := os.MkdirTemp(filepath.Dir(image), "programs-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(content)
	build := exec.CommandContext(ctx, "go", "build", "-o", filepath.Join(content, "agent"), "github.com/snapdriver/snapdriver/internal/testvm/agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the agent: %w\n%s", err, out)
	}
	for name, path := range files {
		if err := place(path, filepath.Join(content, name)); err != nil {
			return err
		}
	}
	size, err := sizeOf(content)
	if err != nil {
		return err
	}
	return makeFilesystem(ctx, image, size+size/4+8<<20, content) // room for the filesystem's own tables
}

// place links a file to another place, or copies it.
func place(from, to string) error {
	if os.Link(from, to) == nil {
		return nil
	}
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(target, source)
	return errors.Join(err, target.Close())
}

// sizeOf adds up the sizes of all files below a directory, in bytes.
func sizeOf(dir string) (size int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			size += info.Size()
		}
		return err
	})
	return size, err
}
