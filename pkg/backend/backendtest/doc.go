// Package backendtest is the conformance suite of the backend contract: Run
// runs it over one kind of volume of one backend.
//
// Every test gets fresh storage. Every test ends in the same way: the backend
// is closed, opened again and recovered, every object that should exist is
// read, all are deleted, and the storage is asked whether anything is left.
//
// The crash loop runs each operation again and again and stops it for ever at
// its first step, its second, and so on, where a crash would. What the
// operation had open stays open and no deferred clean-up runs until the test
// has looked at what a new process makes of the storage.
package backendtest
