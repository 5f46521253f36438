// Package bench is tmemctl bench: it makes load on an NBD server, this project's or
// any other, and says how fast it answers and whether it answers right.
//
// cmd/internal/ctl calls [Command]; tests call [Run]. The requests are sent and timed by
// nbd/client; here is which requests, with what content, and what is told of them.
//
// # Phases
//
//	phase    | when                              | counts as a result
//	fill     | Options.Fill                      | no
//	measure  | always                            | yes
//	check    | Options.Verify, pattern writes    | no, but for pages that are wrong
//
// # Invariants
//
//	N1  Nothing is written, and no discard sent, unless Options.Destroy says so.
//	N2  No page has two requests outstanding, so each read has one right answer.
//	    Connections have parts of the range of their own.
//	N3  With Options.Verify every page that is written carries a stamp: which page it
//	    is, a version that is never used twice for it, and a checksum bound to both and
//	    the seed. A page that was written by this run and not discarded has to carry the
//	    version that was written last; any other page that carries a stamp has to carry
//	    its own number, and an intact rest. Everything else is wrong, and ends in an
//	    error.
//	N4  Next and Done of a workload do not allocate.
//	N5  An interrupt ends the load, not the report: what is outstanding is waited for,
//	    for a while.
//
// # What a stamp is
//
//	bytes | what
//	0–7   | bits 0–39 page, 40–63 version
//	8–11  | CRC32C of bytes 16 to the end
//	12–15 | CRC32C of bytes 0–11 and the seed
//
// Sixteen bytes of a page cannot be compressed then, and same-filled pages are none:
// without Verify pages are written as they are.
//
// # Not promised
//
// TLS, structured replies, and requests that are no whole pages: nbd/client has none.
package bench
