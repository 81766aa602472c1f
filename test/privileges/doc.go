// Package privileges runs the built driver with no more capabilities than
// docs/security.md names and no more programs than its image has, through all
// that it does; and then without each of the capabilities. The list is complete
// if all goes well with it, and has none too many if something goes wrong
// without each.
package privileges
