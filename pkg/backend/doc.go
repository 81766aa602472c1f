// Package backend is the contract between the snapshot core and whatever
// stores the bytes.
//
// # Terms
//
// A volume holds a user's data. A snapshot holds what a volume held at the
// moment of its cut. Both are objects. An object is committed from the moment
// on which a crash cannot undo it; before that it does not exist.
//
// # The life of an object
//
// The core derives an object's ID from its name and hands it to the backend.
// The backend builds the object out of sight, makes it durable and commits it
// by one atomic act whose mark lives with the object. There is no record
// beside the storage that could disagree with it. Deleting takes the mark away
// by one atomic act too; what remains is rubbish, removed at leisure.
//
//	(absent) --build--> uncommitted --commit--> committed --delete--> rubbish
//	             ^__________ Recover removes it __________________________|
//
// # What every backend promises
//
//   - A method that returned without error has made its effect durable: power
//     may fail in the next instant.
//   - A method that returned an error, or never returned because the process
//     died, has left the object either absent or whole. The same call may be
//     made again and converges. A growing volume has its old or its new size.
//   - Objects do not depend on each other: every order of deletion works, and
//     a snapshot outlives its source.
//   - Nothing outside the backend's own storage is read or written, whatever
//     the volumes hold and however they change meanwhile.
//   - Errors wrap one of this package's sentinels where one applies. Any other
//     error is a fault of the machine.
//
// # What a backend may leave to the core
//
// The core keeps the index of committed objects, compares repeated requests,
// picks sizes, and makes sure that no two calls that change the same object
// run at once, that a source stays while it is being read, and that a volume
// in use is not deleted. A backend therefore has no policy: it never asks
// whether an object of that name exists already with other arguments. Calls
// for different objects do run at once.
//
// A backend never mounts what it stores. It says what to mount.
package backend
