// Package sharedmem owns memory outside the Go heap: shared memory files (the
// page map, arenas) and private anonymous mappings (I/O buffers).
//
// frontswap, tier and the backends call it. It exists so that page data is not
// garbage-collected, can be given back to the system in pieces, and is counted:
// every mapping has a purpose, one owner that closes it, and a [Usage] that
// ends in a gauge.
//
// Invariants:
//
//	M1  A region is mapped from its creation to Close and never moved. One that grows
//	    is mapped once more: what was mapped before is the same memory, at the same
//	    place, until Close. So whoever uses the bytes need not know.
//	M2  Punched bytes read as zero and their memory is back with the system.
//	M3  Close is called once, by the owner, when nobody can touch the bytes:
//	    a later access is a fault that no recover can catch.
//	M4  In a shared memory file reading takes memory just as writing does, one
//	    page of the system at a time: what must stay untouched must not be read.
//
// Not promised: that memory is there when it is first touched. The system may
// be out of it; the owner bounds what it maps.
package sharedmem
