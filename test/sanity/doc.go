// Package sanity runs csi-sanity, the conformance tests of the CSI project,
// against the driver: over hostpath in each layout, and the controller's part
// over the backend in memory, which needs no root. A spec may be skipped only
// for a capability that the driver does not advertise.
package sanity
