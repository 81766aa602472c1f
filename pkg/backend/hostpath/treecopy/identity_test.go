package treecopy

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/internal/testenv"
)

func identityOf(t *testing.T, path string) inode {
	t.Helper()
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(fd)
	var st unix.Stat_t
	must(t, unix.Fstat(fd, &st))
	return identify(fd, &st)
}

func TestInodesUsedAgainAreOtherFiles(t *testing.T) {
	onFilesystems(t, func(t *testing.T, dir string) {
		one, two := filepath.Join(dir, "one"), filepath.Join(dir, "two")
		again := 0
		for range 10 {
			must(t, os.WriteFile(one, nil, 0o644))
			must(t, os.Link(one, two))
			before := identityOf(t, one)
			if other := identityOf(t, two); before != other {
				t.Fatalf("two names of one file: %v and %v", before, other)
			}
			must(t, os.Remove(one))
			must(t, os.Remove(two))
			must(t, os.WriteFile(one, nil, 0o644))
			after := identityOf(t, one)
			if after.ino == before.ino {
				again++
			}
			if after == before {
				t.Fatalf("a file has the identity of one that was deleted: %v", after)
			}
			must(t, os.Remove(one))
		}
		if filepath.Base(t.Name()) == "ext4" && again == 0 {
			t.Error("no inode was used again: this test shows nothing")
		}
	})
}

// TestIdentityWithoutHandles uses an overlay, which has none.
func TestIdentityWithoutHandles(t *testing.T) {
	layers := testenv.Filesystem(t, "ext4", 64<<20)
	for _, name := range []string{"lower", "upper", "work", "merged"} {
		must(t, os.Mkdir(filepath.Join(layers, name), 0o755))
	}
	merged := filepath.Join(layers, "merged")
	testenv.Run(t, "mount", "-t", "overlay", "-o", "lowerdir="+layers+"/lower,upperdir="+layers+"/upper,workdir="+layers+"/work",
		"overlay", merged)
	t.Cleanup(func() { testenv.Run(t, "umount", merged) })

	one, two := filepath.Join(merged, "one"), filepath.Join(merged, "two")
	must(t, os.WriteFile(one, nil, 0o644))
	must(t, os.Link(one, two))
	if id := identityOf(t, one); id != (inode{}) {
		t.Errorf("just changed, yet its identity is said to be %v", id)
	}
	time.Sleep(2 * clockTick)
	before := identityOf(t, one)
	if other := identityOf(t, two); before == (inode{}) || before != other {
		t.Errorf("two names of one file: %v and %v", before, other)
	}
	must(t, os.Chmod(one, 0o600))
	time.Sleep(2 * clockTick)
	if after := identityOf(t, one); after == before {
		t.Errorf("changed, yet the same: %v", after)
	}
}
