package hostpath_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/snapdriver/snapdriver/internal/testenv"
	"github.com/snapdriver/snapdriver/pkg/backend"
)

// attempt is an operation that a power cut interrupts. It is repeated
// afterwards, unless what it makes is there; then check looks at what it has
// come to.
type attempt struct {
	makes fmt.Stringer // an ID; nil: nothing
	do    func() error
	check func()
}

// TestPowerCutAtEachStep cuts the power before each step of each operation, just
// after the filesystem has written its log: the names of files are on the disk
// then, and what they hold is not, unless somebody has seen to it. The repeat
// succeeds, and what it acknowledges holds what it should.
func TestPowerCutAtEachStep(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	onEachCuttable(t, []string{"directory", "ext4 image", "block"}, func(t *testing.T, host, kind string, format map[string]string) {
		node := newCuttable(t, host)
		source := create(t, node.b, spec(kind, "source"))
		for name, prepare := range node.operations(kind, source, format) {
			for n := 1; node.interrupt(name, prepare, n, source); n++ {
			}
		}
		if err := node.b.Close(); err != nil {
			t.Error(err)
		}
	})
}

// interrupt cuts the power before the n-th step of an operation; false: it has
// fewer.
func (c *cuttable) interrupt(name string, prepare func(n int) attempt, n int, source backend.VolumeID) bool {
	c.t.Helper()
	const content = "content"
	c.Write(c.t, c.b, source, content)
	attempt := prepare(n)
	c.Write(c.t, c.b, source, content) // no pod syncs it
	last, steps := "", 0
	c.step = func(name string) {
		if steps++; steps == n {
			last = name
			testenv.ShutDownLogged(c.t, c.mount.Mountpoint)
		}
	}
	err := attempt.do()
	c.step = nil
	if steps >= n {
		found := c.boot()
		if len(found.Damaged) > 0 {
			c.t.Fatalf("%s, power cut before %q: damaged %q", name, last, found.Damaged)
		}
		c.Write(c.t, c.b, source, content)
		if err = nil; !has(found, attempt.makes) {
			err = attempt.do()
		}
	}
	if err != nil {
		c.t.Fatalf("%s, power cut before %q, repeated: %v", name, last, err)
	}
	attempt.check()
	if c.t.Failed() {
		c.t.Fatalf("%s, power cut before %q", name, last)
	}
	return steps >= n
}

// operations are those that change the storage, each on objects of its own.
func (c *cuttable) operations(kind string, source backend.VolumeID, format map[string]string) map[string]func(n int) attempt {
	ctx := c.t.Context()
	snapshotOf := func(name string) backend.SnapshotSpec {
		return backend.SnapshotSpec{ID: backend.NewSnapshotID("node", name), Name: name, Source: source, Parameters: format}
	}
	takeSnapshot := func(spec backend.SnapshotSpec) error {
		_, err := c.b.CreateSnapshot(ctx, spec, nil)
		return err
	}
	makeVolume := func(spec backend.VolumeSpec) error {
		_, err := c.b.CreateVolume(ctx, spec, nil)
		return err
	}
	must := func(err error) {
		if err != nil {
			c.t.Fatal(err)
		}
	}
	from := func(name string, n int, from backend.Source) backend.VolumeSpec {
		volume := spec(kind, fmt.Sprint(name, n))
		volume.Source = from
		return volume
	}
	return map[string]func(n int) attempt{
		"create": func(n int) attempt {
			volume := from("created", n, backend.Source{})
			return attempt{
				volume.ID,
				func() error { return makeVolume(volume) },
				func() { c.Write(c.t, c.b, volume.ID, "its own"); c.expect(volume.ID, "its own") },
			}
		},
		"clone": func(n int) attempt {
			volume := from("clone", n, backend.Source{Volume: source})
			return attempt{volume.ID, func() error { return makeVolume(volume) }, func() { c.expect(volume.ID, "content") }}
		},
		"snapshot": func(n int) attempt {
			snapshot := snapshotOf(fmt.Sprint("taken", n))
			return attempt{snapshot.ID, func() error { return takeSnapshot(snapshot) }, func() {
				restored := from("from taken", n, backend.Source{Snapshot: snapshot.ID})
				must(makeVolume(restored))
				c.expect(restored.ID, "content")
			}}
		},
		"restore": func(n int) attempt {
			snapshot := snapshotOf(fmt.Sprint("cut", n))
			must(takeSnapshot(snapshot))
			volume := from("restored", n, backend.Source{Snapshot: snapshot.ID})
			return attempt{volume.ID, func() error { return makeVolume(volume) }, func() { c.expect(volume.ID, "content") }}
		},
		"expand": func(n int) attempt {
			volume := from("grown", n, backend.Source{})
			must(makeVolume(volume))
			c.Write(c.t, c.b, volume.ID, "its own")
			testenv.Run(c.t, "sync", "--file-system", c.mount.Mountpoint) // its pod's
			return attempt{
				nil,
				func() error { _, err := c.b.ExpandVolume(ctx, volume.ID, 2*volume.Capacity); return err },
				func() { c.expect(volume.ID, "its own"); c.expectImage(volume.ID, 2*volume.Capacity) },
			}
		},
		"delete volume": func(n int) attempt {
			volume := from("deleted", n, backend.Source{})
			must(makeVolume(volume))
			return attempt{
				nil,
				func() error { return c.b.DeleteVolume(ctx, volume.ID) },
				func() { c.expectGone(volume.ID) },
			}
		},
		"delete snapshot": func(n int) attempt {
			snapshot := snapshotOf(fmt.Sprint("deleted", n))
			must(takeSnapshot(snapshot))
			return attempt{
				nil,
				func() error { return c.b.DeleteSnapshot(ctx, snapshot.ID) },
				func() { c.expectGone(snapshot.ID) },
			}
		},
	}
}

// expectGone fails the test when a new process would serve the object.
func (c *cuttable) expectGone(id fmt.Stringer) {
	c.t.Helper()
	c.b.WaitForRemovals()
	c.b.Crash()
	if has(c.restart(), id) {
		c.t.Errorf("%s was deleted, and is there", id)
	}
}

func has(found backend.Inventory, id fmt.Stringer) bool {
	return id != nil && (slices.ContainsFunc(found.Volumes, func(v backend.Volume) bool { return v.ID.String() == id.String() }) ||
		slices.ContainsFunc(found.Snapshots, func(s backend.Snapshot) bool { return s.ID.String() == id.String() }))
}

// A filesystem that fails just before the last sync of an operation lets nothing
// be acknowledged. XFS calls a directory synced of which it has given up what
// was to be written.
func TestNothingIsAcknowledgedOnAFailedFilesystem(t *testing.T) {
	for _, host := range []string{"ext4", "xfs"} {
		t.Run(host, func(t *testing.T) {
			node := newCuttable(t, host)
			deleted := create(t, node.b, spec("directory", "deleted"))
			for what, do := range map[string]func() error{
				"create": func() error {
					_, err := node.b.CreateVolume(t.Context(), spec("directory", "created"), nil)
					return err
				},
				"delete": func() error { return node.b.DeleteVolume(t.Context(), deleted) },
			} {
				node.step = func(name string) {
					if name == "sync" {
						testenv.ShutDown(t, node.mount.Mountpoint)
						time.Sleep(100 * time.Millisecond) // it gives up in the background
					}
				}
				err := do()
				node.step = nil
				if err == nil {
					t.Errorf("%s: acknowledged", what)
				}
				node.boot()
			}
		})
	}
}
