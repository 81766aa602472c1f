// Command run boots the virtual machine of the tests, runs one program of the
// host in it, and ends with it:
//
//	go test -exec "go run github.com/snapdriver/snapdriver/test/vm/run" -v ./pkg/backend/lvm -run TestX
//	go run ./test/vm/run lvm version
//
// The program is copied when it is the path of a file (it has a slash), and is
// the guest's own otherwise. SNAPDRIVER_* variables are passed on, and the driver
// that SNAPDRIVER_BINARY names is copied. Compile with CGO_ENABLED=0.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/internal/testvm"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if exit := (*testvm.ExitError)(nil); errors.As(err, &exit) && exit.Code > 0 {
		os.Exit(exit.Code)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "run:", err)
		os.Exit(2)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New("usage: run PROGRAM [ARGUMENT...]")
	}
	image, err := testvm.Prepare(ctx)
	if err != nil {
		return err
	}
	config := testvm.Config{Files: map[string]string{}}
	if strings.Contains(args[0], "/") {
		name := filepath.Base(args[0])
		config.Files[name] = args[0]
		args = append([]string{name}, args[1:]...)
	}
	driver := os.Getenv("SNAPDRIVER_BINARY")
	if driver != "" {
		config.Files["snapdriver"] = driver
	}
	vm, err := image.Boot(ctx, config)
	if err != nil {
		return err
	}
	defer vm.Kill()
	env := []string{"SNAPDRIVER_REQUIRE_ALL=1", "SNAPDRIVER_REQUIRE_LVM=1"}
	for _, variable := range os.Environ() {
		if strings.HasPrefix(variable, "SNAPDRIVER_") {
			env = append(env, variable)
		}
	}
	if driver != "" {
		env = append(env, "SNAPDRIVER_BINARY=/vm/snapdriver")
	}
	return vm.Run(testvm.Command{Args: args, Env: env, Stdout: os.Stdout, Stderr: os.Stderr})
}
