// Package cleancache keeps clean pages of disks in backends: pages that storage
// has too, and that may vanish at any moment. It is what mm/cleancache.c was in the
// kernel. Storage is the truth; a page that is not here costs a read, never an
// answer.
//
// A disk (tier/disk) calls it, with a [Pool] for what it reads: it locks a page,
// asks [Pool.GetPage], reads storage if that is a miss, and offers what it read with
// [Pool.PutPage]. Whoever changes storage calls [Pool.InvalidatePage] first. The
// backends are those of frontswap, which tells [Cleancache.Follow] and
// [Cleancache.Leave] about them: they are loaded, frozen, replaced and unloaded for
// both at once.
//
// # The kernel's words
//
//	init_fs          Cleancache.InitFS: a disk gets a pool
//	init_shared_fs   Cleancache.InitSharedFS: disks with the same content share one
//	get_page         Pool.GetPage: a copy, or a miss
//	put_page         Pool.PutPage: offered, and kept or not
//	invalidate_page  Pool.InvalidatePage
//	invalidate_inode Pool.InvalidateInode: a range
//	invalidate_fs    Pool.InvalidateFS: the disk is gone
//
// The counters mean what they meant there: succ_gets and failed_gets are hits and
// misses, with no backend loaded too; puts counts what was offered, kept or not, and
// with no backend too; invalidates counts calls of invalidate_page, whether there
// was a page or not, and no others.
//
// The kernel had pool numbers that a file system kept while no backend was there.
// Here a pool is always there, under the number of its disk, and backends are
// initialised for it when they come. One that comes back comes back empty, as its
// pages were dropped when it went (row "missed invalidates" of the kernel's rules).
//
// # Invariants
//
//	C1  A page is put only by who holds a lock of it without a gap since storage was
//	    read, and storage is changed only by who holds its exclusive lock, after
//	    InvalidatePage. So a slow read never puts an old page over a newer write,
//	    and nobody can get a page that storage does not have. (Generations, checked
//	    at the put, would spare the lock over the read. But two writers of parts of
//	    one page need a lock over storage anyhow, and a reader has to wait for the
//	    writer of its page in any case.)
//	C2  One word says which backend has a page, under which handle. Under a read
//	    lock it changes only from and to busy, by compare and swap: of two who put
//	    or drop one page at once, one does, and the other goes on without. Under the
//	    exclusive lock it is never busy.
//	C3  A handle is invalidated once, and before its page is stored anew: the caller's
//	    side of the backends' rules B24 and B25.
//	C4  After a miss, a page is not found again until it is put: whatever a load fails
//	    with, the handle is given up.
//	C5  A put reads the set of backends after it has a lock of the page. So once the
//	    set is replaced and every lock was taken exclusively once, no put is left that
//	    knows the old set. Leave does both, then drops the pages that words name.
//	C6  Nothing here fails: a backend that errs is not asked for puts any more, and
//	    its pages are misses. A backend that refuses Init of a disk has none of it.
//	C7  A shared pool is for those who were authorised for its name, and read only: so
//	    nobody can put a page there that another one's storage does not have, but by
//	    being authorised for content that is not the same.
//
// # States
//
//	word                left by
//	0: not here         PutPage, of one caller: busy
//	busy                the same caller: a backend took it, or 0
//	backend and handle  a load failed, an exclusive hit, InvalidatePage, Leave: 0;
//	                    the backend moved it (Rehandle): another handle
//
// The life of a backend is frontswap's (lifecycle.go there). Active ones get puts; all
// others, until they leave, are asked for what they have.
//
// # Modes
//
//	inclusive  a page that was got stays
//	exclusive  it leaves: the client has it in its own memory now, and offers nothing
//	           back, so it is read from storage once more when it is read again
//
// # Lock order
//
//	Pool.life → page locks (see pagelock) → a backend's own
//	Cleancache.mu → a backend's Init
//
// No page lock is taken under mu. Follow is called with frontswap's lock held, takes
// mu, and waits for no page.
//
// # Not promised
//
// That a page that was put is found: backends forget, and refuse what a scan brings
// (see zcache's admission). The number of pages that a pool counts as being in a
// backend is that of its words: it includes those that the backend has forgotten and
// nobody has asked for since. The index takes 8 bytes for each page of a disk, in
// pieces of 4 KiB as pages are put there, and keeps them until the disk is closed.
package cleancache
