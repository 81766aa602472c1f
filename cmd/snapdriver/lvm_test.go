package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/snapdriver/snapdriver/internal/testdriver"
	"github.com/snapdriver/snapdriver/internal/testenv"
)

func TestDemoOnLVM(t *testing.T) {
	testenv.RequireThinPools(t)
	binary, temporary := build(t)
	out, err := demoOf(binary, temporary, 0, "--backend=lvm").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, part := range []string{
		"[1/15]", "[15/15]", "csi-snapshotter calls csi.v1.Controller/CreateSnapshot", "ready_to_use: true",
		"sd.kind=snapshot", "+ LV snap-", "shares the blocks of vol-", "mount PODS/app  shows LV vol-", "~ thin pool ",
		"byte for byte", "= FailedPrecondition", "nothing is left on disk",
	} {
		if !strings.Contains(string(out), part) {
			t.Errorf("the story lacks %q:\n%s", part, out)
		}
	}
	expectNoDemoLeft(t, temporary)
}

func TestInterruptedDemoOnLVM(t *testing.T) {
	testenv.RequireThinPools(t)
	binary, temporary := build(t)
	for _, steps := range []int{0, 9} { // nothing there yet; two volumes published, and a snapshot
		interruptDemo(t, demoOf(binary, temporary, 0, "--backend=lvm", "--pause"), steps)
		expectNoDemoLeft(t, temporary)
	}
}

// TestDemoInterruptedWhileItMakesItsPool interrupts it as soon as the loop file
// is there.
func TestDemoInterruptedWhileItMakesItsPool(t *testing.T) {
	testenv.RequireThinPools(t)
	binary, temporary := build(t)
	command := demoOf(binary, temporary, 0, "--backend=lvm")
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	for {
		if files, _ := filepath.Glob(filepath.Join(temporary, "*", "pool.img")); len(files) > 0 {
			break
		}
	}
	if err := command.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := command.Wait(); err == nil {
		t.Error("it ended without an error")
	}
	expectNoDemoLeft(t, temporary)
}

func expectNoDemoLeft(t *testing.T, temporary string) {
	t.Helper()
	expectNothingLeft(t, temporary)
	if groups := testenv.Run(t, "vgs", "--noheadings", "--options", "vg_name"); strings.Contains(groups, "snapdriver-demo") {
		t.Errorf("left behind: volume groups %s", groups)
	}
	for _, pattern := range []string{"/dev/snapdriver-demo*", "/dev/mapper/snapdriver--demo*", "/run/lock/snapdriver/snapdriver--demo*", "/run/lock/lvm/*snapdriver-demo*"} {
		if left, err := filepath.Glob(pattern); err != nil || len(left) > 0 {
			t.Errorf("left behind: %q, %v", left, err)
		}
	}
}

// TestLVMInit starts a server with the flags that "lvm init" prints.
func TestLVMInit(t *testing.T) {
	testenv.RequireThinPools(t)
	binary, _ := build(t)
	file := filepath.Join(testenv.TempDir(t), "pool.img")
	initialize := []string{"lvm", "init", "--loop-file=" + file, "--size=256MiB", "--volume-group=sdtestinit"}
	out := testenv.Run(t, binary, initialize...)
	t.Cleanup(func() {
		testenv.Run(t, "vgremove", "--yes", "--force", "sdtestinit")
		testenv.Run(t, "sh", "-c", "losetup --detach $(losetup --noheadings --output NAME --associated "+file+")")
	})
	if !strings.Contains(out, "Made thin pool sdtestinit/pool on "+file) {
		t.Errorf("it printed:\n%s", out)
	}
	again := testenv.Run(t, binary, initialize...)
	if !strings.Contains(again, "Nothing to do") {
		t.Errorf("again, it printed:\n%s", again)
	}
	_, flags, found := strings.Cut(again, "\n  snapdriver ")
	if !found {
		t.Fatalf("there are no flags in:\n%s", again)
	}
	// As after a reboot.
	testenv.Run(t, "vgchange", "--activate", "n", "sdtestinit")
	testenv.Run(t, "sh", "-c", "losetup --detach $(losetup --noheadings --output NAME --associated "+file+")")
	d := testdriver.New(t, t.TempDir())
	d.Flags = strings.Fields(flags)
	d.Start()
	d.Stop()
}

func TestWrongUseOfLVM(t *testing.T) {
	testenv.RequireThinPools(t)
	binary, temporary := build(t)
	pool := testenv.ThinPool(t, testenv.PoolOptions{Disk: 256 << 20, Data: 64 << 20, Metadata: 4 << 20})
	pool.LVM(t, "lvcreate", "--size", "16m", "--name", "thick", pool.Group)
	serve := []string{"--endpoint=" + temporary + "/s", "--node-id=node", "--backend=lvm"}
	for _, test := range []struct {
		arguments []string
		expect    string
	}{
		{serve, "--volume-group and --thin-pool"},
		{append(serve, "--volume-group="+pool.Group), "--thin-pool"},
		{append(serve, "--volume-group=sdnosuch", "--thin-pool=pool"), "snapdriver lvm init"},
		{append(serve, "--volume-group="+pool.Group, "--thin-pool=nosuch"), "snapdriver lvm init"},
		{append(serve, "--volume-group="+pool.Group, "--thin-pool=thick"), "no thin pool"},
		{append(serve, "--volume-group=-x", "--thin-pool=pool"), "no name"},
		{append(serve, "--volume-group="+pool.Group, "--thin-pool=pool", "--pool-data-limit=101"), "101%"},
		{append(serve, "--volume-group="+pool.Group, "--thin-pool=pool", "--loop-file=/no/such/file"), "/no/such/file"},
		{[]string{"lvm", "init"}, "device loop-file"},
		{[]string{"lvm", "init", "--loop-file=" + temporary + "/x"}, "size"},
		{[]string{"lvm", "init", "--loop-file=" + temporary + "/x", "--size=many"}, "20GiB"},
	} {
		out, err := exec.Command(binary, test.arguments...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), test.expect) {
			t.Errorf("%q: %v, expected a word on %q:\n%s", test.arguments, err, test.expect, out)
		}
	}
	command := exec.Command(binary, append(serve, "--volume-group="+pool.Group, "--thin-pool=pool")...)
	command.Env = []string{"PATH=/nowhere"}
	if out, err := command.CombinedOutput(); err == nil || !strings.Contains(string(out), "is not installed") {
		t.Errorf("without lvm: %v\n%s", err, out)
	}
}

// TestDemoWithoutThinPools: one line says what is missing.
func TestDemoWithoutThinPools(t *testing.T) {
	if testenv.HasThinPools() {
		t.Skip("this kernel has them; TestDemoOnLVM is for those that do")
	}
	binary, temporary := build(t)
	out, err := demoOf(binary, temporary, os.Getuid(), "--backend=lvm").CombinedOutput()
	if err == nil || strings.Count(string(out), "\n") != 1 || !strings.Contains(string(out), "cannot run here") {
		t.Errorf("ended with %v:\n%s", err, out)
	}
	expectNothingLeft(t, temporary)
}
