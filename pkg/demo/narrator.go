package demo

import (
	"context"
	"fmt"
	"path"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// width is where the story's lines are broken.
const width = 100

// callers says who makes a call in a cluster.
var callers = map[string]string{
	"GetPluginInfo":  "node-driver-registrar",
	"Probe":          "livenessprobe",
	"CreateVolume":   "csi-provisioner",
	"DeleteVolume":   "csi-provisioner",
	"CreateSnapshot": "csi-snapshotter",
	"DeleteSnapshot": "csi-snapshotter",
	"ListSnapshots":  "csi-snapshotter",
}

// narrator prints the story, and every RPC as it happens.
type narrator struct {
	Config
	before scene
	quiet  bool // print no RPC
}

func (n *narrator) printf(format string, args ...any) { fmt.Fprintf(n.Out, format, args...) }

// begin prints a step's head and remembers what the disk looks like.
func (n *narrator) begin(number, of int, s step) {
	n.printf("\n[%d/%d] %s\n%s\n", number, of, s.title, wrap(s.story, width))
	n.before = look(n.Store, n.Pods)
}

// changes prints what the step has changed on disk and in the mount table.
func (n *narrator) changes() {
	lines := n.before.changesTo(look(n.Store, n.Pods))
	if len(lines) > 0 {
		n.printf("\n")
	}
	for _, line := range lines {
		n.printf("  %s\n", shortenIDs(line))
	}
}

// shell prints a command, and where it might have been typed.
func (n *narrator) shell(where, command string) { n.printf("\n  %s$ %s\n", where, command) }

// intercept prints one RPC: who calls it, request, response, how it ended.
func (n *narrator) intercept(ctx context.Context, method string, request, response any, connection *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
	if n.quiet {
		return invoke(ctx, method, request, response, connection, options...)
	}
	name := path.Base(method)
	caller, known := callers[name]
	if !known {
		caller = "kubelet"
	}
	n.printf("\n  %s calls %s/%s\n", caller, path.Base(path.Dir(method)), name)
	n.lines(">", format(request.(proto.Message)))
	begun := time.Now()
	err := invoke(ctx, method, request, response, connection, options...)
	took := time.Since(begun).Round(10 * time.Microsecond)
	if err != nil {
		n.lines("<", status.Convert(err).Message())
	} else {
		n.lines("<", format(response.(proto.Message)))
	}
	n.printf("    = %s in %s\n", status.Code(err), took)
	return err
}

// lines prints text, each line behind the mark.
func (n *narrator) lines(mark, text string) {
	if text == "" {
		text = "(empty)"
	}
	for line := range strings.Lines(text) {
		n.printf("    %s %s\n", mark, n.shorten(strings.TrimRight(line, "\n")))
	}
}

// shorten replaces the temporary directories by what they stand for, and makes
// IDs readable.
func (n *narrator) shorten(line string) string {
	return shortenIDs(strings.NewReplacer(append(n.Store.abbreviate(), n.Pods, "PODS")...).Replace(line))
}
