// The program conformance writes docs/conformance.md from what the tests of
// others have reported about the driver:
//
//	conformance DIRECTORY >docs/conformance.md
//
// DIRECTORY holds the reports of Kubernetes' storage tests, in JUnit's form, as
// external-LAYOUT-PART.xml, and what test/sanity has printed, in files of any name that end in
// .log. See "make conformance".
package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/template"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: conformance DIRECTORY")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

func run(dir string) error {
	var p page
	for _, layout := range []string{"directory", "image"} {
		reports, err := filepath.Glob(filepath.Join(dir, "external-"+layout+"-*.xml"))
		if err != nil || len(reports) == 0 {
			return fmt.Errorf("no external-%s-*.xml in %s", layout, dir)
		}
		read, err := readExternal(layout, reports)
		if err != nil {
			return err
		}
		p.External = append(p.External, read)
	}
	logs, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil || len(logs) == 0 {
		return fmt.Errorf("no *.log in %s", dir)
	}
	for _, path := range logs {
		runs, err := readSanity(path)
		if err != nil {
			return err
		}
		p.Sanity = append(p.Sanity, runs...)
	}
	if p.Kubernetes, err = version(".", "k8s.io/kubernetes"); err != nil {
		return err
	}
	if p.CSITest, err = version("../..", "github.com/kubernetes-csi/csi-test/v5"); err != nil {
		return err
	}
	return shape.Execute(os.Stdout, p)
}

// version asks Go which version of a module is in use in a directory.
func version(dir, module string) (string, error) {
	cmd := exec.Command("go", "list", "-m", "-f", "{{.Version}}", module)
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s in %s: %w", cmd, dir, err)
	}
	return strings.TrimSpace(string(out)), nil
}

// page is what the form shows.
type page struct {
	Kubernetes, CSITest string // versions
	External            []layout
	Sanity              []sanityRun
}

var shape = template.Must(template.New("page").Funcs(template.FuncMap{"cell": cell}).Parse(form))

// cell makes text fit into a table's cell.
func cell(text string) string { return strings.ReplaceAll(text, "|", `\|`) }

const form = `# Conformance

Written by ` + "`make conformance`" + `, which runs what is reported here; do not edit.

## Kubernetes' storage tests

The external storage tests of Kubernetes ({{.Kubernetes}}), on the cluster of [test/e2e](../test/e2e/README.md), with the
overlay for one node and a limit of volumes ([why](../test/e2e/external/README.md)). "Common" are the tests that bear none of
the marks ` + "`[Slow]`, `[Serial]`, `[Disruptive]`" + `: of these, 42 apply to csi-driver-host-path, which passes them all on the
same cluster.

| Volumes | Apply | Passed | Failed | of them common: apply | Passed | Failed |
|---|---|---|---|---|---|---|
{{- range .External}}
| [{{.Name}}](../test/e2e/external/{{.Name}}.yaml) | {{.All.Applied}} | {{.All.Passed}} | {{.All.Failed}} | {{.Common.Applied}} | {{.Common.Passed}} | {{.Common.Failed}} |
{{- end}}
{{range .External}}
### {{.Name}}

| Suite | Apply | Passed | Failed |
|---|---|---|---|
{{- range .Suites}}
| {{.Name}} | {{.Sum.Applied}} | {{.Sum.Passed}} | {{.Sum.Failed}} |
{{- end}}

| Do not apply | Why |
|---|---|
{{- range .Skipped}}
| {{.Count}} | {{cell .Why}} |
{{- end}}
{{end}}
## csi-sanity

csi-sanity {{.CSITest}} (` + "`make sanity`" + `); the rows of lvm are from a virtual machine with thin pools.

No spec has failed, or this page would not have been written.

| Volumes | Passed | Skipped |
|---|---|---|
{{- range .Sanity}}
| {{.Name}} | {{.Passed}} |{{range .Skipped}} {{.Count}}: {{cell .Why}}.{{end}} |
{{- end}}
`
