// Package crash tests the built driver as what it is in production: a process
// that can die at any moment, on a machine whose power can be cut. Either
// happens at random moments while workers create, restore, snapshot, grow and
// delete. The driver is started again, and asked what it still has. The workers
// are clients from outside and so know what they were promised.
package crash
