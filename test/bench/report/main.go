// Command report reads what "go test -bench" printed for test/bench, from its
// standard input, and makes of it, in a directory, results.json, results.md and
// figures. It prints how the results compare with what is aimed at.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

func main() {
	dir := flag.String("out", ".", "`directory` for results.json, results.md and the figures")
	flag.Parse()
	if err := report(os.Stdin, *dir, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
}

func report(in io.Reader, dir string, out io.Writer) error {
	results, err := parse(in)
	if err != nil {
		return err
	}
	machine, err := describeMachine()
	if err != nil {
		return err
	}
	text, err := json.MarshalIndent(struct {
		Machine string   `json:"machine"`
		Results []result `json:"results"`
	}{machine, results}, "", "  ")
	if err != nil {
		return err
	}
	goals := compareGoals(results)
	files := map[string]string{
		"results.json": string(text) + "\n",
		"results.md":   markdown(machine, goals, results),
	}
	for _, f := range figures {
		if svg, drawn, err := f.draw(results); err != nil {
			return err
		} else if drawn {
			files[f.file] = svg
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	fmt.Fprint(out, goals)
	return nil
}
