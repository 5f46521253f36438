// Package ramster is the backend that keeps pages in other hosts' memory.
//
// frontswap calls it, and cleancache for pages of disks, by the contract of package backends. It is named after the
// kernel driver that did the same and never left staging. The other side, which
// lends memory, is package donor below; package peer keeps a session with one donor;
// PROTOCOL.md and package wire are what they say to each other.
//
// # What becomes of a page
//
//	store ──▸ staged ──send──▸ in flight ──every donor has it──▸ remote, and a stub here
//	            ▲                  │
//	            └── a donor refused or went away: again, with another generation
//
//	state      is in memory here                  a load
//	same-filled  nothing but its handle           is made of the handle
//	staged     compressed, in the staging area    decompresses it
//	in flight  the same                           the same
//	home       the same, not to be sent           the same
//	remote     a stub: 32 bytes, and 8 of index   asks a donor, else another one
//	lost       the stub                           fails: no donor has it any more
//
// and of a page of an ephemeral export, which is never staged, repaired, brought home or lost:
//
//	state      is in memory here                  a load
//	flying     a stub, and the sealed page        opens that
//	at a donor a stub                             asks that donor, once
//	gone       nothing                            is a miss (ErrGone)
//
// A store is acknowledged when the page is staged. When the staging area is full
// pages are refused, and go on to the next backend or storage: donors that are slow,
// full or gone make this backend smaller, never a client slower. A page leaves the
// area only when Config.Copies donors have said that they have it.
//
// A page that does not compress to 7/8 is kept and sent as it came.
//
// # Pages of ephemeral exports
//
// ephemeral.go: they go to one donor, into a pool whose pages it may drop; a second copy would
// buy hits that a disk gives too. Whatever the donor does instead of giving the page back is a
// miss after Config.Deadline at most, and nobody waits for Config.Patience. Such a page is
// refused, with nobody to take it, when no donor has room (RefusedFull) or the flights
// are taken (RefusedBusy): it does not queue. Which pages stay is the donors' to say, by a clock
// with a second chance; a long scan gets in there, which zcache would not let it.
//
// # Invariants
//
//	R1  A load that succeeds returns the page that was stored: what a donor answers
//	    was sealed by us (AES-256-GCM) for this export, page and generation, and becomes a
//	    page with the checksum that was taken in Store. Everything else is rejected, counted,
//	    and the next donor asked.
//	R2  A generation is given out once for the life of a key, whatever ends the
//	    process: it is counted in the ledger, in memory that outlives it. So no nonce is
//	    used twice.
//	R3  Generations of one page are in the order of its versions: they are taken under the
//	    page's lock, when the page has that version. A donor keeps the newest. So what is sent
//	    again, or arrives late, does no harm.
//	R4  A stub names only donors that have said that they have its generation, in an
//	    epoch of theirs that has not ended since: places in the ledger are for one epoch
//	    of one donor, and one that is lost is never believed again.
//	R5  A staged page is on its way once at a time. When it is invalidated or stored anew
//	    meanwhile, the flight is dropped under the page's lock, and no stub comes of it.
//	R6  What donors have and what stubs name becomes the same: pages that nobody knows are
//	    flushed, pages that are not there are taken out of stubs and copied again. Until
//	    then both are harmless.
//	R7  Memory: the arena has Config.Staging and 32 bytes for each of Config.Pages, the
//	    index twice 8 bytes for each at most, a session its backlog. With ephemeral exports there are
//	    an index of their own, no larger, and 2 MiB of flights. None of it depends on what donors
//	    do.
//	R8  Before Adopted nothing in memory is changed, and no donor is connected to.
//	R9  The stub of an ephemeral page never changes. It may be dropped at any moment, and another
//	    object take its place: it is read from a copy that was taken with the arena's lock, and
//	    freed only under its own name. Its generation says whether what is found, here or at a
//	    donor, is still that page.
//	R10 Ephemeral pages give way: before a page of another export is refused because there is no
//	    memory for it here, their stubs are dropped. They have no part in the
//	    staging area, its queue and its flights. Donors do the same with theirs (D4 in package
//	    donor), and count what they would drop as free.
//	R11 Nobody is asked about ephemeral pages: their exports' host is never called.
//	R12 A donor keeps no ephemeral page that nobody knows of for longer than Config.Compare, while it is in reach; and
//	    none of an earlier process, whose pools the ledger names.
//	R13 Staged pages can leave: chunks for as many stubs as the queue has pages are given to nothing
//	    else, by who looked before and by who looks again when it has the memory.
//	R14 No list has us flush what we count on, whatever generations it claims: a page is left alone while a
//	    version of it, that one or an earlier one, is named there by a stub or on its way.
//
// # Where a page goes
//
// placement.go: donors are ranked for an extent of 1,024 pages by rendezvous hashing,
// weighted by their free room; the first ones that take pages get it. What was
// chosen is in the stub, so nothing depends on the ranking later.
//
// # The keeper
//
// Without an export that has a host it is alone, and looks after ephemeral pages, donors and
// places only. Each second, or when something changes: compares with donors that came back, may
// differ, or were not compared with for Config.Compare (LIST); gives pages whose copies are on donors that are lost, out of reach for
// Config.Lost, leaving, or that want memory back, other copies, as fast as Config.Rate
// allows; has ephemeral pages gone that a donor has dropped; has the host evict pages that nobody else takes; lets donors go.
//
//	state of a place | what it was given is | its copies
//	member           | believed             | stay, unless it is out of reach for too long or wants memory back
//	leaving          | believed             | move to others
//	lost             | not believed         | are made again from others
//	free             | -                    | there are none: no stub names it
//
// # Read-ahead
//
// ahead.go: loads in sequence (a swapoff, a drain, the kernel's clusters) are recognised,
// and the pages that come next fetched before they are asked for: a run of up to 64 in
// one round trip. What was read ahead is still sealed, and good for one generation only.
//
// # Coming home
//
// home.go: with Config.Home pages come back while this host has memory to spare, slowly, and
// go out again when it has not, by the rules and numbers of the kernel's self-shrinking (package
// pressure). A page at home has no copy elsewhere: it is lost with this host, whose swap it is.
//
// # Waiting
//
// A load waits for one donor for Config.Deadline, then asks the next. If none is in
// reach it waits until one is, but not when all have been away for Config.Patience: an
// I/O error on swap kills somebody, and networks come back.
//
// # Locks
//
// exportsMu, then members.mu, then a member's doomedMu, then a session's own. Under a page's lock
// (in Invalidate, and what is given to Rehandle): flights.mu, ledger.mu, and the locks of arena
// and index; none of those is held while the host is called. export.life is held by the keeper for a
// walk, and waited for by InvalidateArea. A read-ahead slot's lock is a load's only.
//
// A lock of cached.locks, then those of index and arena, and never while the arena is asked to
// drop something: what it drops is taken out of the index with its lock held. A flight's own lock is
// the last one.
//
// # Another process
//
// Arena and ledger outlive the process with Config.Memory in a folder. Open makes a
// cache of them: what page maps name is adopted, staged pages are sent again, the index is
// made anew, and donors are compared with: those of the list, and from the ledger those that are
// leaving. The key is in the ledger, locked in memory, and goes when
// the backend does. Ephemeral pages are not adopted: the arena drops their stubs, and donors are
// told to destroy the pools, before they make new ones.
//
// # Taking leave
//
// Close waits for donors in reach to hear what they are to forget, for up to 2 s; if there was
// never an export but ephemeral ones, for an instant: what a donor then keeps it drops when it
// needs the room.
//
// # What is not promised
//
// That memory here is encrypted: staged pages are not, nor is the key. That a donor learns nothing: it sees which
// pages of which exports come and go, when, and how well they compress. That a donor which was never in
// reach again forgets what it has: it does when it meets another epoch of this owner.
package ramster
