//go:build steps

package main

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/snapdriver/snapdriver/pkg/backend"
)

// step logs the backend's steps and ends the process as "kill -9" would, before
// one of them: SNAPDRIVER_DIE_AT="3 commit" means the third whose name begins
// with "commit", "7" the seventh of all.
var step backend.StepFunc = dieAt(os.Getenv("SNAPDRIVER_DIE_AT"))

func dieAt(moment string) func(name string) {
	count, prefix, _ := strings.Cut(moment, " ")
	number, err := strconv.ParseInt(count, 10, 64)
	if err != nil {
		return nil
	}
	var seen atomic.Int64
	return func(name string) {
		klog.InfoS("Step", "name", name)
		if strings.HasPrefix(name, prefix) && seen.Add(1) == number {
			klog.InfoS("Dying")
			_ = unix.Kill(os.Getpid(), unix.SIGKILL)
			select {}
		}
	}
}
