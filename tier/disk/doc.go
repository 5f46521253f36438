// Package disk makes a device of a disk: a file or block device with content of its
// own, or a thin [Overlay] over a [Base] that many share, whose pages are cached by
// cleancache. Storage is the truth, and what a client
// wrote is there before it is told so; FLUSH and FUA mean on the medium.
//
// The NBD server calls a [Device]; the daemon opens one for each disk. It is beside
// tier's device for swap, whose pages may be in backends only.
//
// # What a request does
//
//	read         locks its pages for reading; gets what is cached; reads the rest from
//	             storage, in few pieces; offers what it read to the cache
//	write        locks its pages exclusively; invalidates them; writes storage
//	part of page the page is read as above, merged, and written, under one exclusive lock
//	zero, trim   as a write; storage punches, or writes zeros
//	flush        storage syncs
//	prefetch     as a read of what is not cached
//
// On an overlay, a page that was never written is read from the base, by its cache. A
// write of a part of it copies it.
//
// # Invariants
//
//	D1  A page is a register: a read that starts after a write was answered gives that
//	    write or a later one. Requests for several pages are atomic page by page.
//	D2  Storage is changed only under the exclusive lock of each page concerned, which
//	    is held from before the cache is invalidated until storage has answered. The
//	    cache is filled under a lock that is held since before storage was read. So the
//	    order "invalidate, write, acknowledge" has no gap for an old page: a fill comes
//	    wholly before or wholly after, and during the write nobody gets the page.
//	D3  Whatever the cache does, no answer depends on it. With a cache that forgets
//	    everything at once the device answers the same bytes.
//	D4  A write that fails leaves on storage what it left there, and nothing cached.
//	D5  A write is acknowledged when storage has answered, a flush when storage has
//	    synced after that: what an acknowledged flush covers outlives a power cut. FUA is
//	    a flush behind the write, of all that was written before, so order is kept.
//	D6  A read-only device never changes storage.
//	D7  A page of an overlay is the base's until it is written for the first time, and its
//	    own from then on; that changes under its exclusive lock only. overlay.go has the
//	    order in which that gets to the medium.
//	D8  A base is never written. Its pages are in one cache, whoever reads them; own pages
//	    of an overlay are in the overlay's.
//
// # Locks
//
// Those of the pool, by the order of package pagelock, for one block at a time; an
// overlay's before its base's. Below them Overlay.syncing, and whatever backends and
// storage lock.
//
// # Not promised
//
// Memory: disks are served from the Go heap's side of things, not under the rules that
// swap of the own host needs. That pages which were written are cached: the client has
// them. That trimmed pages read as zeros: where storage cannot punch, trim does nothing.
// That a write to an overlay which failed is not there after the process was killed.
// Anything, if somebody else writes the file or device below, or changes its length.
package disk
