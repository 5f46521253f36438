// Package zcache is the backend that keeps pages compressed in this host's
// memory.
//
// frontswap calls it, by the contract of package backends. It is named after
// the kernel driver that did the same, and keeps its admission rule: a page
// that does not get below 7/8 of its size is not worth keeping.
//
// What becomes of a page:
//
//	page                               | kept as                   | memory
//	one 4-byte value throughout        | its handle                | none
//	lz4 makes at most 3,584 bytes of it | an object in the arena    | 16 bytes more, in steps of 32
//	anything else                      | refused, RefusedPoor      | none
//
// Handles, of 48 bits:
//
//	bit 47 | bits 0–46
//	0      | bits 0–39 arena.Ref, others 0
//	1      | bits 0–31 the value, 32–46 a check of value and key
//
// # Invariants
//
//	Z1  A load that succeeds returns the page that was stored: the object's
//	    header names its export and page, it decompresses to 4,096 bytes, and
//	    their CRC32C is the one that was taken before compression. Everything
//	    else is ErrCorrupt.
//	Z2  Whether a page is stored is decided by its bytes, the room in the arena
//	    and the working memory free at that instant, in this order: same-filled
//	    pages are always accepted; then busy, poor, full.
//	Z3  The arena never holds more than Config.Limit bytes.
//	Z4  All memory is claimed in New, except that the arena takes and returns
//	    chunks of 64 KiB. Store, Load and Invalidate do not allocate.
//	Z5  No call waits for another, except for the arena's critical sections.
//	    Most are a few instructions; the longest clears the headers of one
//	    chunk. Invalidate may make the system call that gives a chunk back,
//	    with no lock held.
//
// # Locks
//
// exportsMu is held by Init, InvalidateArea and Close only, and nothing is
// locked under it. A compressor is claimed with an atomic flag, and kept while
// the arena's locks are taken.
//
// # Memory
//
// The arena is one sharedmem region, "zcache arena". Beside it, on the Go heap,
// there are four compressors for each processor (at least 16) of 52 KiB, of
// which those that were never in use at once stay untouched, and the arena's
// bookkeeping of 24 bytes for each 64 KiB in use. Close leaves these to the
// garbage collector.
//
// # What is not promised
//
// That a page accepted once is accepted again. That memory comes back as soon as
// pages go: up to 1 MiB is kept for reuse, and a chunk goes back when its last
// page does. That contents are safe from whoever can read the process's memory:
// pages are compressed, not encrypted, and not wiped when they are forgotten.
package zcache
