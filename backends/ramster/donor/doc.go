// Package donor lends this host's memory to others: the tmem server of ramster, as
// PROTOCOL.md in the folder above says.
//
// cmd makes one, says who clients are and what they may use, and hands it listeners:
// of a Unix socket, of TCP with mutual TLS, of vsock. Nothing here knows which. An owner
// (package peer is its side) stores pages that are compressed and sealed; a donor cannot
// read them, and does not try.
//
// # Where things are
//
//	a page        an object of the arena: export is the pool's number, then 8 bytes of
//	              generation and the owner's bytes; the sum is the CRC32C of both
//	its place     a word in the pool's table (pageindex), made anew by a later process
//	a pool        an entry of the ledger, a memory file; an object names it by its number
//	a client      a name that is granted a quota and a weight, by configuration
//	an owner      an identity that a client greeted with: its pools, and one session
//
// # States of a connection
//
//	state      | left when                                 | to
//	greeting   | 10 s are over, or what came is no HELLO   | ended
//	           | there is no grant, or no higher session   | ended, after DENIED
//	           | the earlier session is done, and pages    | session
//	           | of another epoch are destroyed            |
//	session    | a request breaks the protocol             | ended
//	           | a later session of the owner begins       | ended; that one waits for it
//	           | replies are left unread for 30 s          | ended
//	           | the grant is taken away, or Close         | ended
//
// # States of a pool
//
//	state    | entry in the ledger | left by
//	none     | free                | POOL
//	live     | live                | DESTROY, another epoch, Forget
//	leaving  | leaving             | the last page is freed, or Open, which frees them
//
// # Invariants
//
//	D1  A GET that is answered OK has what the newest PUT of the page that was answered
//	    OK was given, byte for byte: export, page and checksum say so. What cannot be
//	    proved right is NONE, counted, and gone.
//	D2  A page has one version. PUT replaces an older one only; FLUSH takes away those
//	    up to its generation only. A PUT that is refused leaves none that is older.
//	D3  A page of a persistent pool goes by its owner's FLUSH, DESTROY, refused PUT or
//	    change of epoch, by Forget, or by damage: never for want of memory.
//	D4  When memory is short, ephemeral pages go first: of the client that uses most for
//	    its weight, those first that were not fetched since the clock last passed. Then
//	    PUT is FULL. What they have counts as free in STATS. Then, if a limit was lowered, owners are asked to take pages back
//	    (STATS, and a flag in each reply): those furthest above their share first, down
//	    to where all use as much for their weight. A client that is asked to take pages
//	    back cannot store more meanwhile.
//	D5  The memory of pages and index is at most one chunk above the limit, once what
//	    was above a limit that was lowered is gone.
//	D6  A client is charged with the slots of its objects and the nodes of its tables,
//	    and may use its quota: beyond it by at most one page and its nodes for each
//	    session that stores at the same time.
//	D7  Who has no grant gets DENIED, or nothing, and no other word. A client finds its
//	    own pools only, whatever identity it claims: owners of different clients are
//	    different, and so are their sessions.
//	D8  An owner has one session at a time that acts. The next one begins when the
//	    goroutine of the one before does nothing any more.
//	D9  After any death of the process, Open finds every page whose PUT was answered and
//	    nothing that was flushed: the version is in the arena before the index leads to
//	    it, the older one is freed after, and of two the newer counts. The ledger says
//	    live before there is a page, and leaving before the first is freed.
//	D10 Memory is bounded by the limit, 20 bytes for each chunk and 8 for each node ever
//	    in use, 1 MiB of ledger, and 256 KiB for each session.
//	D11 A request does not allocate, log or wait for another page's, except where memory
//	    has to be made first. No bytes from a client panic.
//
// # Goroutines
//
// One for each connection, which Close waits for; one that keeps room, and one that
// follows the host's memory pressure, if that is configured. Serve runs in its caller's.
//
// # Locks
//
//	Donor.mu         clients, owners, pools as such, connections
//	owner.mu         which session an owner has
//	Donor.evicting   the hands of the clock; whoever drops ephemeral pages
//	Donor.compacting whoever compacts
//	stripe           one of 1,024, by pool and page: the page's word and its object
//	Donor.sizing     the limits of arena and index
//
// Donor.mu before owner.mu. evicting, then compacting, then one stripe, then sizing and the
// locks of index and arena. Donor.mu is not held with any of the second row but sizing's.
// The path of a request takes a stripe, and the index's and the arena's own locks.
//
// A pool is found and used with a stripe or evicting held, except by its owner's session.
// destroy takes each of these once, and nobody has the pool then.
//
// # What is not promised
//
// That an owner's session numbers are remembered by the process after this one: it
// may accept an old session first, whose pages have old generations. That a pool that
// is frozen is frozen after a restart. That blobs are wiped when they are freed: they
// are sealed, and no reply has bytes that its own page did not have. That accounts are
// exact after damage to an object's header.
package donor
