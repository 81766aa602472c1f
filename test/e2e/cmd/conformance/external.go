package main

import (
	"cmp"
	"encoding/xml"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/onsi/ginkgo/v2/reporters"

	"github.com/snapdriver/snapdriver/test/e2e/external"
)

// layout is what Kubernetes' storage tests have found about one kind of volume.
type layout struct {
	Name        string
	All, Common tally // Common: without the marks of rareMarks
	Suites      []suite
	Skipped     []reason
}

type tally struct{ Passed, Failed int }

// Applied is how many tests were not skipped.
func (t tally) Applied() int { return t.Passed + t.Failed }

func (t *tally) add(passed bool) {
	if passed {
		t.Passed++
	} else {
		t.Failed++
	}
}

type suite struct {
	Name string
	Sum  tally
}

// reason is why tests were skipped, and how many.
type reason struct {
	Count int
	Why   string
}

var (
	rareMarks = regexp.MustCompile(`\[(Slow|Serial|Disruptive)\]`)
	// suiteName follows the pattern of volumes in a test's name.
	suiteName = regexp.MustCompile(`\[Testpattern: [^\]]*\](?: \[[^\]]*\])* (\S+)`)
)

// readExternal reads the reports of one kind of volume, each of a part of the
// tests.
func readExternal(name string, paths []string) (layout, error) {
	l := layout{Name: name}
	tests := map[string]reporters.JUnitTestCase{}
	for _, path := range paths {
		if err := collect(tests, path); err != nil {
			return l, err
		}
	}
	suites, skipped := map[string]*tally{}, map[string]int{}
	for name, test := range tests {
		if test.Skipped != nil {
			skipped[whySkipped(test)]++
			continue
		}
		match := suiteName.FindStringSubmatch(name)
		if match == nil {
			return l, fmt.Errorf("of which suite is %q?", name)
		}
		if suites[match[1]] == nil {
			suites[match[1]] = &tally{}
		}
		passed := test.Status == "passed"
		suites[match[1]].add(passed)
		l.All.add(passed)
		if !rareMarks.MatchString(name) {
			l.Common.add(passed)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(suites)) {
		l.Suites = append(l.Suites, suite{name, *suites[name]})
	}
	l.Skipped = reasons(skipped)
	return l, nil
}

// collect adds the tests of a report by their names. One that did not belong to
// the part of this report, which therefore says nothing of it, does not hide
// what another report says.
func collect(tests map[string]reporters.JUnitTestCase, path string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var report reporters.JUnitTestSuites
	if err := xml.Unmarshal(content, &report); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for _, run := range report.TestSuites {
		for _, test := range run.TestCases {
			if !strings.HasPrefix(test.Name, "[It] ") || !strings.Contains(test.Name, "External Storage") {
				continue // it prepares or ends the tests, or is not about storage
			}
			if _, known := tests[test.Name]; !known || test.Skipped == nil || test.Skipped.Message != "skipped" {
				tests[test.Name] = test
			}
		}
	}
	return nil
}

// whySkipped returns why a test was left out from the start, or what it says
// itself.
func whySkipped(test reporters.JUnitTestCase) string {
	for _, left := range external.LeftOut {
		if regexp.MustCompile(left.Pattern).MatchString(test.Name) {
			return left.Why + " (`" + left.Pattern + "`)"
		}
	}
	_, why, said := strings.Cut(test.Skipped.Message, "skipped - ")
	if !said {
		return "not chosen"
	}
	return why
}

// reasons sorts reasons by how often they were given.
func reasons(counts map[string]int) []reason {
	var all []reason
	for why, count := range counts {
		all = append(all, reason{count, why})
	}
	slices.SortFunc(all, func(a, b reason) int { return cmp.Or(b.Count-a.Count, strings.Compare(a.Why, b.Why)) })
	return all
}
