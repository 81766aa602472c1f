// Package importer makes a snapshot of an archive: a tar file of a directory,
// as the hostPath plugin of the incubator's snapshot-controller left them in
// /tmp, or as anybody makes them.
//
// It is a client of the running driver, like a sidecar and a kubelet in one: it
// has a volume made, fills it where the driver publishes it, has it snapshotted
// and deleted. So the snapshot is committed as every other is, whichever backend
// keeps it.
//
// # Invariants
//
//   - Volume and snapshot are named after the archive's SHA-256. Who imports an
//     archive again gets the snapshot of the first time.
//   - No snapshot is taken of a volume that is not filled. An import that was
//     cut off, even by kill -9, leaves a volume and no snapshot; the next import
//     of that archive deletes that volume and begins anew. Imports into one
//     driver take turns.
//   - Nothing outside the volume is written, whatever the archive holds.
package importer
