package torture

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/snapdriver/snapdriver/test/torture/content"
)

// A pod that means harm has this many directories, each with the same files in
// it as a directory outside has.
const branches = 8

// marks are texts of files outside; a copy that has one of them has read there.
var marks = [][]byte{[]byte("a canary, and no business of any volume"), []byte("root:x:0:0:")}

// TestLiveTree takes snapshots and clones of a volume while a pod renames,
// truncates, deletes and grows what is in it, and puts links to directories
// outside and to /etc in the place of its own. No copy fails, all have what the
// pod leaves alone, and nothing outside is ever read or written.
func TestLiveTree(t *testing.T) {
	onEach(t, func(t *testing.T, s storage) {
		if s.name == "lvm" {
			t.Skip("lvm reads no trees")
		}
		for _, name := range []string{"directory", "compressed"} {
			t.Run(name, func(t *testing.T) {
				b := started(t, s, 4*gib)
				outside := newOutside(t, filepath.Join(b.dir, "outside"))
				v := b.mustCreate(kindOf(s.kinds, name), "live")
				if err := v.publish(); err != nil {
					t.Fatal(err)
				}
				calm := content.Tag(7)
				if err := calm.Write(v.target()); err != nil {
					t.Fatal(err)
				}
				pod := startMischief(t, v.target(), outside.dir)
				var copies []*volume
				for i := range 5 * *scale {
					cut, err := v.snapshot(fmt.Sprint(i))
					if err != nil {
						t.Fatalf("snapshot: %v", err)
					}
					for what, source := range map[string]func() (*volume, error){
						"restore": func() (*volume, error) { return b.create(v.kind, fmt.Sprint("restored ", i), fromSnapshot(cut)) },
						"clone":   func() (*volume, error) { return b.create(v.kind, fmt.Sprint("clone ", i), fromVolume(v.id)) },
					} {
						made, err := source()
						if err != nil {
							t.Fatalf("%s: %v", what, err)
						}
						copies = append(copies, made)
					}
				}
				pod.stop()
				pod.expectDone(t)
				for _, made := range copies {
					made.use(func(path string) error { return errors.Join(calm.Check(path), findMarks(path)) })
				}
				if err := v.unpublish(); err != nil {
					t.Fatal(err)
				}
				b.deleteAll()
				b.awaitSpace()
				outside.expectUntouched(t)
			})
		}
	})
}

// findMarks says which files below a directory have been taken from outside.
func findMarks(dir string) error {
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		for _, mark := range marks {
			if bytes.Contains(data, mark) {
				return fmt.Errorf("%s has what is outside the volume", path)
			}
		}
		return err
	})
}

// outside is a directory that is not the volume's, with what the volume has too.
type outside struct {
	dir    string
	before map[string]unix.Stat_t
}

func newOutside(t *testing.T, dir string) outside {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(dir, "inner"), 0o755); err != nil {
		t.Fatal(err)
	}
	read, written := time.Unix(1e9, 0), time.Unix(1.1e9, 0) // so that reading shows, see relatime in mount(8)
	for _, name := range []string{"file", "inner/file", "inner", "."} {
		path := filepath.Join(dir, name)
		if filepath.Base(name) == "file" {
			if err := os.WriteFile(path, marks[0], 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chtimes(path, read, written); err != nil {
			t.Fatal(err)
		}
	}
	o := outside{dir: dir}
	o.before = o.look(t)
	return o
}

// look returns the status of everything outside, without reading any of it.
func (o outside) look(t *testing.T) map[string]unix.Stat_t {
	t.Helper()
	found := map[string]unix.Stat_t{}
	for _, name := range []string{"file", "inner/file", "inner", "."} {
		var stat unix.Stat_t
		if err := unix.Lstat(filepath.Join(o.dir, name), &stat); err != nil {
			t.Fatal(err)
		}
		found[name] = stat
	}
	for _, path := range []string{"/etc", "/etc/passwd", "/etc/group"} {
		var stat unix.Stat_t
		if err := unix.Lstat(path, &stat); err != nil {
			t.Fatal(err)
		}
		stat.Atim = unix.Timespec{} // others read them
		found[path] = stat
	}
	return found
}

func (o outside) expectUntouched(t *testing.T) {
	t.Helper()
	if diff := cmp.Diff(o.before, o.look(t)); diff != "" {
		t.Errorf("outside the volume, before (-) and after (+):\n%s", diff)
	}
	// That reading shows is what this stands on.
	if _, err := os.ReadFile(filepath.Join(o.dir, "file")); err != nil {
		t.Error(err)
	}
	if cmp.Equal(o.before, o.look(t)) {
		t.Error("reading a file here does not change its access time")
	}
}

// mischief is a pod that does harm, and how often it has done what.
type mischief struct {
	stop func()

	mutex sync.Mutex
	done  map[string]int
}

// did counts a system call that has succeeded.
func (m *mischief) did(what string, err error) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	if err == nil {
		m.done[what]++
	}
}

