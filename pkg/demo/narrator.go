package demo

import (
	"context"
	"fmt"
	"path"
	"regexp"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
)

// width is where the story's lines are broken.
const width = 100

// narrator prints the story, and every RPC as it happens.
type narrator struct {
	Config
	before scene
}

func (n *narrator) printf(format string, args ...any) { fmt.Fprintf(n.Out, format, args...) }

// begin prints a step's head and remembers what the disk looks like.
func (n *narrator) begin(number, of int, s step) {
	n.printf("\n[%d/%d] %s\n%s\n\n", number, of, s.title, wrap(s.story, width))
	n.before = look(n.Root, n.Pods)
}

// changes prints what the step has changed on disk and in the mount table.
func (n *narrator) changes() {
	for _, line := range n.before.changesTo(look(n.Root, n.Pods)) {
		n.printf("  %s\n", line)
	}
}

// shell prints a command that the pod of a volume might have run.
func (n *narrator) shell(v volume, command string) { n.printf("  %s:/data$ %s\n", v.pod, command) }

// intercept prints one RPC: name, request, response, how it ended and when.
func (n *narrator) intercept(ctx context.Context, method string, request, response any, connection *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
	n.printf("  %s %s\n", path.Base(path.Dir(method)), path.Base(method))
	n.message(">", request.(proto.Message))
	begun := time.Now()
	err := invoke(ctx, method, request, response, connection, options...)
	took := time.Since(begun).Round(10 * time.Microsecond)
	if err != nil {
		n.printf("    < %s: %s\n", status.Code(err), status.Convert(err).Message())
	} else {
		n.message("<", response.(proto.Message))
	}
	n.printf("    = %s in %s\n\n", status.Code(err), took)
	return err
}

// message prints a message as proto text, each line behind the mark.
func (n *narrator) message(mark string, message proto.Message) {
	text := strings.TrimSpace(prototext.MarshalOptions{Multiline: true, Indent: "  "}.Format(message))
	if text == "" {
		text = "(nothing)"
	}
	for line := range strings.Lines(text) {
		n.printf("    %s %s\n", mark, n.shorten(strings.TrimRight(line, "\n")))
	}
}

// doubleSpace is what prototext puts behind a field's name now and then, to
// keep programs from depending on its form.
var doubleSpace = regexp.MustCompile(`:  +`)

// shorten replaces the two temporary directories by what they stand for.
func (n *narrator) shorten(line string) string {
	return strings.NewReplacer(n.Root, "ROOT", n.Pods, "PODS").Replace(doubleSpace.ReplaceAllString(line, ": "))
}

// wrap breaks text into indented lines.
func wrap(text string, width int) string {
	var lines []string
	line := "  "
	for _, word := range strings.Fields(text) {
		if len(line)+1+len(word) > width {
			lines, line = append(lines, line), "  "
		}
		line += " " + word
	}
	return strings.Join(append(lines, line), "\n")
}
