// Package memory holds the comparison of the memory that tmemd takes for a page
// with what the kernel's zram takes for the same pages. make bench-memory runs it,
// as root, on any kernel that has zram; nobody imports it.
//
// Both keep the same corpus of pages of real processes (package corpus), all of
// them in memory: zcache is told to keep incompressible pages too, as zram does.
// zram is a real device, written through its block device past the page cache.
// What counts:
//
//	zram   mem_used_total of its mm_stat, and its table of 16 bytes for each page
//	tmemd  the resident memory of the arena, of its chunk table and of the page map,
//	       and the page locks
//
// On both sides the working memory of the compressors is left out, as it does not
// grow with the pages; the report has tmemd's.
//
// TestEstimate asks tmemctl estimate, as make build makes it, about a process that holds
// such pages, and puts the same pages into zram: what it says of zram has to be within
// 3 % of what zram says of itself.
//
// # Invariants
//
//	M1  The zram device belongs to a process that does nothing but wait for the
//	    tests, and removes it whatever becomes of them.
//	M2  Pages are read back and compared at the end of each phase, on both sides: a
//	    memory that lost some would be small.
//	M3  No figure is a time.
package memory
