package lvm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/snapdriver/snapdriver/internal/testenv"
	"github.com/snapdriver/snapdriver/pkg/backend"
)

func TestPlannedSizes(t *testing.T) {
	for device, want := range map[int64]poolPlan{
		minInitSize: {area: mib, chunk: 64 * kib, metadata: 8 * mib},
		gib:         {area: 8 * mib, chunk: 64 * kib, metadata: 8 * mib},
		20 * gib:    {area: 64 * mib, chunk: 64 * kib, metadata: 40 * mib},
		gib << 10:   {area: 64 * mib, chunk: 64 * kib, metadata: 2 * gib},
		gib << 14:   {area: 64 * mib, chunk: mib, metadata: 2 * gib},
	} {
		got := planPool(device)
		if got != want {
			t.Errorf("for %s: %+v, expected %+v", size(device), got, want)
		}
		if data := got.data(device); data <= 0 || data%extentSize != 0 || data+4*got.metadata > device {
			t.Errorf("for %s: a pool of %s", size(device), size(data))
		}
	}
}

// emptyDevice returns an empty loop device of that size, which goes when the test ends.
func emptyDevice(t *testing.T, bytes int64) string {
	t.Helper()
	file := filepath.Join(testenv.TempDir(t), "disk.img")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, bytes); err != nil {
		t.Fatal(err)
	}
	path, err := attachLoop(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := detachLoop(file); err != nil {
			t.Error(err)
		}
	})
	return path
}

func initOptions() InitOptions { return InitOptions{VolumeGroup: "sdinit", ThinPool: "pool"} }

