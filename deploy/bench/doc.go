// Command bench measures tmemd with pages of real memory, beside other NBD
// servers in the same run:
//
//	go run ./deploy/bench
//
// It prints what the pages are, what the tier does with them inside one process
// (pages a second out and in, compression, allocations, memory for each page),
// and then drives servers over Unix sockets, each a process of its own: tmemd,
// the NBD engine alone (a device in plain memory), go-nbd's server over the same
// device, and, if they are installed, nbdkit's memory plugin, raw and with its
// zstd allocator, and qemu-nbd with a file in memory. As root on a kernel with
// zram it measures a zram device with the same pages and workloads too.
//
// Then it measures tmemd under adverse conditions: a client that reads slowly,
// many idle ones, a page that is stuck in storage. The last table puts the
// project's targets beside what was reached.
//
// `go test -bench . ./deploy/bench` has the same as Go benchmarks, without
// other servers and in one process.
//
// # How it measures
//
//	M1  All servers get the same pages and the same requests in the same order,
//	    from the same client (package client), which costs 1 to 2 µs a request.
//	M2  Servers are measured in turn, in rounds, each time from a new start, and the
//	    order moves on from round to round. A figure is the median of its rounds; a
//	    ratio is the median of the ratios of each round.
//	M3  Every cell is a fixed time, not a number of requests, so that a slow server
//	    does not get the machine for longer.
//	M4  Processor time is that of the server's process, to the nanosecond, until it
//	    is idle again: what it leaves for later, as compressing behind a write, is
//	    part of the cell and does not disturb the next one. Memory is what its
//	    resident set grew by until it was full and idle. zram's processor time is
//	    that of the one thread that uses it.
//	M5  The load that others put on the machine meanwhile stands beside the
//	    figures. Absolute figures of a shared machine say little; ratios hold.
//	M6  One read in 16 is checked; a wrong page or an error ends the run.
//	M7  Quiet and disturbed cells alternate on one connection, and each disturbance
//	    proves that it was there: a stuck page that is read sooner than it should
//	    be, an idle client that is refused, or a slow one that gets nothing ends
//	    the run. The pages read are in memory, so that the p99 is not a disk's.
//	M8  What a server cannot do, or what the machine does not have, is a dash with
//	    its reason, never a figure.
//	M9  Devices, and files outside of -folder, are removed when the run ends, also by
//	    SIGINT or SIGTERM.
//
// # Not promised
//
// Timing is never asserted: the tests check that all of it works, and
// the table of targets informs.
package main
