// Package driver is the CSI edge: the only importer of the csi and grpc
// packages. It checks requests, turns them into calls of the snapshot core,
// and turns the answers and errors into CSI's.
//
// Invariants:
//
//   - Every rule about requests stands once: a check of a field in validate.go,
//     a CSI message in render.go, a gRPC code in errors.go.
//   - Handlers neither log nor lock by hand, nor know gRPC codes.
//   - An RPC that is not advertised as a capability answers UNIMPLEMENTED.
//   - No request can end the process.
//   - What CSI marks as secret, and mount flags, are never logged.
//   - IDs are parsed here, strictly. An ID that this driver cannot have given
//     out names nothing: deleting it succeeds, all else is NOT_FOUND.
package driver
