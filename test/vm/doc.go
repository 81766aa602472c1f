// Package vm runs, in a virtual machine, the tests that need what this
// machine's kernel lacks: device-mapper's thin pools, above all. Package
// internal/testvm is the machine.
//
//	make test-lvm                                  # all of suites, see guest_test.go
//	go test -v ./test/vm -run TestGuest/thinpool   # one of them
//
// While a test is written, "go test" runs it in the guest directly, with any of
// its flags. The machine boots in seconds:
//
//	export CGO_ENABLED=0
//	go test -exec "go run github.com/snapdriver/snapdriver/test/vm/run" -v ./pkg/backend/lvm -run TestX
//	go run ./test/vm/run lvm version      # a program of the guest
//	go run ./test/vm/run ./some/program   # one of the host's
//
// The power cuts, which are made from outside, are in package test/torture.
//
// On a kernel that has thin pools the tests run as all others do, and "make
// test-lvm" runs the same list without a virtual machine.
package vm
