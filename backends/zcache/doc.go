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
//	anything else, by Config               | refused                            | none
//	  .KeepIncompressible                  | or a raw object for good           | 4,352 bytes
//
// A stored page moves on in the background, if there is a [backends.Host]:
//
//	raw ──behind──▸ lz4 ──idle for Config.Cold──▸ zstd
//	 │               └─ no gain: marked, left alone
//	 ├──behind, if one of its domain is identical──▸ reference to a content
//	 └─ does not compress: marked, kept raw until it is evicted or dropped
//
//	every object may be moved (compaction), evicted to the next place (room),
//	and is read now and then (scrub)
//
// lz4 blocks are written by an encoder made for pages (pagelz4, which has what was
// tried) and read by the library's decoder. Against the library's encoder, on the
// pages of this package's benchmarks: a store takes 5.0 µs instead of 6.8, a load
// 1.4 instead of 1.6, and a page holds 1,580 bytes instead of 1,695.
//
// zstd instead of lz4 for new pages is a setting. Pages keep the codec that they
// were written with. A page that looks random is never staged, so that the codec
// can refuse it; what slips through has been acknowledged, is kept raw, counts
// against the staging share and as MovedKeptRaw. It is not pushed out at once: the
// host evicts the coldest pages, not one that is named.
//
// With KeepIncompressible what does not compress is kept like that in any case, as
// in zswap since 6.18: pages then go to storage in the order of their age, and a
// hot one is not read from a disk each time for what is in it. It takes a host,
// who can evict it; it does not count against the staging share.
//
// Handles, of 48 bits:
//
//	bit 47 | bits 0–46
//	0      | bits 0–39 arena.Ref, others 0
//	1      | bits 0–31 the value, 32–46 a check of value and key
//
// Pages of ephemeral exports are compressed in line, or kept as they came, and are
// dropped when room is needed: ephemeral.go says by whom, and ghost.go which of them
// get in while there is none to spare.
//
// # Identical pages
//
// Exports with the same backends.Export.Dedup, a domain, keep identical pages once: those
// of one client, if it wants that. With no domain there is no table and no index, and nothing
// below is ever done.
//
//	object    | export, page    | codec        | data                      | made by
//	by itself | the page's      | lz4, zstd    | the page                  | a store, behind
//	reference | the page's      | shared       | number of a content,      | behind, for a page that has its like
//	          |                 |              | what is charged, a check  |
//	content   | domain, number  | 8 + lz4,     | the page                  | behind, from the first of two that are
//	          |                 | 8 + zstd     |                           | alike, whose object becomes a reference
//
// A content is found through a table, by its number:
//
//	count | at        | state
//	0     | next free | the number is free
//	≥ 1   | nowhere   | being made; or, after a takeover, its object is gone: ErrCorrupt
//	≥ 1   | a ref     | live. Each reference counts once, so does who makes one or moves the content
//
// Only pages that are compressed behind, or get cold, are looked up: an index of hints, by checksum and
// domain, says where something like it was lately, and the whole page is compared. So a
// store takes as long for a page that is there already as for any other. Pages that were
// compressed in line, or came packed, are looked up when they get cold; those that are raw for good, or
// zstd from the start, are not. A content stays one when a single reference is left.
//
// What is shared only within one client: how long a load takes may tell whether
// somebody else has loaded the same page a moment ago, and what memory is held tells whether a page
// has its like. Between exports of one client that is so, and the reason why it is off by
// default. Between clients nothing is shared, so nothing can be found out.
//
// A page is charged for the slot that it would have by itself, however many share it:
// so it makes no difference to anybody's cap or share when others come or go.
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
// An ephemeral page is RefusedOnce after the first two if less than a tenth of the
// chunks is free and it was not offered or dropped lately; RefusedPoor and
// RefusedMean are not for such pages.
// A page that is staged skips the last four. KeepIncompressible takes RefusedPoor
// and RefusedMean away.
//
// # Invariants
//
//	Z1  A load that succeeds returns the page that was stored: the object's
//	    header names its export and page, it decompresses to 4,096 bytes, and
//	    their CRC32C is the one that was taken before compression. Everything
//	    else is ErrCorrupt. The checksum is taken once, in Store: whatever
//	    becomes of the page takes it along.
//	Z2  Whether a page is stored is decided by the table above.
//	Z3  The arena takes no chunk beyond Cache.Limit. After the limit was lowered,
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
//	    InvalidateArea. Close waits for that one. Swap and disks have hosts of
//	    their own; after InvalidateArea of the last export of one sort the goroutines
//	    begin anew with the other.
//	Z8  An ephemeral page is read from a copy that was taken with the arena's lock,
//	    and freed only under its own name: another page may have its slot by now.
//	    Before a page of another export is refused for want of room, and before one
//	    is evicted, ephemeral ones are dropped, as far as they take memory.
//	Z9  A content is live before its first reference, and freed after its last; its number
//	    is free only then. Counts end with the process: the next one counts the references that it
//	    adopts, and frees contents without any. Adopted contents get no new references, as
//	    nobody knows their domain.
//	Z10 A content is read while it is pinned. It moves, by its entry in the table alone, when
//	    nobody has it pinned, and whoever moves it holds it. It is overwritten when it is freed:
//	    the Scrub for the export that had it may be over by then.
//	Z11 A damaged reference is an error of its page, and keeps its content until the process
//	    ends; a damaged content is one of the pages that share it; neither of any other.
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
// thrash.go: when more than a third of the pages that went to storage came straight
// back ([backends.Host] counts them), evicting pauses for a second, then for twice
// as long each time, up to 32. New pages are refused then and go to storage, which
// costs no more than evicting others for them, and what is in memory gets used: a
// client that goes around and around over a little more than fits has most of it
// served from memory, where an LRU serves nothing.
//
// size.go: with Config.SelfSizing the limit follows the host's memory pressure, as
// package pressure says, between Config.Floor and Config.Limit.
//
// # Settings and their names
//
// tmemctl backend set and the configuration file have each field of Config under
// the name that zswap or zcache had for it in the kernel, where there was one.
// So have the counters:
//
//	here                          zswap                      the kernel's zcache
//	Limit (max_pool)              max_pool_percent           zv_page_count_policy_percent
//	AcceptPercent                 accept_threshold_percent   -
//	(7/8, 5/8: not settings)      -                          zbud_max_zsize, _mean_zsize
//	SelfSizing                    shrinker_enabled           frontswap_selfshrinking (Xen)
//	RefusedPoor compress_poor     reject_compress_poor       compress_poor
//	RefusedMean                   -                          mean_compress_poor
//	RefusedFull full              reject_reclaim_fail and    failed_alloc, failed_getfreepages
//	                              reject_alloc_fail
//	RefusedBusy busy              reject_compress_fail       -
//	PoolFilled pool_limit_hit     pool_limit_hit             -
//	MovedEvicted evicted          written_back_pages         writtenback_pages
//	MovedRefaulted refaulted      nr_disk_swapins            -
//	Stats.Incompressible          stored_incompressible_pages -
//	Stats.SameFilledPages         same_filled_pages          zero_filled_pages
//	Stats.Pages, HeldBytes        stored_pages,              pers_zpages, pers_pageframes
//	                              pool_total_size
//	CorruptLoads                  decompress_fail            -
//
// evicted is not called written_back, as a page may go to the next backend, and
// full is one reason, as there is no allocator to fail beside the limit.
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
// kept while the arena's locks are taken. The lock of a content is held for a few instructions,
// and nothing is taken or called under it; so is the one of free numbers, which is taken alone or before a
// content's. The one who moves a content has it for himself by a lock that nobody waits for. compacting keeps two generations of the
// background from compacting at once; nobody waits for it.
//
// # What else was tried
//
//	on 32 MiB of sampled pages,         ns in   ns out   bytes of arena a page
//	a busy machine, two runs
//	lz4 (pierrec's CCompat)      6,300–6,900   1,330    1,489–1,509
//	minlz v1.2.3, level 1        5,500–5,800   2,900    1,353–1,369
//	minlz v1.2.3, level 2        6,800–7,200   2,740    1,274–1,290
//	minlz v1.2.3, level 3            500,000   2,450    1,188–1,201
//	zstd                       27,000–30,000   8,100    1,022–1,037
//
// minlz between lz4 and zstd was left out. It takes 9 % less memory than lz4 in 13 %
// less time, or 15 % less in the same time, but a load takes more than twice as
// long, and a process waits for each of those, while stores are acknowledged before
// they are compressed. What is not loaded for some time gets to 31 % less by zstd
// anyhow; one more format to decode would buy 15 % for some minutes. An encoder made
// for pages, half as fast again as CCompat, leaves it less still.
//
// For identical pages: counts in the arena, beside the content, would have to be right at
// any instant at which the process may die. Looking up in Store would have made it slower for all,
// and told a client by its time whether a page is there. A hash of the page kept for each
// object takes 16 bytes; the checksum that each has already, in an index that forgets, takes 8 for each
// KiB of the limit. It can be made to collide, by who writes the pages: then his own pages
// are not found, after one comparison more. Contents moved by Rehandle of each reference would
// need to know them all.
//
// Giving a page that is read from storage back to the pool at once: the client has
// it in its own memory then, and swap is written again if it changes.
//
// # Memory
//
// The arena is two sharedmem regions, "zcache arena" and its chunk table, of 20
// bytes for each 64 KiB ever in use (of Capacity, in a folder). With a domain there are two
// more, touched as they are used: 24 bytes for each content, of which there are at most one for each KiB of
// Capacity, and 8 to 16 bytes of index for each KiB that Limit was when they were made. Beside it, on the Go heap, there are four
// compressors for each processor (at least 16) of 12 KiB, of which those that
// were never in use at once stay untouched; the queue of staged pages, 24 bytes
// for each of up to 16,384; and, once zstd is used, 1.3 MiB for each encoder that
// was in use at once, one for each processor. Close leaves these to the garbage
// collector.
//
// # What is not promised
//
// That a page accepted once is accepted again. That a tmemd which knows no references
// reads those that a newer one has left: before a downgrade, dedup is turned off and the
// exports' pages drained. That memory comes back as soon as
// pages go: up to 1 MiB is kept for reuse, and a chunk goes back when its last
// page does or compaction gets to it. Without a host nothing happens in the
// background: every page is compressed in line, and stays as it is. That a pool
// follows a limit faster than pages can be written to storage. That contents are safe from whoever can read the process's memory:
// pages are compressed, not encrypted, and not wiped when they are forgotten, but for those of
// an export that goes: InvalidateArea overwrites what it has left anywhere in the arena, or
// gives the memory back to the system.
package zcache
