// Package zcache is the backend that keeps pages compressed in this host's
// memory.
//
// frontswap calls it, by the contract of package backends. It is named after
// the kernel driver that did the same, and keeps its admission rules: a page
// that does not get below 7/8 of its size is not worth keeping, nor are pages
// above 5/8 while that is the average.
//
// # What becomes of a page
//
//	a store of                             | becomes                            | memory
//	one 4-byte value throughout            | its handle                         | none
//	a page, with room in the staging share | a raw object, compressed behind    | 4,352 bytes for a while
//	a page of which lz4 makes ≤ 3,584      | an lz4 object                      | 16 bytes more, in steps of 32
//	anything else                          | refused                            | none
//
// A stored page moves on in the background, if there is a [backends.Host]:
//
//	raw ──behind──▸ lz4 ──idle for Config.Cold──▸ zstd
//	 │               └─ no gain: marked, left alone
//	 └─ does not compress: marked, kept raw until it is evicted or dropped
//
//	every object may be moved (compaction), evicted to the next place (room),
//	and is read now and then (scrub)
//
// zstd instead of lz4 for new pages is a setting. Pages keep the codec that they
// were written with. A page that looks random is never staged, so that the codec
// can refuse it; what slips through has been acknowledged, is kept raw, counts
// against the staging share and as MovedKeptRaw. It is not pushed out at once: the
// host evicts the coldest pages, not one that is named.
//
// Handles, of 48 bits:
//
//	bit 47 | bits 0–46
//	0      | bits 0–39 arena.Ref, others 0
//	1      | bits 0–31 the value, 32–46 a check of value and key
//
// # Admission, in this order
//
//	same-filled          always accepted
//	the pool was full    RefusedFull, until AcceptPercent of what was in use is
//	and is not yet down  left; costs no compression
//	no working memory    RefusedBusy
//	above 7/8            RefusedPoor
//	above 5/8, as the    RefusedMean
//	mean of all pages is
//	no room              RefusedFull, and the pool counts as full
//
// A page that is staged skips the last four.
//
// # Invariants
//
//	Z1  A load that succeeds returns the page that was stored: the object's
//	    header names its export and page, it decompresses to 4,096 bytes, and
//	    their CRC32C is the one that was taken before compression. Everything
//	    else is ErrCorrupt. The checksum is taken once, in Store: whatever
//	    becomes of the page takes it along.
//	Z2  Whether a page is stored is decided by the table above.
//	Z3  The arena takes no chunk beyond Config.Limit. After the limit was lowered,
//	    what is held above it goes as pages are evicted and chunks compacted.
//	Z4  Memory is claimed in New, except that the arena takes and returns chunks
//	    of 64 KiB, and zstd's is claimed with its first use. Store, Load and
//	    Invalidate do not allocate.
//	Z5  No call waits for another, except for the arena's critical sections.
//	    Most are a few instructions; the longest lists one chunk or copies one
//	    page. Invalidate may make the system call that gives a chunk back,
//	    with no lock held.
//	Z6  The background compresses copies that it took without the page's lock.
//	    What comes of it counts only if, under that lock (in the function given
//	    to Rehandle), the object is still byte for byte what was copied.
//	Z7  The host is never asked with a lock held that a method of Cache takes, nor
//	    from within one. InvalidateArea of the last export waits for all goroutines
//	    but one that is inside Host.Evict: the host may be waiting for this very
//	    InvalidateArea. Close waits for that one.
//
// # The background
//
// background.go says which goroutines there are; the first Init with a host
// starts them, the last InvalidateArea ends them. What they take of a processor:
// compressing behind pauses up to 1 ms after 16 pages while stores come in and
// the share is less than half full, and does not pause otherwise; recompression
// has Config.ColdPercent; compaction moves at most 4 MiB a second while there is
// room; the scrubber takes Config.Scrub for one round.
//
// Room is made as soon as less than a twentieth of the chunks is free or can be
// made so by compaction. If the host fails to evict, it is asked again after a
// second, then ever less often up to a minute; meanwhile stores may be refused,
// which is never an error.
//
// # Another process
//
// With Config.Memory in a folder, the arena outlives the process, and Open makes a
// cache of it. What page maps name is adopted: objects by their header, same-filled
// pages by the check in the handle. Counts by codec and the queue of staged pages
// come back; counters of what happened begin anew. Whether the data is right is
// seen at each load, as ever (Z1).
//
// # Locks
//
// exportsMu is held by Init, InvalidateArea, Configure and Close, and only the
// pool's lock is taken under it. A compressor is claimed with an atomic flag, and
// kept while the arena's locks are taken. compacting keeps two generations of the
// background from compacting at once; nobody waits for it.
//
// # Memory
//
// The arena is two sharedmem regions, "zcache arena" and its chunk table, of 20
// bytes for each 64 KiB ever in use (of Capacity, in a folder). Beside it, on the Go heap, there are four
// compressors for each processor (at least 16) of 52 KiB, of which those that
// were never in use at once stay untouched; the queue of staged pages, 24 bytes
// for each of up to 16,384; and, once zstd is used, 1.3 MiB for each encoder that
// was in use at once, one for each processor. Close leaves these to the garbage
// collector.
//
// # What is not promised
//
// That a page accepted once is accepted again. That memory comes back as soon as
// pages go: up to 1 MiB is kept for reuse, and a chunk goes back when its last
// page does or compaction gets to it. Without a host nothing happens in the
// background: every page is compressed in line, and stays as it is. Whether
// evicted pages come straight back is not seen here, as the host loads them from
// elsewhere. That contents are safe from whoever can read the process's memory:
// pages are compressed, not encrypted, and not wiped when they are forgotten.
package zcache
