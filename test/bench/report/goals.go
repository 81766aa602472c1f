package main

import (
	"fmt"
	"strings"
)

// goal is what a figure shall be.
type goal struct {
	text   string
	where  string // benchmark and keys, as in the results' names
	metric string
	limit  float64
	least  bool // the limit is the least, not the most
}

var goals = []goal{
	{text: "Snapshot of 1 GiB in 4 files, xfs, against cp --reflink", where: "Directory/fs=xfs/tree=4-big-files/op=Snapshot", metric: "x-cp-reflink", limit: 3},
	{text: "Snapshot of a sparse file, xfs, against cp --reflink", where: "Directory/fs=xfs/tree=sparse-file/op=Snapshot", metric: "x-cp-reflink", limit: 3},
	{text: "Snapshot of a file in 100,000 pieces, xfs, against a bare FICLONE", where: "Directory/fs=xfs/tree=fragmented-file/op=Snapshot", metric: "x-ficlone", limit: 1.3},
	{text: "Snapshot of 20,000 small files, xfs, against tar cf", where: "Directory/fs=xfs/tree=20000-small-files/op=Snapshot", metric: "x-tar", limit: 1.2},
	{text: "Restore of 20,000 small files, xfs, against tar xf", where: "Directory/fs=xfs/tree=20000-small-files/op=Restore", metric: "x-tar-x", limit: 0.8},
	{text: "DeleteSnapshot of 20,000 small files, any filesystem, ms", where: "Directory/tree=20000-small-files/op=DeleteSnapshot", metric: "ms", limit: 5},
	{text: "DeleteVolume of 20,000 small files, any filesystem, ms", where: "Directory/tree=20000-small-files/op=DeleteVolume", metric: "ms", limit: 5},
	{text: "Snapshot after 1 % of change, against the one before", where: "Directory/op=SecondSnapshot", metric: "x-first", limit: 1},
	{text: "Snapshot on ext4, against cp -a", where: "Directory/fs=ext4/op=Snapshot", metric: "x-cp", limit: 1.1},
	{text: "Restore on ext4, against cp -a", where: "Directory/fs=ext4/op=Restore", metric: "x-cp", limit: 1.1},
	{text: "Snapshot of an image volume, xfs, against FICLONE and its fsyncs", where: "Device/fs=xfs/layout=image/op=Snapshot", metric: "x-ficlone+fsync", limit: 2},
	{text: "Snapshot of a block volume, xfs, against FICLONE and its fsyncs", where: "Device/fs=xfs/layout=block/op=Snapshot", metric: "x-ficlone+fsync", limit: 2},
	{text: "Writers are held up by the snapshot of an image volume, xfs, ms", where: "Device/fs=xfs/layout=image/op=Snapshot", metric: "frozen-ms", limit: 50},
	{text: "Any RPC with 100,000 objects, against 100 objects", where: "Scale/objects=100000", metric: "x-few", limit: 1.3},
	{text: "Memory for each of 100,000 objects, KiB", where: "Scale/objects=100000/op=Restart", metric: "KiB-per-object", limit: 1},
	{text: "Restart to ready with 100,000 objects, ms", where: "Scale/objects=100000/op=Restart", metric: "ms", limit: 3000},
	{text: "ListSnapshots of all of 100,000 objects, in pages of 500, ms", where: "Scale/objects=100000/op=ListSnapshots-of-all", metric: "ms", limit: 1000},
	{text: "CreateVolume, empty, xfs, against one fsynced create and rename", where: "Small/fs=xfs/op=Create", metric: "x-create-rename", limit: 3},
	{text: "32 workers, loops a second, xfs", where: "Loops/fs=xfs", metric: "loops/s", limit: 72, least: true},
	{text: "Start to ready, ms", where: "Start", metric: "ms", limit: 50},
	{text: "Idle memory, MiB", where: "Start", metric: "idle-MiB", limit: 25},
	{text: "Size of the binary, MiB", where: "Start", metric: "binary-MiB", limit: 40},
}

// compareGoals returns a table of the goals that there are results for.
func compareGoals(results []result) string {
	var table strings.Builder
	table.WriteString("| What | Goal | Measured | With the floor's sync |\n|---|---|---|---|\n")
	for _, g := range goals {
		worst, synced, name, found := g.worst(results)
		if !found {
			continue
		}
		// As it is printed: what the last digit hides is noise.
		sign, missed := "<=", round(worst) > g.limit
		if g.least {
			sign, missed = ">=", round(worst) < g.limit
		}
		measured := number(worst)
		if name != "" {
			measured += " (" + name + ")"
		}
		if missed {
			measured = "**" + measured + "**"
		}
		fmt.Fprintf(&table, "| %s | %s %v | %s | %s |\n", g.text, sign, g.limit, measured, synced)
	}
	return table.String()
}

// worst returns the worst result that a goal is about and, if there are
// several, its name; and the same against a floor that was synced.
func (g goal) worst(results []result) (worst float64, synced, name string, found bool) {
	matching := 0
	for _, r := range results {
		value, has := r.Metrics[g.metric]
		if !has || !g.about(r) {
			continue
		}
		matching++
		if found && (value < worst) != g.least {
			continue
		}
		worst, synced, name, found = value, "", r.rest(g.where), true
		if s, has := r.Metrics[g.metric+"+sync"]; has {
			synced = number(s)
		}
	}
	if matching < 2 {
		name = ""
	}
	return worst, synced, name, found
}

func (g goal) about(r result) bool {
	parts := strings.Split(g.where, "/")
	for _, part := range parts[1:] {
		key, value, _ := strings.Cut(part, "=")
		if r.value(key) != value {
			return false
		}
	}
	return r.Benchmark == parts[0]
}

// rest is the part of a result's name that a goal leaves open.
func (r result) rest(where string) string {
	var values []string
	for _, p := range r.Keys {
		if !strings.Contains(where+"/", "/"+p.Key+"="+p.Value+"/") {
			values = append(values, p.Value)
		}
	}
	return strings.Join(values, " ")
}
