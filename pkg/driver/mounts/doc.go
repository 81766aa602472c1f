// Package mounts puts a backend's volumes at paths of the node and takes them
// away again. It knows nothing of CSI messages.
//
// Invariants:
//
//   - Nothing is ever formatted here. A device holds the filesystem that its
//     backend made, or it is not mounted.
//   - Whether a volume is at a path is told by what lies there (device and
//     inode), never by a record.
//   - A bind mount appears with all of its flags at once; there is no moment
//     at which a read-only mount can be written through.
//   - Only empty directories and empty files are ever removed, and nothing
//     recursively.
//   - No symbolic link is followed in the last component of a caller's path.
package mounts
