package demo

import (
	"regexp"
	"strings"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
)

var (
	// doubleSpace is what prototext puts behind a field's name now and then, to
	// keep programs from depending on its form.
	doubleSpace = regexp.MustCompile(`: +`)

	// objectID is an ID of the driver's: kind, node, and 32 digits of which
	// eight tell enough.
	objectID = regexp.MustCompile(`\b((?:vol|snap)-[0-9a-f]{8}-[0-9a-f]{8})[0-9a-f]{24}\b`)
)

func shortenIDs(text string) string { return objectID.ReplaceAllString(text, "$1...") }

// format returns a message as proto text in which whatever fits into a line
// stands in one line.
func format(message proto.Message) string {
	text := prototext.MarshalOptions{Multiline: true, Indent: "  "}.Format(message)
	text = doubleSpace.ReplaceAllString(strings.TrimSpace(text), ": ")
	lines := strings.Split(text, "\n")
	folded, _ := fold(lines)
	return strings.Join(folded, "\n")
}

// fold joins every block, from its "{" to its "}", that fits into a line. It
// works from the inside out and returns the folded lines of the first level up
// to the brace that closes it, and the lines behind that.
func fold(lines []string) (folded, rest []string) {
	for len(lines) > 0 {
		line := lines[0]
		lines = lines[1:]
		switch {
		case strings.HasSuffix(line, "{"):
			var inner []string
			inner, lines = fold(lines)
			closing := lines[0]
			lines = lines[1:]
			block := line
			for _, l := range append(inner, closing) {
				block += " " + strings.TrimSpace(l)
			}
			if len(shortenIDs(block)) <= width {
				folded = append(folded, block)
			} else {
				folded = append(append(append(folded, line), inner...), closing)
			}
		case strings.TrimSpace(line) == "}":
			return folded, append([]string{line}, lines...)
		default:
			folded = append(folded, line)
		}
	}
	return folded, nil
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
