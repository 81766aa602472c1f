// Package crash tests the built driver as what it is in production: a process
// that can die at any moment. It is killed with SIGKILL while workers create,
// restore, snapshot and delete, started again, and asked what it still has.
package crash
