// Package treecopy copies directory trees with everything that is in them:
// from a tree to a tar file, from a tar file to a tree, from a tree to a tree.
package treecopy
