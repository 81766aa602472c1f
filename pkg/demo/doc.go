// Package demo walks through the life of a volume and its snapshot as a client
// of a running driver, and tells what happens: every RPC with its request and
// response, which sidecar would have called it because of which Kubernetes
// object, and what changed on disk. It is a client like any sidecar and knows
// nothing of the driver's code.
package demo
