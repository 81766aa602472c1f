// Package lvm is the backend that keeps volumes and snapshots as thin logical
// volumes in a thin pool of LVM.
//
// # In the volume group
//
// An object is one thin logical volume whose name is the object's ID. Its tags
// are its record, committed with it by the same lvm command. There is nothing
// else: no file, and no record of objects beside the objects. Ours is what lies
// in our pool and has the tag sd.v; nothing else is ever touched or listed.
//
//	sd.v=1             version of the tags
//	sd.kind            volume or snapshot
//	sd.name            name that it was asked for under, base64url
//	sd.created         when, RFC 3339 in UTC; of a snapshot the moment of the cut
//	sd.mode            filesystem or block
//	sd.fs              filesystem that is on it, or will be
//	sd.asked-fs        the same, if the request named it
//	sd.access          CSI access mode of a volume; one tag each
//	sd.source          ID of what it was made from
//	sd.new             it was never formatted, nor was what it was made from;
//	                   UUID of the filesystem that it, or that, is to get; one
//	                   tag each
//	sd.grow            bytes that it has at least, once it is whole
//	sd.ready-after     how long a snapshot counts as not ready, as 1m0s
//
// The size of the logical volume is the capacity. All of them have the flag
// that keeps a boot from activating them.
//
// # Invariants
//
//   - An RPC runs one lvm command that changes something where one size is
//     asked for, and two where a volume is made larger than its source. lvm is
//     asked only at the start, about one object that is not known, after a
//     command has failed, and by the guard before the pool when its estimate
//     says no. Whether there is a device, and in which state, the kernel says.
//   - A command that changes something is never killed. It ends before the next
//     process looks at what is there, also when this one was killed.
//   - A device is formatted at one place and under the conditions stated there;
//     see format.
//   - What cannot be read, or is of another version, is named, left as it is, and
//     keeps nothing else from being served.
//   - An object that is not whole yet, since a crash came between two commands,
//     is finished by the next start or by the repeated request.
//   - The kernel has no device in the pool that no logical volume has: lvm would
//     give it, with somebody's data, to the next new volume; see settle.
//
// # Reading a copy while the original is in use
//
// A snapshot has the filesystem of its origin, with the same UUID. ext4 does
// not care, XFS is mounted with nouuid, and a btrfs gets a UUID of its own
// before it is mounted for the first time; see identify.
package lvm
