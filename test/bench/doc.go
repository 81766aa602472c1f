// Package bench compares the driver with the floors: with what the machine
// needs at least for the same effect, measured in the same run, in turn with
// it, since machines are shared and noisy. What is measured is the whole RPC
// through the socket of the built driver, until the effect is durable.
//
// Every benchmark reports medians:
//
//	ms            the driver's time
//	FLOOR-ms      the time of a floor, as the tool leaves it, mostly not durable
//	x-FLOOR       the driver's time by that of the floor
//	x-FLOOR+sync  the driver's time by that of the floor and of the sync that
//	              makes it durable too
//	cpu-ms        processor time that the driver took, without the kernel's threads
//	peak-MiB      the largest resident memory that the driver had meanwhile
//	new-MiB       how much less of the filesystem is free afterwards
//
// The names are pairs of keys and values, as benchstat knows them. "make bench"
// runs them all and makes tables and figures of them (test/bench/report);
// docs/performance.md explains the figures.
package bench
