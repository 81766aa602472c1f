package main

import (
	"cmp"
	"math"
	"strings"
	"text/template"
)

// figure is a chart of bars, on a scale of powers of ten.
type figure struct {
	file, title string
	groups      []group
}

// group are bars under one heading: those of one result, the driver's and some
// floors', or the same figure of several results.
type group struct{ heading, where string }

var figures = []figure{
	{"snapshot.svg", "CreateSnapshot of a directory volume on xfs, ms", []group{
		{"1 GiB in 4 files", "Directory/fs=xfs/tree=4-big-files/op=Snapshot"},
		{"4 GiB in a file of 100,000 extents", "Directory/fs=xfs/tree=fragmented-file/op=Snapshot"},
		{"10 GiB sparse file with 64 MiB", "Directory/fs=xfs/tree=sparse-file/op=Snapshot"},
		{"20,000 files of 4 KiB", "Directory/fs=xfs/tree=20000-small-files/op=Snapshot"},
		{"the Go toolchain", "Directory/fs=xfs/tree=go-toolchain/op=Snapshot"},
	}},
	{"restore.svg", "CreateVolume from a snapshot of a directory volume on xfs, ms", []group{
		{"1 GiB in 4 files", "Directory/fs=xfs/tree=4-big-files/op=Restore"},
		{"10 GiB sparse file with 64 MiB", "Directory/fs=xfs/tree=sparse-file/op=Restore"},
		{"20,000 files of 4 KiB", "Directory/fs=xfs/tree=20000-small-files/op=Restore"},
		{"the Go toolchain", "Directory/fs=xfs/tree=go-toolchain/op=Restore"},
	}},
	{"device.svg", "Image and block volumes of 1 GiB on xfs, ms", []group{
		{"CreateSnapshot, image", "Device/fs=xfs/layout=image/op=Snapshot"},
		{"CreateSnapshot, block", "Device/fs=xfs/layout=block/op=Snapshot"},
		{"CreateVolume from it, image", "Device/fs=xfs/layout=image/op=Restore"},
		{"CreateVolume from it, block", "Device/fs=xfs/layout=block/op=Restore"},
	}},
	{"scale.svg", "Twenty RPCs with 100,000 objects (few: with 100), ms", []group{
		{"CreateVolume", "Scale/objects=100000/op=CreateVolume"},
		{"CreateSnapshot", "Scale/objects=100000/op=CreateSnapshot"},
		{"Restore", "Scale/objects=100000/op=Restore"},
		{"DeleteVolume", "Scale/objects=100000/op=DeleteVolume"},
		{"NodeStage and NodePublish", "Scale/objects=100000/op=Publish"},
		{"ListSnapshots by source", "Scale/objects=100000/op=ListSnapshots-by-source"},
	}},
}

// floorTitles are what floors are called in figures.
var floorTitles = map[string]string{
	"tar": "tar cf", "tar-x": "tar xf", "cp": "cp -a", "cp-reflink": "cp -a --reflink", "ficlone": "FICLONE",
	"ficlone+fsync": "FICLONE, fsync", "ficlone+commit": "FICLONE, committed", "freeze": "freeze and thaw", "dd-fsync": "dd, fsync", "rpc": "an empty RPC", "few": "100 objects",
}

// The geometry, in pixels.
const (
	labelWidth = 150
	barsWidth  = 440
	barHeight  = 18
	gap        = 30 // before each group, with its heading
	top        = 30
)

type bar struct {
	Label, Value string
	Y, Width     float64
	Ours         bool
}

type heading struct {
	Text string
	Y    float64
}

// draw makes a figure of the results that there are.
func (f figure) draw(results []result) (svg string, drawn bool, err error) {
	chart := struct {
		Title         string
		Width, Height float64
		Left          float64
		Headings      []heading
		Bars          []bar
	}{Title: f.title, Width: labelWidth + barsWidth + 70, Left: labelWidth, Height: top}
	var values []float64
	for _, g := range f.groups {
		for _, r := range results {
			if !(goal{where: g.where}).about(r) {
				continue
			}
			chart.Headings = append(chart.Headings, heading{g.heading, chart.Height + gap - 10})
			chart.Height += gap
			for _, floor := range append([]string{""}, r.floors()...) {
				metric, label := floor+"-ms", cmp.Or(floorTitles[floor], floor)
				if floor == "" {
					metric, label = "ms", "snapdriver"
				}
				values = append(values, r.Metrics[metric])
				chart.Bars = append(chart.Bars, bar{Label: label, Value: number(r.Metrics[metric]), Y: chart.Height, Ours: floor == ""})
				chart.Height += barHeight + 4
			}
		}
	}
	if len(values) == 0 {
		return "", false, nil
	}
	chart.Height += 12
	least, most := math.Inf(1), 0.0
	for _, v := range values {
		least, most = min(least, v), max(most, v)
	}
	least /= 2 // the shortest bar is to be seen
	for i, v := range values {
		chart.Bars[i].Width = math.Round(barsWidth * math.Log(v/least) / math.Log(most/least))
	}
	var text strings.Builder
	err = drawing.Execute(&text, chart)
	return text.String(), true, err
}

var drawing = template.Must(template.New("figure").Funcs(template.FuncMap{
	"add": func(a, b float64) float64 { return a + b },
}).Parse(`<svg xmlns="http://www.w3.org/2000/svg" width="{{.Width}}" height="{{.Height}}" viewBox="0 0 {{.Width}} {{.Height}}" font-family="sans-serif" font-size="13">
<rect width="100%" height="100%" fill="#ffffff"/>
<text x="8" y="20" font-weight="bold">{{html .Title}} (logarithmic)</text>
{{- range .Headings}}
<text x="8" y="{{.Y}}" fill="#444444" font-style="italic">{{html .Text}}</text>
{{- end}}
{{- $left := .Left}}
{{- range .Bars}}
<text x="{{add $left -8}}" y="{{add .Y 13}}" text-anchor="end"{{if .Ours}} font-weight="bold"{{end}}>{{html .Label}}</text>
<rect x="{{$left}}" y="{{.Y}}" width="{{.Width}}" height="18" fill="{{if .Ours}}#1f77b4{{else}}#b8c4ce{{end}}"/>
<text x="{{add $left (add .Width 6)}}" y="{{add .Y 13}}">{{.Value}}</text>
{{- end}}
</svg>
`))
