// Package bench compares the driver with the floor: with what the machine
// needs at least for the same effect, measured in the same run, in turn with
// it, since machines are shared and noisy. What is measured is the whole RPC
// through the socket of the built driver, until the effect is durable.
//
// Every benchmark reports the medians of both in milliseconds, their ratio
// (x-floor), the ratio to the floor with the sync that makes it durable as well
// (x-synced-floor), and some the new bytes on disk in percent of the data. Run
// them with "make bench"; docs/performance.md explains the figures.
package bench
