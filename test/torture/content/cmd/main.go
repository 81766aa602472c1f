// Command cmd writes or checks the content of a volume, or checks its size, for a
// test whose driver runs in a virtual machine:
//
//	cmd write|check PATH TAG
//	cmd size PATH BYTES STRUCTURES
package main

import (
	"fmt"
	"os"
	"strconv"

	"github.com/snapdriver/snapdriver/test/torture/content"
)

func main() {
	if err := run(os.Args[1], os.Args[2], os.Args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(what, path string, arguments []string) error {
	var numbers [2]uint64
	for i, argument := range arguments {
		var err error
		if numbers[i], err = strconv.ParseUint(argument, 10, 64); err != nil {
			return err
		}
	}
	switch tag := content.Tag(numbers[0]); what {
	case "write":
		return tag.Write(path)
	case "check":
		return tag.Check(path)
	default:
		return content.CheckSize(path, int64(numbers[0]), int64(numbers[1]))
	}
}
