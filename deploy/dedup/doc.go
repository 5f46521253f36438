// Command dedup measures what zcache would save if it stored identical pages of one client once. Nothing
// of tmemd does: this is what the decision is made by. make bench-dedup runs it, as root, in about five minutes.
//
// It compresses each page as zcache does ([zcache.Judge]), takes the size of the arena's slot, and
// counts slots of equal content (SHA-256) once. 16 bytes for each distinct object are counted against it: an index
// from content to object, which the page map and the arena do without.
//
//	gain = (held − held once − index) / held
//
// # What is measured
//
//	processes of this host   a Django site with four workers that gunicorn forked, after loading the site or before, visited
//	                         by users with random names; four Pythons and four Nodes that were started one by one and hold
//	                         other files each
//	guests of one image      QEMU machines that boot the same image, with a Django site of three forked workers and two Pythons
//	                         of their own, and swap to an export each
//	clones                   the same, started from the saved state of one running guest, as hosts of short-lived
//	                         functions do; then each gets visitors of its own
//
// Each guest works, has all its programs' memory swapped out (memory.reclaim), is counted, and works on: three phases.
//
// # Invariants
//
//	D1  What is counted is what is a page to swap: a frame that processes share after a fork is one. On this host
//	    that is by the frame's number, in guests by having the guest's kernel swap.
//	D2  Only anonymous memory counts. A guest's files are in a ramfs, which is never swapped, and the guest says how much tmpfs it
//	    has: none.
//	D3  Same-filled pages, which cost nothing already, and pages that zcache would refuse count on neither side.
//	D4  Nothing is alike because of a seed: names of visitors and what interpreters hash with are drawn anew for
//	    each machine, and no two programs read the same files but for the same program of each guest.
//	D5  Processes that were started end with the command, also one that is killed.
//
// # Not promised
//
// The share of such programs on a real host. A guest's stale slots are told from live ones: an export holds
// both, so both count. Figures that are the same in two runs; differences were up to two hundredths.
package main
