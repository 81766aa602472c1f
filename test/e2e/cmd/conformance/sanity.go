package main

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
)

// sanityRun is what csi-sanity has found about one kind of volume.
type sanityRun struct {
	Name    string
	Passed  int
	Skipped []reason
}

// What test/sanity prints, when no spec has failed.
var (
	passedLine  = regexp.MustCompile(`^([a-z0-9, ]+): (\d+) specs passed$`)
	skippedLine = regexp.MustCompile(`^\s*(\d+) skipped: (.*)$`)
	failedLine  = regexp.MustCompile(`^(--- )?FAIL`)
)

func readSanity(path string) ([]sanityRun, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var runs []sanityRun
	for line := range strings.Lines(string(content)) {
		line = strings.TrimRight(line, "\r\n")
		if failedLine.MatchString(line) {
			return nil, fmt.Errorf("%s: csi-sanity has failed", path)
		}
		if m := passedLine.FindStringSubmatch(line); m != nil {
			count, _ := strconv.Atoi(m[2]) // digits
			runs = append(runs, sanityRun{Name: m[1], Passed: count})
		} else if strings.HasSuffix(line, "specs passed") {
			return nil, fmt.Errorf("%s: of which volumes is %q?", path, line)
		}
		if m := skippedLine.FindStringSubmatch(line); m != nil && len(runs) > 0 {
			count, _ := strconv.Atoi(m[1])
			last := &runs[len(runs)-1]
			last.Skipped = append(last.Skipped, reason{count, m[2]})
		}
	}
	if len(runs) == 0 {
		return nil, fmt.Errorf("%s: no run of csi-sanity is in it", path)
	}
	return runs, nil
}
