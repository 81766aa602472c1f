// Package torture does to the built driver what the world does to it, from
// outside: through its socket, as a process that can be killed, on filesystems
// and pools that fill up and fail, on a machine whose power can be cut. It looks
// for what loses data, leaks, hangs, or tells an untruth.
//
//	go test -v ./test/torture                           # a short one, in minutes
//	go test -v ./test/torture -run TestRace             # one family
//	go test -v ./test/torture -torture.scale 4          # so many times as often
//	go test -v ./test/torture -torture.seed 7           # other random choices
//	go test -v -timeout 2h ./test/torture -run TestBooks -torture.books 30m -torture.workers 32
//
// There is a file for each family. A case is named after what it guards. Every
// case that gets storage of its own ends by deleting everything, and fails when
// anything is left: an entry on disk, a mount, a loop device.
//
// On a kernel that has thin pools everything runs on lvm too; package test/vm
// sees to that in a virtual machine.
package torture