func TestInitDevice(t *testing.T) {
	testenv.RequireThinPools(t)
	o := initOptions()
	o.Device = emptyDevice(t, gib)
	made, err := Init(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer removePool(t, o)
	if made.Existed || made.Device != o.Device || made.Metadata != 8*mib || made.Pool < 960*mib || made.Free < 16*mib || made.Objects < 6000 {
		t.Errorf("%+v", made)
	}
	again, err := Init(t.Context(), o)
	made.Existed = true
	if err != nil || again != made {
		t.Errorf("again: %+v, %v; expected %+v", again, err, made)
	}
	p, err := newPool(&runner{}, o.VolumeGroup, o.ThinPool, PoolLimits{})
	if err != nil {
		t.Fatal(err)
	}
	if err := find(t, p); err != nil {
		t.Error(err)
	}
	if state, err := p.state(); err != nil || !state.ErrorIfNoSpace || state.size != made.Pool {
		t.Errorf("%+v, %v", state, err)
	}
	// The names are taken now.
	other := o
	other.Device = emptyDevice(t, gib)
	_, err = Init(t.Context(), other)
	if !errors.Is(err, backend.ErrExists) {
		t.Errorf("the name of another's volume group: %v", err)
	}
	other.VolumeGroup, other.Device = "sdother", o.Device
	if _, err = Init(t.Context(), other); !errors.Is(err, backend.ErrPrecondition) {
		t.Errorf("another's device: %v", err)
	}
}

func TestInitLoopFile(t *testing.T) {
	testenv.RequireThinPools(t)
	o := initOptions()
	o.LoopFile, o.Size = filepath.Join(testenv.TempDir(t), "pool.img"), 256*mib
	made, err := Init(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer removePool(t, o)
	again, err := Init(t.Context(), o)
	made.Existed = true
	if err != nil || again != made {
		t.Errorf("again: %+v, %v; expected %+v", again, err, made)
	}
	other := o
	other.VolumeGroup = "sdother"
	if _, err := Init(t.Context(), other); !errors.Is(err, backend.ErrExists) {
		t.Errorf("a file that exists: %v", err)
	}
	// What a reboot does to a loop device.
	if err := (&runner{}).change(t.Context(), "vgchange", "--activate", "n", o.VolumeGroup); err != nil {
		t.Fatal(err)
	}
	if err := detachLoop(o.LoopFile); err != nil {
		t.Fatal(err)
	}
	if _, err := Init(t.Context(), o); !errors.Is(err, backend.ErrExists) {
		t.Errorf("a file that exists and is not bound: %v", err)
	}
	if _, err := attachLoop(o.LoopFile); err != nil {
		t.Fatal(err)
	}
	if again, err := Init(t.Context(), o); err != nil || !again.Existed {
		t.Errorf("bound again: %+v, %v", again, err)
	}
}

// TestInitRefusesWhatHoldsAnything: nothing is written to such a device.
func TestInitRefusesWhatHoldsAnything(t *testing.T) {
	testenv.RequireThinPools(t)
	const whole = 16 * mib // what it holds is looked at before its size
	device := emptyDevice(t, whole)
	dir := t.TempDir()
	put := func(at int64, text string) {
		file, err := os.OpenFile(device, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if _, err := file.WriteAt([]byte(text), at); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		name    string
		fill    func()
		undo    func()
		expects string
	}{
		{"a filesystem", func() { testenv.Run(t, "mkfs.ext4", "-q", device) }, nil, "ext4"},
		{"swap", func() { testenv.Run(t, "mkswap", device) }, nil, "swap"},
		{"a mounted filesystem", func() {
			testenv.Run(t, "mkfs.ext4", "-q", device)
			testenv.Run(t, "mount", device, dir)
		}, func() { testenv.Run(t, "umount", dir) }, "in use"},
		{"another volume group", func() { testenv.Run(t, "pvcreate", "-qq", device) }, nil, "LVM2_member"},
		{"a partition table", func() {
			put(446, "\x00\x00\x00\x00\x83\x00\x00\x00\x00\x08\x00\x00\x00\x08\x00\x00") // one Linux partition: 1 MiB from 1 MiB on
			put(510, "\x55\xaa")
		}, nil, "dos"},
		{"data without a name at the beginning", func() { put(edge-1, "x") }, nil, "from byte 0"},
		{"data without a name at the end", func() { put(whole-1, "x") }, nil, "from byte 15728640"},
	} {
		testenv.Run(t, "blkdiscard", "--zeroout", device)
		test.fill()
		before := checksum(t, device)
		o := initOptions()
		o.Device = device
		_, err := Init(t.Context(), o)
		if !errors.Is(err, backend.ErrPrecondition) || !strings.Contains(err.Error(), test.expects) || !strings.Contains(err.Error(), device) {
			t.Errorf("%s: %v, expected a refusal with %q", test.name, err, test.expects)
		}
		if test.undo != nil {
			test.undo()
		} else if checksum(t, device) != before {
			t.Errorf("%s: the device was written to", test.name)
		}
	}
}

func checksum(t *testing.T, device string) string {
	t.Helper()
	return testenv.Run(t, "sha256sum", device)
}

func TestInitRefusesWrongUse(t *testing.T) {
	testenv.RequireThinPools(t)
	dir := testenv.TempDir(t)
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		change func(*InitOptions)
		want   error
	}{
		"nothing":              {func(*InitOptions) {}, backend.ErrInvalid},
		"both":                 {func(o *InitOptions) { o.Device, o.LoopFile, o.Size = "/dev/null", dir+"/new", gib }, backend.ErrInvalid},
		"a small file":         {func(o *InitOptions) { o.LoopFile, o.Size = dir+"/new", minInitSize-1 }, backend.ErrInvalid},
		"a file that exists":   {func(o *InitOptions) { o.LoopFile, o.Size = file, gib }, backend.ErrExists},
		"a huge file":          {func(o *InitOptions) { o.LoopFile, o.Size = dir+"/new", 1<<50 }, backend.ErrExhausted},
		"no directory":         {func(o *InitOptions) { o.LoopFile, o.Size = dir+"/none/new", gib }, os.ErrNotExist},
		"no device":            {func(o *InitOptions) { o.Device = "/dev/no-such-device" }, os.ErrNotExist},
		"a character device":   {func(o *InitOptions) { o.Device = "/dev/null" }, backend.ErrInvalid},
		"a file as device":     {func(o *InitOptions) { o.Device = file }, backend.ErrInvalid},
		"a small device":       {func(o *InitOptions) { o.Device = emptyDevice(t, minInitSize-mib) }, backend.ErrInvalid},
		"an option for a name": {func(o *InitOptions) { o.Device, o.VolumeGroup = "/dev/null", "--all" }, backend.ErrInvalid},
	} {
		o := initOptions()
		test.change(&o)
		if _, err := Init(t.Context(), o); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, expected %v", name, err, test.want)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

// TestInitUndoesWhatItMade interrupts it after each of its commands.
func TestInitUndoesWhatItMade(t *testing.T) {
	testenv.RequireThinPools(t)
	o := initOptions()
	o.LoopFile, o.Size = filepath.Join(testenv.TempDir(t), "pool.img"), minInitSize
	interrupted := 0
	for {
		ctx, interrupt := context.WithCancel(t.Context())
		commands := 0
		o.step = func(string) {
			if commands++; commands > interrupted {
				interrupt()
			}
		}
		_, err := Init(ctx, o)
		interrupt()
		if err == nil {
			break
		}
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("interrupted after command %d: %v", interrupted+1, err)
		}
		interrupted++
		if leaks, err := testenv.Leaks(filepath.Dir(o.LoopFile)); err != nil || len(leaks) > 0 {
			t.Fatalf("interrupted after command %d: left behind: %q, %v", interrupted, leaks, err)
		}
		if _, err := os.Stat(o.LoopFile); !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("interrupted after command %d: the file is left: %v", interrupted, err)
		}
	}
	if interrupted != 4 {
		t.Errorf("it was interrupted after %d commands, expected pvcreate, vgcreate, lvcreate, lvchange", interrupted)
	}
	removePool(t, o)
}

// removePool removes what Init has made.
func removePool(t *testing.T, o InitOptions) {
	t.Helper()
	if err := Remove(context.Background(), o); err != nil {
		t.Error(err)
	}
	if err := Remove(context.Background(), o); !errors.Is(err, backend.ErrNotFound) {
		t.Errorf("removed twice: %v", err)
	}
}
