// Package backends is the contract between frontswap and cleancache and what holds
// pages for them: compressed memory, other hosts' memory. This comment is the manual for
// writing a backend.
//
// A backend takes copies of pages of 4096 bytes and gives them back. It may
// refuse any page at any time. It may not forget one, and it may not give back
// anything but the bytes it was given: a page that it accepted is the only copy
// there is. (Pages of ephemeral exports may be forgotten, see there.)
//
// frontswap calls it, cleancache does for ephemeral exports, and nobody else.
// frontswap remembers which page is where (the handle that Store returns is kept in
// the page map), asks the next backend or storage when this one refuses, and moves
// the pages away before the backend goes. So a backend has no index of its own, and is not told why it is
// called. It calls back only to move its copies or to have pages evicted, from
// goroutines of its own; see [Host].
//
// A new backend is ready when it passes backends/backendtest. The rules below
// are numbered for the suite to cite.
//
// # Life cycle
//
//	               New (the backend's own; typed configuration)
//	                │
//	               Adopt …, Adopted      after another process, see Adoption
//	                │
//	┌─────────────▸ │
//	│              Init(export)          once for each export, before its first Store
//	│               │
//	│   ┌─────────▸ │
//	│   │  Store ───┤ refused, failed: nothing is left behind
//	│   │           │ stored: handle
//	│   │          Load(handle) …        any number of times, also none
//	│   │           │
//	│   └───────── Invalidate(handle)    once for each handle
//	│               │
//	└───────────── InvalidateArea(export) once for each Init; no handle is left
//	                │
//	               Close                 once; no export is left
//	                │
//	               Stats                 from New on, and after Close
//
// Exports come and go while the backend is loaded. Several handles of one key
// can be live at a time: a page is stored anew before the old copy is
// invalidated. An export that was let go may be initialised again, with the
// same number and other pages.
//
//	B1  Store for an export between Init and InvalidateArea may succeed. Before
//	    Init, after InvalidateArea and after a failed Init it is refused with
//	    RefusedUnmanaged.
//	B2  Init that fails leaves nothing behind, and may be tried again. A second
//	    Init of an initialised export fails and changes nothing.
//	B3  After the last Invalidate, Stats shows no pages, no stored bytes and no
//	    more held memory than the backend says it keeps ready for reuse. After
//	    Close it shows no held memory, and Resident of each Usage is 0.
//
// # Adoption
//
// A process that was killed may have left pages that a backend keeps in memory
// which outlives it. The next one makes the backend anew of that memory, and says
// what page maps name: Adopt for each handle, then Adopted, then Init as ever.
//
//	B21 Adopt answers true if the handle names a live copy of that page, and once
//	    for each copy. Handles that are the data are true for whoever could have
//	    made them. A backend without such memory answers false to all others.
//	B22 Until Adopted nothing that was left is changed: a process that gives up, or
//	    dies, leaves it for the next one. Adopted frees what nobody adopted.
//
// # Outcomes
//
// A store has three outcomes, never two:
//
//	outcome | result              | then frontswap
//	done    | handle, Accepted    | keeps the handle, invalidates the older copy
//	refused | a Refusal, no error | asks the next backend, then storage; counts by reason
//	failed  | an error            | does the same, and counts the backend as ailing
//
// A load is done or it fails. There is no third way: a backend has a page, or
// the page is lost and the client gets an I/O error. ErrCorrupt in the chain
// says that there is a copy but it is damaged; it is for the counters, the page
// is as lost as with any other error.
//
//	B4  A store that is refused or fails leaves nothing behind: no page, no
//	    bytes, and no change to an older copy, whose handle stays live.
//	B5  A page that is refused now may be accepted the next moment and the other
//	    way round. Refusing everything is correct.
//	B6  Refusals are counted under their reason, and accepted stores under
//	    Accepted: the sum is the number of stores that did not fail.
//
// # Data
//
//	B7  Load fills all of dst with what Store was given, byte for byte, however
//	    often it is called and whatever else was stored in between. It leaves
//	    the page where it is.
//	B8  Load never returns success with other bytes: not with an older copy, not
//	    with zeros, not with another page, not after memory was damaged. What
//	    cannot be proved right is ErrCorrupt. To prove it the backend keeps the
//	    key and a checksum of the page with the data; a backend that trusts a
//	    remote host keeps them here.
//	B9  Load with the wrong key for a handle is ErrCorrupt, except where the
//	    handle is the data (a same-filled page): there a check of the bits
//	    to spare is enough.
//	B10 Store does not keep or change data, nor Load dst, once it has returned.
//
// # Handles
//
//	B11 A handle is below 1<<HandleBits. Every such value is valid, 0 too.
//	B12 Each successful store makes a handle of its own: two live handles never
//	    name one copy, whether of one key or of two. Invalidating one leaves all
//	    others as they were. Handles that are the data may be equal.
//	B13 A handle that was invalidated may be handed out again at once.
//
// # Threads
//
// Any method may be called from any goroutine, and all of them from many at
// once, for different pages. frontswap holds the page's lock around each Store,
// Load and Invalidate, so for one key the backend may rely on this:
//
//	under way      | may start meanwhile for the same key
//	Store          | nothing
//	Load           | Load
//	Invalidate     | nothing
//	Init           | nothing for the export
//	InvalidateArea | nothing for the export
//	Close          | Stats
//
// The key's lock is what makes a handle safe to use: it cannot be invalidated
// while it is being loaded, and all that Store did happened before Load.
//
//	B14 Stats may be called at any time, also during and after Close, and is
//	    cheap enough for each scrape. Its figures need not be of one instant;
//	    when nothing else is under way they are exact.
//	B15 A backend that starts goroutines ends them in Close, and waits for them.
//	    Those that turn to the Host it ends in InvalidateArea of the last export,
//	    but it does not wait there for Host.Evict, which may be waiting for the
//	    export to be closed; Close waits for that too.
//
// # Ephemeral exports
//
// cleancache calls a backend for pages that storage has too: the pages of a disk
// that were read. Those of an export with Export.Ephemeral are there to be used
// while memory is left over, as in tmem's ephemeral pools. All rules hold for them
// as for others, but for these:
//
//	B23 A backend may forget any of them, at any moment, without telling. Load of
//	    one that was forgotten is ErrGone, and never what has its place now. It is
//	    not counted as corrupt, and does not allocate.
//	B24 The handle of one that was forgotten may be invalidated all the same, once.
//	    That leaves every other page as it is.
//	B25 For one key, Load may overlap with Load, with Invalidate, and with the Store
//	    that follows it; it then gives one of these pages or is ErrGone. The caller
//	    has at most one live handle of a key: it invalidates the old one first.
//	B26 They give way. As long as one takes memory that such a page could have, no page
//	    of another export is refused as RefusedFull or evicted. A backend that cannot keep the two apart
//	    refuses Init of an ephemeral export with an error.
//	B27 They end with the process: nobody remembers their handles, so Adopt is not
//	    asked for them, and Adopted forgets them without counting them.
//	B28 InvalidateArea comes after the caller has invalidated every handle that it
//	    has, forgotten or not. Then no page of the export is left.
//
// # Shared pages
//
// A backend may keep identical pages of exports with the same Export.Dedup once.
//
//	B34 Nothing about a page depends on who shares it, but the memory that all take: what is
//	    charged, what Pack returns, and that it stays when others are stored anew, evicted,
//	    invalidated or damaged. Exports of different numbers, and those with 0, share nothing.
//	    Whether there is an identical page makes no difference to how long Store takes.
//
// # Packed pages
//
// An export is saved and restored with its pages as they are kept, not compressed anew.
//
//	B29 What Pack returns decodes (package packed) to the page that Store was given,
//	    or the decoder says that it is corrupt. Pack leaves the page where it is.
//	    For a wrong key or handle it fails as Load does.
//	B30 Unpack followed by Load gives the page that was packed, whichever backend
//	    packed it. Data that does not decode, of any length, or has another checksum,
//	    is ErrCorrupt and leaves nothing behind. That is not the backend's failure.
//	B31 Refusals of Unpack are those of Store, and counted with them. It stores for
//	    exports that are not ephemeral only, and refuses others as RefusedUnmanaged.
//
// Both are outside the path of requests: they may allocate.
//
// # Speed
//
// Page faults wait for Load, and the host's reclaim of memory waits for Store.
//
//	B16 Local reports a constant. If it is true, Store and Load do not wait for
//	    a disk, a network, a timer or another page's call; a short critical
//	    section is not waiting. If what Store needs is not free at once it
//	    refuses with RefusedBusy.
//	B17 Invalidate does not wait for a disk, a network or another page's call,
//	    in any backend: what needs that is done later.
//	B18 Store, Load and Invalidate do not allocate on the Go heap, except to
//	    describe an error. Page data lives outside it, in sharedmem regions,
//	    each of which Stats reports as a Usage.
//	B19 HeldBytes stays at or below LimitBytes, if that is not 0, except for
//	    the time that it takes to follow a limit that was lowered.
//	B20 No input panics: not a wrong handle, not damaged data. A handle that is
//	    not live may be invalidated by mistake; that must not damage the
//	    process, but may lose a page of this backend.
//
// # Who takes how much
//
// frontswap charges memory to clients, and decides by it who has to give some up.
//
//	B32 Used follows each Store, Invalidate and new handle of a page at once, and is
//	    exact when no call is under way: 0 when all pages of the export are gone;
//	    for all exports together no less than StoredBytes without those of ephemeral
//	    pages, and no more than HeldBytes; with SharedPages no more than HeldBytes and
//	    SharedSaved, as each page is charged what it takes by itself. After a takeover it is exact from Init on.
//	B33 Room is next to nothing when pages are refused as RefusedFull, and much
//	    again when all are gone.
//
// # What must never happen
//
// In order of how often it has happened in systems like this one: a load that
// returns an older copy after a store of the page failed (B4, B8); a load that
// succeeds with garbage because decompression was not checked (B8); a load that
// removes the page, which is then read a second time (B7); a store that waits
// for memory which only the stores waiting behind it can free (B16, B18).
//
// # What is not promised
//
// To the backend: that pages are ever loaded; that page numbers are dense,
// below the export's Pages (an export may grow), or arrive in any order; that its Stats are looked
// at; that Close comes at all, since processes get killed.
//
// By the backend: that a page survives the process, unless it says so; that
// anything is stored at all.
package backends
