// Command cmd writes or checks the content of a volume, for a test whose driver
// runs in a virtual machine:
//
//	cmd write|check TAG PATH
package main

import (
	"fmt"
	"os"
	"strconv"

	"github.com/snapdriver/snapdriver/test/torture/content"
)

func main() {
	if err := run(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(what, tag, path string) error {
	number, err := strconv.ParseUint(tag, 10, 64)
	if err != nil {
		return err
	}
	if what == "write" {
		return content.Tag(number).Write(path)
	}
	return content.Tag(number).Check(path)
}