// expectDone checks that all sorts of harm were done, without which a copy proves
// nothing.
func (m *mischief) expectDone(t *testing.T) {
	t.Helper()
	t.Logf("the pod has done: %v", m.done)
	for _, what := range []string{"exchange for a link", "rename", "truncate", "grow", "delete", "link", "fifo"} {
		if m.done[what] == 0 {
			t.Errorf("the pod has never done this: %s", what)
		}
	}
}

// startMischief has a pod do harm in a directory until it is stopped.
func startMischief(t *testing.T, dir, outside string) *mischief {
	t.Helper()
	for i := range branches {
		branch := filepath.Join(dir, fmt.Sprint("branch", i))
		if err := os.MkdirAll(filepath.Join(branch, "inner"), 0o755); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"file", "inner/file"} {
			if err := os.WriteFile(filepath.Join(branch, name), make([]byte, 100_000), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		to := outside
		if i%2 == 1 {
			to = "/etc"
		}
		if err := os.Symlink(to, filepath.Join(dir, fmt.Sprint("link", i))); err != nil {
			t.Fatal(err)
		}
	}
	m := &mischief{done: map[string]int{}}
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	for i, harm := range []func(*rand.Rand, string){m.exchange, m.rewrite, m.remake, m.exchange} {
		random := rand.New(rand.NewPCG(*seed, uint64(i)))
		all.Go(func() {
			for ctx.Err() == nil {
				harm(random, dir)
				time.Sleep(time.Duration(random.IntN(200)) * time.Microsecond) // others have to do something too
			}
		})
	}
	m.stop = sync.OnceFunc(func() { cancel(); all.Wait() })
	t.Cleanup(m.stop)
	return m
}

// exchange puts a link in the place of a directory, or another directory, by one
// system call.
func (m *mischief) exchange(random *rand.Rand, dir string) {
	one := fmt.Sprint("branch", random.IntN(branches))
	other := []string{"branch", "link", "link"}[random.IntN(3)]
	m.did("exchange for a "+other, unix.Renameat2(unix.AT_FDCWD, filepath.Join(dir, one), unix.AT_FDCWD,
		filepath.Join(dir, fmt.Sprint(other, random.IntN(branches))), unix.RENAME_EXCHANGE))
}

// rewrite truncates, grows or deletes a file, or puts a fifo or a link to outside
// in its place. It does not follow links, for that would be us.
func (m *mischief) rewrite(random *rand.Rand, dir string) {
	branch, err := unix.Open(filepath.Join(dir, fmt.Sprint("branch", random.IntN(branches))), unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return // it is a link now
	}
	defer unix.Close(branch)
	remove := func() { m.did("delete", unix.Unlinkat(branch, "file", 0)) }
	switch random.IntN(5) {
	case 0:
		remove()
		m.did("fifo", unix.Mkfifoat(branch, "file", 0o644))
	case 1:
		remove()
		m.did("link", unix.Symlinkat("/etc/passwd", branch, "file"))
	default:
		remove()
		fallthrough
	case 2:
		file, err := unix.Openat(branch, "file", unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o644)
		if err != nil {
			return
		}
		var before unix.Stat_t
		size := random.Int64N(300_000)
		if err := errors.Join(unix.Fstat(file, &before), unix.Ftruncate(file, size)); size < before.Size {
			m.did("truncate", err)
		}
		_, err = unix.Pwrite(file, make([]byte, random.IntN(300_000)), random.Int64N(100_000))
		m.did("grow", err)
		_ = unix.Close(file)
	}
}

// remake deletes a directory and makes another, or moves it elsewhere.
func (m *mischief) remake(random *rand.Rand, dir string) {
	branch, err := unix.Open(filepath.Join(dir, fmt.Sprint("branch", random.IntN(branches))), unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(branch)
	m.did("rename", unix.Renameat(branch, "inner", branch, "away"))
	_ = unix.Mkdirat(branch, "inner", 0o755)
	_ = unix.Unlinkat(branch, "inner", unix.AT_REMOVEDIR)
	_ = unix.Symlinkat("..", branch, "inner")
	_ = unix.Unlinkat(branch, "inner", 0)
	_ = unix.Renameat(branch, "away", branch, "inner")
}
