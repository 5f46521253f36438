// Command bench measures tmemd with pages of real memory, beside other NBD
// servers in the same run:
//
//	go run ./deploy/bench
//
// It prints what the pages are, what the tier does with them inside one process
// (pages a second out and in, compression, allocations, memory for each page),
// and then drives servers over Unix sockets, each a process of its own: tmemd,
// the NBD engine alone (a device in plain memory), and nbdkit's memory plugin,
// raw and with its zstd allocator, if nbdkit is installed.
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
//	M4  Processor time is that of the server's threads, to the nanosecond, and
//	    memory what its resident set grew by while it was filled.
//	M5  The load that others put on the machine meanwhile stands beside the
//	    figures. Absolute figures of a shared machine say little; ratios hold.
//	M6  One read in 16 is checked; a wrong page or an error ends the run.
//
// # Not promised
//
// Timing is never asserted: the tests check that all of it works.
package main
