package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
)

// result is one line of a benchmark.
type result struct {
	// Benchmark is its name, and Keys are what it was about: fs=xfs.
	Benchmark string `json:"benchmark"`
	Keys      []pair `json:"keys"`

	// Metrics are its figures by their units.
	Metrics map[string]float64 `json:"metrics"`
}

type pair struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// value is that of a key; empty: there is none.
func (r result) value(key string) string {
	for _, p := range r.Keys {
		if p.Key == key {
			return p.Value
		}
	}
	return ""
}

// line is one in Go's benchmark format: name, number of processors, number of
// iterations, figures.
var line = regexp.MustCompile(`^Benchmark(\S+?)(?:-\d+)?\s+\d+\s+(.*)$`)

func parse(in io.Reader) (results []result, err error) {
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "FAIL") {
			return nil, errors.New("a benchmark failed: " + lines.Text())
		}
		match := line.FindStringSubmatch(lines.Text())
		if match == nil {
			continue
		}
		r := result{Metrics: map[string]float64{}}
		for i, part := range strings.Split(match[1], "/") {
			if key, value, found := strings.Cut(part, "="); found {
				r.Keys = append(r.Keys, pair{key, value})
			} else if i == 0 {
				r.Benchmark = part
			}
		}
		fields := strings.Fields(match[2])
		for i := 0; i+1 < len(fields); i += 2 {
			if r.Metrics[fields[i+1]], err = strconv.ParseFloat(fields[i], 64); err != nil {
				return nil, fmt.Errorf("%q: %w", lines.Text(), err)
			}
		}
		results = append(results, r)
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(results) == 0 {
		return nil, errors.New("no results of benchmarks to read")
	}
	return results, nil
}
