// Package manifests tests what users apply, deploy/ and examples/, without a
// cluster: that it builds, that Kubernetes knows each field, and that it keeps
// the project's rules on images and privileges.
package manifests
