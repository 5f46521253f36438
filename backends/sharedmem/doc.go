// Package sharedmem owns memory outside the Go heap: shared memory files (the
// page map, arenas) and private anonymous mappings (I/O buffers). Files of a
// [Folder] on a tmpfs outlive the process: another one opens them.
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
//	M5  A file of a Folder has its name only when it is whole, and is opened only if
//	    its header says that it is what is asked for, of this format, this folder and
//	    this boot of the machine, and it is as long as it says.
//	M6  A Folder belongs to one process at a time (flock), however that ends.
//	M7  A tmpfs may be full, and that is a fault where a mapping is touched: what
//	    must not fault is claimed before (Region.Claim), which can be refused.
//	M8  Folder.Hold, beside the process that a folder belongs to, and
//	    FolderConfig.Keep touch what has memory, and nothing else: with memory that is
//	    locked as it is touched it stays. What is punched at that very moment may get
//	    a page back, of zeros.
//
// Not promised: that memory which was not claimed is there when it is first
// touched. The system may be out of it; the owner bounds what it maps. That the
// data behind a header makes sense: that is its owner's to check. That the system
// does not swap a tmpfs out: see the mount option noswap, and locked memory.
package sharedmem
