// Package estimate is tmemctl estimate: it samples the memory of a process, a control
// group or the whole host, and says what zcache would make of it, how large a pool it
// takes, and which settings to use.
//
// cmd/internal/ctl calls [Command]; tests call [Run]. Which pages there are package
// pagemap says, what becomes of one zcache's own [zcache.Judge] and the arena's size
// classes.
//
// # How it works
//
//	scan   | every page of every process that pagemap calls private and present is counted,
//	       | and so many of them are chosen at random, each with the same chance
//	judge  | those are read, one at a time, and compressed by each codec
//	report | sums are for the sample, sizes for all pages that were counted
//
// A page that several processes share after a fork is counted for each of them, and
// chosen as often; of those chosen, one in as many counts as there are processes. What
// turns out not to be swappable when it is looked at (the zero page, locked memory, what
// is gone by then) is taken off all sizes by the same share.
//
// # Invariants
//
//	E1  Nothing is written but the report, and no content of a page is in it.
//	E2  Memory is bounded: 16 bytes for each page that is chosen, one page, and the
//	    codecs' working memory.
//	E3  The work is done by one thread, with a nice value of 10.
//	E4  What the report says of a sample is what zcache would make of these pages, page
//	    by page. Margins are those of the sample: 95 times in 100 all pages together are
//	    within them.
//	E5  The settings are in the configuration's own words, and accepted by it.
//
// # What is not seen
//
// Memory that is swapped out already. Shared memory and files on a tmpfs. Processes of
// other users, unless the caller is root. What the memory will be like tomorrow: it is a
// snapshot, of what is in use as well as of what would go out first.
package estimate
