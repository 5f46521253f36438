// Package frontswap decides which backend holds which page: the registry of
// backends, the page map of each open swap area, and the moves between them.
// It is what mm/frontswap.c was in the kernel, with the unload that the kernel
// never had.
//
// The tier calls it, an [Area] for each export: it locks a page, asks
// [Area.Store], and writes storage itself if no backend takes the page. The
// daemon calls [Frontswap.Register] and [Frontswap.Unregister] while requests
// go on.
//
// A [Follower] keeps pages of disks in the same backends; it is told which there are,
// and to leave one before that is closed.
//
// Areas belong to clients, whose pages are charged to them, see below.
//
// # The kernel's words
//
//	init            Backend.Init, for each area, before its first store
//	store           Area.Store: offered to the backends in order, or refused by all
//	load            Area.Load: copied, and kept
//	invalidate_page Area.InvalidatePage: the client dropped it; a hole now
//	invalidate_area Area.Close: the export is gone
//
// The counters loads, succ_stores, failed_stores and invalidates mean what they
// meant there: loads counts successes; a store counts as failed only if
// backends are loaded and all refuse; a page that a refused store or a drain
// pushes out is not an invalidate.
//
// # Invariants
//
// INVARIANTS.md lists the rules and historical bugs behind these, with the tests
// that would notice.
//
//	F1  One word says where the newest copy of a page is. That changes only under the
//	    page's exclusive lock, by one atomic store: data first, word second, then
//	    the old handle is freed. Whoever holds any lock of the page may use the
//	    handle in it.
//	F2  A backend is initialised for an area before a store of that area reaches it,
//	    and told once when the area closes or the backend goes. A backend that a
//	    store can see is in its slot.
//	F3  A store reads the set of active backends after it has the page's lock. So
//	    once the set is replaced and every lock has been taken once, no store is left
//	    that knows the old set. Unloading does both, in that order, before it walks;
//	    and takes every lock once more before it closes the backend, as the walk looks
//	    at words without a lock, and a word changes before its old handle is freed.
//	F4  A drained page is committed under a lock held without a gap since it was
//	    copied: a write, trim or zero comes wholly before the copy or wholly after
//	    the commit.
//	F5  pages[o] is the number of words that name o, as soon as no commit is under
//	    way.
//	F6  A load that a backend owes and cannot deliver is an error for that page,
//	    never an older copy.
//	F7  A page that a backend had evicted leaves a shadow in its word (shadow.go): a
//	    hint that no page depends on, counted and taken away by whoever reads the
//	    page from storage, under any lock of it.
//	F8  The page map never gets shorter and never moves: an area that grows gets a
//	    longer view of the same memory, one that shrinks leaves words of zero
//	    behind. So nobody has to stop for a resize. Page locks are striped by page
//	    number and do not depend on the length.
//	F9  Before the first word can name a backend it is recorded (Config.Record), and it
//	    is recorded until no word names it any more. So a process that takes over knows
//	    every backend that a word can name; a word that names another one, or is none,
//	    is damage, and the map is refused as a whole.
//	F10 A takeover changes nothing before Resume. A page that its backend does not have
//	    is read from storage if that is known to have the same (synced), else it is
//	    lost: an error until it is written or dropped, in later processes too.
//	F11 A word is read or written only where its part of the map has memory: a request
//	    claims that before it changes anything (Reserve), and what has none reads as zero.
//	    An area that is not overcommitted claims all of it when it is opened.
//
// # Clients
//
// A [Client] (a virtual machine, a tenant) has a weight, a cap and a reservation; each
// area has one, for life. What it is charged is what backends say that its pages take of
// this host's memory (Backend.Used), exactly and at once.
//
//	due       reservation + weight / all weights · what is not reserved, of five sixths of
//	          what backends may take: the share that a client has if all want theirs
//	fair      reservation + k · weight, for the one k with which all together take what
//	          there is, and nobody more than it wants: known while a backend is contended
//	inside    taking no more than is due
//	contended a backend asked for evictions in the last five seconds
//
//	C1  When a backend asks for evictions, pages go from the client with the largest
//	    (used − reservation) / weight among those above their reservation, its coldest
//	    first; who that is is looked at anew for each batch. (Xen had the comparison the
//	    wrong way round.) So in the long run greedy clients have reservation + k · weight.
//	C2  A client inside its share is not evicted from while another one is above. None is
//	    evicted from below its reservation, as far as backends can keep it: if reservations
//	    are more than these may take now, all are kept in the same proportion.
//	C3  Of the last thirty-second part of a backend's room, clients above what is due get
//	    nothing: so one inside its share finds room, while pages of the others are on
//	    their way to storage. If they come straight back, or the backend waits to be
//	    down to its mark, it is told that memory is owed (Host.Owed).
//	C4  While a backend is contended, a client above what is fair for it, and a
//	    thirty-second part, is refused. Without that the fastest would have, between two
//	    evictions, what all gave up. What is fair is judged by the most that each used
//	    lately and an eighth: what somebody does not want is for the others.
//	C5  A client at its cap is refused before any backend is asked. It gets above by a
//	    page for each store at the same time. What is above a cap that was lowered
//	    moves to storage, coldest first, in the background.
//	C6  No page of a frozen client reaches a backend by a store; an older copy goes with
//	    the write that could not replace it.
//	C7  With one client that has areas, no cap and no freeze, a store reads one word more
//	    than without clients, and evictions are as they were.
//
// Moves between backends, and unloads, ask nobody: the pages are there already.
//
// # States
//
// lifecycle.go has the table of a backend's states. The owners of a page:
//
//	none      nobody wrote it since the area was opened: storage has it
//	storage   storage has it; with a shadow, if it was evicted
//	hole      reads as zeros
//	lost      nobody has it: a takeover did not find it
//	backend   one of up to 15 backends has it, under the handle in the word
//
// # Lock order
//
//	Frontswap.balancing → Frontswap.mu
//	Area.life → page locks (ascending; see pagelock) → move.loading → Frontswap.mu
//	                                                  → a backend's own → move.mu
//
// A drain has a few blocks in hand, each by a worker that holds the locks of that
// block alone, as everybody does. Storage sees blocks begun in ascending order.
// A worker that has read its block needs no lock of another one to get through.
//
// Backend.Init runs under Frontswap.mu and must not wait for page locks.
// InvalidateArea and Close run without any lock of frontswap's, as a backend may
// have to wait there for its own goroutines, which may be asking their host. No
// page is copied and no storage is touched under mu.
//
// # Not promised
//
// A grown area has the lock stripes of the length that it was opened with: one
// that was very small has more neighbours in each.
//
// To clients: room faster than storage takes the pages of others; what they are due is
// not kept empty for them. A store of a client that has a cap, or others beside it in a
// contended backend, adds up what its areas take: some nanoseconds for each area and backend.
//
// Pages that were on storage when a backend is loaded stay there; only new
// stores find it. Counters of one snapshot are not of one instant, and begin anew
// with each process.
//
// Times of loads and stores are of one page in 64 (package latency).
//
// # Why synced can be believed after SIGKILL
//
// The bit is set after the write to storage has returned, and cleared before storage
// is written with anything else. What write(2) or pwrite(2) returned for is the
// kernel's: it survives the process, though not the kernel.
package frontswap
