// Package pagelz4 compresses memory pages of 4,096 bytes into standard lz4 blocks.
//
// zcache calls it for every page that it compresses in line or behind; any lz4
// decoder reads what it writes. The format is that of lz4_Block_format.md in
// github.com/lz4/lz4.
//
// # How it searches
//
// Like every fast lz4 encoder it goes through the page once and takes, by a hash
// table of positions, the first match that it comes across. On pages of real
// processes there are a match and its literals for each 14 bytes or so, most with
// no more than two literals between them, so what counts is the work and the
// mispredicted branches for each match, not for each byte. From this follows:
//
//   - Four positions are looked up together, before anything is decided.
//   - Hashed are 6 bytes, not 4: fewer matches, longer ones.
//   - Of the four the first with 8 equal bytes is preferred to the first with 4. The
//     comparison is there anyway, and memory is full of 8-byte words.
//   - Longer matches are extended backwards. Short ones are not: no gain.
//   - A table of 8 KiB, for pages have few positions. Clearing it takes 55 ns.
//   - Copies of literals run over, into bytes that are written next.
//
// What was gained and what did not pay is at the end.
//
// # Invariants
//
//	E1  What Encode returns is a block that every decoder accepts and that becomes
//	    the page again: offsets from 1 up to the position, the last match begins 12
//	    bytes or more before the end, the last 5 bytes are literals.
//	E2  Encode reads only the page and writes only to dst, whatever the page holds
//	    and even if it changes meanwhile. All loads are at positions up to lastMatch.
//	    Entries of the table are below the position that is searched for.
//	E3  The block depends on the page only: neither on pages before nor on limit.
//	E4  Encode does not allocate, and Encoder has no pointers.
//
// An Encoder serves one goroutine at a time. There are no locks and no globals.
//
// # Loads without bounds checks
//
// On amd64 and arm64 loads and stores are unsafe (memory_unsafe.go): with checks
// Encode takes a quarter longer. Elsewhere, and with the build tag purego, they
// are checked (memory_checked.go), which proves E2 where the tests go. The tests
// also run with memory that cannot be accessed right beside page and buffer.
//
// # What is not promised
//
// The same block from the next version. A block at all if the page does not get
// down to the limit. A block that decodes if the page changes during the call.
//
// # What was tried
//
// On 4,096 pages of package corpus and an AMD EPYC (Zen 5); speed as a ratio to the
// library's CompressorCCompat (pierrec/lz4, unsafe Go, the same blocks as the C
// library), which took 5.7 µs, in turn on the same pages, bytes against its own.
// Each row keeps what is above it. BenchmarkEncode has the first and the last row.
//
//	step                                                   | speed  | bytes
//	the library's Compressor                               | 1.02 × | +2.6 %
//	four lookups at once, hash of 4 bytes, first match     | 1.27 × | +0.9 %
//	hash of 5 bytes                                        | 1.35 × | +0.5 %
//	hash of 6 bytes                                        | 1.41 × | +1.6 %
//	8 equal bytes preferred to 4                           | 1.53 × | −0.5 %
//	a table of 8 KiB instead of 16                         | 1.56 × | −0.3 %
//	a path for sequences with lengths in the token         | 1.60 × | −0.3 %
//	longer matches extended backwards                      | 1.53 × | −1.8 %
//	the same without goto                                  | 1.50 × | −1.8 %
//
// Other samples gave 1.46–1.50 × and −2.4 to −3.2 %. A page of random bytes is given
// up after 0.6 µs, by the library after 1.0. There are 209 sequences a page instead
// of 284, which makes the library's decoder 1.19 × as fast on these blocks as on
// CompressorCCompat's (BenchmarkDecode), and level with what it takes for
// Compressor's.
//
// Not kept, measured from the step it would have changed:
//
//   - All positions looked up first, 32 at a time, and matches chosen from a bitmap:
//     0.98 ×. Most positions lie within matches, and none need be looked up there.
//   - Choosing among the four, or the longest of them, without branches: 8–35 %
//     slower. The processor guesses well enough that waiting for data costs more.
//     For the same reason a branch-free comparison of 16 bytes was no gain.
//   - A hash of 7 bytes: 5 % faster, 3.8 % more bytes.
//   - The last offset tried again: 0.4 % fewer bytes when nothing else is found, for
//     3 % of the time; anywhere earlier it makes more bytes.
//   - Of two matches of 8 bytes the longer: 1.1 % fewer bytes for 11 % of the time.
//   - Three positions at a time; the first before the other three; no position, or
//     another one, entered at the end of a match: slower, or more bytes.
//   - No unsafe code: 1.21 ×; 1.30 × from a copy of the page with room behind it.
//   - No clearing, by entries relative to a base that grows: blocks would depend on
//     earlier pages, or each lookup would need a comparison, for 1.5 % at most.
//   - A decoder for blocks of one page, unsafe Go, up to 32 bytes of a match copied
//     without a branch: 1.03 × the library's, which is assembly. Not worth its risk.
package pagelz4
