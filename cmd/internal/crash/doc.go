// Package crash kills the daemon. It has only tests: TestKills runs tmemd as a
// process of its own under random requests and random operators, kills it with
// SIGKILL at a random instant (also while it starts), starts it again and reads
// every page back.
//
// TestDiskKills does so with disks: one with content of its own, an overlay over a base,
// and a copy of the base that shares its cached pages.
//
//	go test ./cmd/internal/crash                  a short round
//	make crash KILLS=1000                         a long one
//	CRASH_SEED=7 go test ./cmd/internal/crash     the round that a failure named
//
// # What has to hold after each start
//
//	K1  A page has what was acknowledged last, or what one request without an
//	    answer would have made of it: one of the two, and the same one from then on.
//	K2  The daemon starts, and answers no request with an error.
//	K3  What backends hold is what page maps name: tmemd check finds nothing
//	    damaged, and after a start without requests no orphan.
//	K4  The file of a disk has what K1 says of the disk; an overlay has its own pages and
//	    the base's others. The files of a base, and of a disk that is read only, never
//	    change. Caches of disks are empty, and what is read through them then is right.
//
// # Not tested here
//
// Instants inside the kernel: SIGKILL is seen when a system call ends. Power cuts,
// which nothing here survives. The kernel as a client; that is deploy/vm.
package crash
