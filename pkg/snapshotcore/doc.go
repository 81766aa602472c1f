// Package snapshotcore holds the policy of the driver, written once for every
// backend: names become IDs, repeated requests are recognised, sizes are
// picked, sources are resolved, operations on one object exclude each other,
// and long copies are detached from the request that asked for them.
//
// Invariants:
//
//   - The index holds exactly the committed objects. It is memory only, built
//     by backend.Recover, and changed after the backend has committed.
//   - Nobody waits behind a lock: who cannot have it gets backend.ErrBusy.
//   - The mutex of Core is never held across I/O.
//   - Once a request has been answered with success, the same request is
//     never answered with an error while the object exists.
//   - An operation, once started, ends by itself or by Close, never because
//     its caller went away.
//
// The core knows nothing of CSI messages, of gRPC and of how a backend stores
// its bytes.
package snapshotcore
