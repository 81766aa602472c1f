// Package wire is what host and guest say to each other: JSON values, one
// after the other, through a stream in either direction. The guest begins with
// an empty Reply when it is ready.
package wire

// Numbers of the virtio-serial ports: for requests and replies, and for
// testvm.VM.Dial.
const (
	ControlPort = 1
	DialPort    = 2
)

// Request asks the guest to run a program.
type Request struct {
	ID   int      // names it in the replies
	Args []string // the program, looked up on the PATH, and its arguments
	Env  []string // in addition to the guest's own
}

// Reply is a piece of a program's output, or its end.
type Reply struct {
	ID             int
	Stdout, Stderr []byte  `json:",omitempty"`
	Ended          *Ending `json:",omitempty"`
}

// Ending is how a program ended.
type Ending struct {
	Code  int    // its exit status; -1 where it was ended by a signal or did not start
	Error string // in words, where the status is not 0
}
