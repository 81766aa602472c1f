// Package hostpath is the backend that keeps volumes and snapshots as
// directories and image files below one root directory of any Linux
// filesystem.
//
// # On disk
//
//	lock                      held by the process that serves the root; its pid
//	volumes/<volume ID>/      meta.json and data/ (layout directory) or image
//	snapshots/<snapshot ID>/  meta.json and data.tar, data.tar.zst or image
//	staging/                  what is being made; emptied at start
//	trash/                    what was deleted; emptied in the background
//	spare/                    empty, or what was deleted while there was no space
//	damaged/                  what was found damaged at start; never touched
//
// # Invariants
//
//   - What lies in volumes/ or snapshots/ is an object, whole and durable, its
//     record with it. It comes there and goes from there by one rename. An empty
//     directory is none: a crash has kept it from being removed.
//   - What cannot be served is never removed or written over. What is malformed
//     goes to damaged/. What could not be read, or is of another version of this
//     program, stays: what can read it finds it there.
//   - Everything is reached through the open root directory, and every path
//     below it consists of IDs and of names of this package's own. Below a
//     volume's data/, which belongs to pods, only treecopy and the emptying of
//     trash go, neither of which follows a symbolic link or enters a mount.
//   - A filesystem is made on a file in staging/, never on a device and never
//     later: nothing is ever formatted that might hold data.
//   - An image never shrinks. It may be larger than the record says, when a
//     crash came between the two; the repeat of the expansion mends that, and
//     until then the excess is never seen as a smaller volume would be.
//   - A filesystem is frozen for a bounded time, and thawed also when the work
//     fails, panics, hangs, or dies with the process.
//
// # Layouts
//
// A directory volume is bound as it is: it has the room and the features of
// the node's filesystem, and its capacity is a number on paper. Volumes of
// layout image and block volumes are sparse files of exactly the capacity on a
// loop device.
package hostpath
