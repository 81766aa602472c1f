// Package container runs the driver as deploy/overlays/lvm does, but without a
// container runtime: with the programs of the distribution on a root that is
// read-only, and nothing of the machine but what the manifest mounts. Its
// lvm meets the machine's own.
package container
