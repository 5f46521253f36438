// Package arena keeps variable-sized objects, compressed pages, in one shared
// memory file, with 16 bytes of overhead each.
//
// Backends that hold page data in local memory call it (zcache, ramster and its
// donor). It does not compress, and knows no more of an object than the header it
// writes.
//
// The region is cut into chunks of 64 KiB. A chunk belongs to one size class
// at a time and is an array of slots of that size; there is a class for each
// number of slots that a chunk can have, as far as sizes are multiples of 32, and
// all of them once more for droppable objects:
//
//	region   | chunk 0: class 1,536   | chunk 1: class 320   | chunk 2: free | …
//	chunk    | slot 0 | slot 1 | … | slot 41 | unused tail |
//	slot     | header word 0 | header word 1 | data … | padding |
//
//	word 0   bits 0–39 page, 40–43 codec, 44–56 length of the data, 57 being filled,
//	         58–61 flags, 62–63 always 0
//	word 1   bits 0–31 checksum, 32–63 export
//
// A [Ref] is a slot's address divided by 32, so 40 bits name a slot in 32 TiB.
//
// A whole page, not compressed, takes 1/15 of a chunk: 6.7 % more than itself. So
// does one that is sealed for another host.
//
// # States of a slot
//
//	state    | word 0                | the next 8 bytes   | left by
//	never    | 0                     | 0                  | take: past the chunk's bump index
//	free     | 0                     | next free slot + 1 | take: head of the chunk's free list
//	filling  | bit 57 only (codec 0) | anything           | Put's last store; Settle, which makes it free
//	live     | codec 1–15            | word 1             | Free
//
// # Invariants
//
//	A1  A slot is live if and only if its codec is not 0. Put writes the data,
//	    then word 1, then word 0 in one atomic store; Free clears word 0 first.
//	    A process that dies in between leaves a slot that is not live.
//	A2  No slot has two owners, even if the memory is damaged: a slot is taken
//	    off a free list only if its word 0 is 0, and is marked as filling under
//	    the class's lock. A free list that leads anywhere else is dropped; its
//	    slots are lost until the chunk is empty.
//	A3  Nothing that is read from the region is believed without a check:
//	    Get, Put and Free do not panic, loop or leave the chunk, whatever the
//	    bytes are. What says where slots begin is kept outside the region.
//	A4  A chunk is in at most one list: of its class, if it has both live and
//	    free slots; of the pool, warm or cold, if it has no live ones.
//	A5  The chunks in use and those kept warm are never more than the limit,
//	    unless SetLimit was below them; then no chunk is added until they are
//	    not. Held bytes are the pages of the system from the front of each chunk
//	    to the last slot ever taken there. The memory behind those, and of all
//	    other chunks, is back with the system or was never touched; unless Touch
//	    took all of it: then it is kept, and held bytes are what is used of it.
//	A6  What can change where an object is, Compact, only calls its caller back,
//	    who knows how to keep everybody else off the object. A chunk that is
//	    being emptied gives out no slots.
//	A7  In a folder, the memory of a slot is claimed before it is taken, so that a full
//	    tmpfs is a refusal. The class of a chunk is in the chunk table before a slot
//	    of it is filled. So after any death of the process the table's classes and the
//	    slots' headers say what there is; all else is made anew from them.
//	A8  From Open to Settle nothing in the memory is changed, and nothing is read
//	    where no page was touched. What Claim returned true for survives Settle, and
//	    nothing else does.
//	A9  Droppable objects are in chunks of their own, so that dropping all that one
//	    holds gives back a chunk for any class. They do not outlive the process: they
//	    cannot be claimed.
//	A10 A slot in use holds its object and zeros. What a freed object was stays in the
//	    slot until Put fills that again, or Scrub overwrites it; Wipe leaves nothing.
//
// # Locks
//
//	class.mu  guards the list of one class and the entries of its chunks
//	pool.mu   guards the lists of free chunks and the entries of those
//
// class.mu before pool.mu; never two classes. Get takes no lock; Snapshot and
// Refs copy and list with class.mu held, so that they never read what is being
// written or was given back. Memory is given back to the system (a system call)
// and Compact's caller is called with no lock held; Reclaim's with class.mu held.
//
// # What is not promised
//
// An arena that is not compacted can refuse while it holds free slots of other
// classes, and a chunk with one live object stays. Damage to the memory is not
// detected here but by the owner of the checksum. The bookkeeping, 20 bytes for
// each chunk, lives in a region of its own; in a folder it is claimed as a whole.
// Get with a ref that was never given out may make the system
// add a page that is not counted.
package arena
