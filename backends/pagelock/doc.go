// Package pagelock has the page locks of an export: what a request holds while it
// looks at pages, or changes where they are.
//
// frontswap and cleancache have one [Locks] for each export, and their callers
// lock pages through them. They share the package so that the order below is
// written and tested once.
//
// # Modes
//
// sync.RWMutex was the first choice and does not fit: it makes new readers wait
// behind a waiting writer, so a write that waits for a drain's batch would stall
// loads (promise: a drain never stalls a load); and it has no update mode. Here:
//
//	mode       shares with         held by
//	read       read, update        loads, gets and fills
//	update     read                moves and copies: while storage is written
//	exclusive  nothing             stores, writes to a disk, invalidates, and the
//	                               commit of a drain
//
// # Invariants
//
//	L1  An update lock turns into an exclusive one without letting a writer in
//	    between, so what was copied under it is still the page when it is committed.
//	L2  A goroutine holds locks of one aligned block of BlockPages only, takes them in
//	    ascending page order, and upgrades in descending order, releasing each page
//	    before it upgrades the next. Then every wait is for a page above all pages
//	    that the waiter's own waiters can want, and no cycle can close. (Upgrading in
//	    ascending order does deadlock: drain waits for a reader of page 1, who waits
//	    for a writer of page 2, who waits for the drain's page 3.)
//	L3  Pages of one block never share a stripe, so L2 never locks one twice.
//
// L2 is the callers' to keep.
//
// # Not promised
//
// Fairness: readers are preferred. A stream of readers without a gap would starve
// a writer of that page; only the clients of the export can produce one. Pages of
// different blocks may share a stripe, and then wait for each other.
package pagelock
