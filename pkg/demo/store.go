package demo

import (
	"os"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Store is where the driver keeps its volumes, so far as the story shows it:
// Directory or VolumeGroup.
type Store interface {
	// introduce says what the story calls it.
	introduce() string

	// abbreviate returns pairs of texts, what the driver says and what the
	// story says for it.
	abbreviate() []string

	// look adds what there is to the scene. What cannot be read is not there:
	// the story is told all the same.
	look(scene)

	// shown names what a mount shows.
	shown(*mountinfo.Info) string

	// showSnapshot shows a snapshot from its ID with an ordinary command.
	showSnapshot(n *narrator, id string) error

	// left names what is left when everything was deleted.
	left() ([]string, error)
}

// flush writes what pods have written to a filesystem to its device.
func flush(mountpoint string) {
	dir, err := os.Open(mountpoint)
	if err != nil {
		return
	}
	defer dir.Close()
	_ = unix.Syncfs(int(dir.Fd())) // what it had to say would be said to the pod
}
