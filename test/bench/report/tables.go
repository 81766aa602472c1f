package main

import (
	"fmt"
	"maps"
	"math"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// describeMachine names the machine in general terms.
func describeMachine() (string, error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "", err
	}
	release := regexp.MustCompile(`^\d+\.\d+`).FindString(unix.ByteSliceToString(name.Release[:]))
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return "", err
	}
	memory := (info.Totalram*uint64(info.Unit) + 1<<29) >> 30
	kind := "a machine"
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil && strings.Contains(string(text), " hypervisor") {
		kind = "a virtual machine"
	}
	return fmt.Sprintf("%s with %d processors, %d GiB of memory and Linux %s, the filesystems in files",
		kind, runtime.NumCPU(), memory, release), nil
}

func markdown(machine, goals string, results []result) string {
	var text strings.Builder
	fmt.Fprintf(&text, "# Results\n\nOne run of `make bench` on %s. [performance.md](../performance.md) explains them.\n", machine)
	fmt.Fprintf(&text, "\n## What is aimed at\n\nBold: missed.\n\n%s", goals)
	for benchmark, group := range groups(results) {
		fmt.Fprintf(&text, "\n## %s\n\n", benchmark)
		table(&text, group)
	}
	return text.String()
}

// groups yields the results of one benchmark after the other.
func groups(results []result) func(yield func(string, []result) bool) {
	return func(yield func(string, []result) bool) {
		for len(results) > 0 {
			end := slices.IndexFunc(results, func(r result) bool { return r.Benchmark != results[0].Benchmark })
			if end < 0 {
				end = len(results)
			}
			if !yield(results[0].Benchmark, results[:end]) {
				return
			}
			results = results[end:]
		}
	}
}

// table writes the results of one benchmark.
func table(text *strings.Builder, results []result) {
	columns := []string{}
	for _, p := range results[0].Keys {
		columns = append(columns, p.Key)
	}
	columns = append(columns, "ms", "times the floor (with its sync)", "CPU ms", "peak MiB", "new MiB", "more")
	fmt.Fprintf(text, "| %s |\n|%s\n", strings.Join(columns, " | "), strings.Repeat("---|", len(columns)))
	for _, r := range results {
		var cells []string
		for _, p := range r.Keys {
			cells = append(cells, p.Value)
		}
		for _, metric := range []string{"ms", "", "cpu-ms", "peak-MiB", "new-MiB"} {
			if metric == "" {
				cells = append(cells, r.ratios())
			} else {
				cells = append(cells, r.number(metric))
			}
		}
		fmt.Fprintf(text, "| %s | %s |\n", strings.Join(cells, " | "), r.more())
	}
}

// ratios are those to all floors.
func (r result) ratios() string {
	var ratios []string
	for _, floor := range r.floors() {
		ratio := floor + " " + number(r.Metrics["x-"+floor])
		if synced, has := r.Metrics["x-"+floor+"+sync"]; has {
			ratio += " (" + number(synced) + ")"
		}
		ratios = append(ratios, ratio)
	}
	return strings.Join(ratios, ", ")
}

func (r result) floors() (floors []string) {
	for _, metric := range slices.Sorted(maps.Keys(r.Metrics)) {
		if floor, found := strings.CutSuffix(metric, "-ms"); found && r.Metrics["x-"+floor] > 0 {
			floors = append(floors, floor)
		}
	}
	return floors
}

// more are the figures that have no column.
func (r result) more() string {
	var more []string
	for _, metric := range slices.Sorted(maps.Keys(r.Metrics)) {
		known := slices.Contains([]string{"ms", "cpu-ms", "peak-MiB", "new-MiB", "ns/op"}, metric)
		ofFloor := slices.Contains(r.floors(), strings.TrimSuffix(metric, "-ms")) || strings.HasPrefix(metric, "x-")
		if !known && !ofFloor {
			more = append(more, r.number(metric)+" "+metric)
		}
	}
	return strings.Join(more, ", ")
}

func (r result) number(metric string) string {
	if value, has := r.Metrics[metric]; has {
		return number(value)
	}
	return ""
}

// number writes a figure rounded.
func number(value float64) string { return strconv.FormatFloat(round(value), 'f', -1, 64) }

// round leaves two digits that count, or all before the point.
func round(value float64) float64 {
	if value >= 100 || value <= -100 {
		return math.Round(value)
	}
	short, _ := strconv.ParseFloat(strconv.FormatFloat(value, 'g', 2, 64), 64) // cannot fail
	return short
}
