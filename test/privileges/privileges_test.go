package privileges

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/snapdriver/snapdriver/internal/testdriver"
	"github.com/snapdriver/snapdriver/internal/testenv"
	"github.com/snapdriver/snapdriver/pkg/driver/mounts"
)

// needed are the capabilities that the driver needs, as setpriv(1) writes them,
// by the backend that needs them.
var needed = map[string][]string{
	"hostpath": {"chown", "dac_override", "fowner", "fsetid", "linux_immutable", "mknod", "setfcap", "sys_admin", sysResource},
	"lvm":      {"mknod", "sys_admin", sysResource},
}

const sysResource = "sys_resource"

// programs are those that the Dockerfile puts into the image, which has no
// others.
var programs = strings.Fields("mkfs.ext4 e2fsck resize2fs tune2fs mkfs.xfs xfs_growfs mkfs.btrfs btrfs blkid blockdev lvm dmsetup thin_check")

// onlyPrograms returns a directory with these programs.
func onlyPrograms(t *testing.T) string {
	t.Helper()
	testenv.RequirePrograms(t, programs...)
	dir := t.TempDir()
	for _, name := range programs {
		path, err := exec.LookPath(name)
		if err == nil {
			err = os.Symlink(path, filepath.Join(dir, name))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string][]string{}
	for _, match := range regexp.MustCompile("(?m)^\\| `CAP_([A-Z_]+)` \\| ([a-z, ]+) \\|").FindAllStringSubmatch(string(text), -1) {
		for backend := range strings.SplitSeq(match[2], ", ") {
			documented[backend] = append(documented[backend], strings.ToLower(match[1]))
		}
	}
	for _, capabilities := range documented {
		slices.Sort(capabilities)
	}
	if diff := cmp.Diff(needed, documented); diff != "" {
		t.Errorf("docs/security.md says otherwise (-here +there):\n%s", diff)
	}
	dockerfile, err := os.ReadFile("../../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	if line := "image-programs.sh /image " + strings.Join(programs, " ") + "\n"; !strings.Contains(string(dockerfile), line) {
		t.Errorf("the Dockerfile does not say %q", line)
	}
}

// possible returns what this process can grant. Where even root lacks
// CAP_SYS_RESOURCE, the driver does without.
func possible(capabilities []string) []string {
	return slices.DeleteFunc(slices.Clone(capabilities), func(c string) bool { return c == sysResource && !mounts.MayGrowMounted() })
}

func TestHostpath(t *testing.T) {
	testenv.RequireRoot(t)
	testenv.RequirePrograms(t, "setpriv")
	if testing.Short() {
		t.Skip("takes most of a minute")
	}
	base := testenv.Filesystem(t, "ext4", 1<<30)
	driver, path := testdriver.New(t, ""), onlyPrograms(t)
	walk := func(name string, capabilities []string) []error {
		driver.Root = filepath.Join(base, name)
		w := &walker{Driver: driver, path: path, dir: filepath.Join(base, name+" pods"), layout: map[string]string{"layout": "image"}}
		return w.walk(capabilities, w.directories, w.filesystems, w.blocks, w.emptyTrash)
	}
	all := possible(needed["hostpath"])
	for _, err := range walk("all", all) {
		t.Errorf("with all of %q: %v", all, err)
	}
	for _, capability := range all {
		t.Run("without "+capability, func(t *testing.T) {
			errs := walk(capability, slices.DeleteFunc(slices.Clone(all), func(c string) bool { return c == capability }))
			if len(errs) == 0 {
				t.Error("all goes well: it is not needed")
			}
			for _, err := range errs {
				t.Log(err)
			}
		})
	}
	testenv.ExpectNoLeaks(t, base)
}

func TestLVM(t *testing.T) {
	testenv.RequireThinPools(t)
	testenv.RequirePrograms(t, "setpriv")
	pool := testenv.ThinPool(t, testenv.PoolOptions{})
	driver := testdriver.New(t, testenv.TempDir(t))
	driver.Flags = []string{"--backend=lvm", "--volume-group=" + pool.Group, "--thin-pool=" + pool.Name, "--lock-dir=" + testenv.TempDir(t)}
	w := &walker{Driver: driver, path: onlyPrograms(t), dir: testenv.TempDir(t)}
	for _, err := range w.walk(possible(needed["lvm"]), w.filesystems, w.blocks) {
		t.Errorf("with all of %q: %v", needed["lvm"], err)
	}
}
