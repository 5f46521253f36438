package frontswap

import (
	"sync"
	"sync/atomic"
)

// BlockPages is how many pages may be locked at once: an aligned block of 256
// pages, 1 MiB. Longer requests and walks go block by block.
const BlockPages = 256

// pageLocks are the page locks of one area: striped, one 32-bit word a stripe.
//
// sync.RWMutex was the first choice and does not fit: it makes new readers wait
// behind a waiting writer, so a write that waits for a drain's batch would stall
// loads (promise: a drain never stalls a load); and it has no update mode. Here:
//
//	mode       shares with         held by
//	read       read, update        loads
//	update     read                moves and copies: while storage is written
//	exclusive  nothing             store, invalidate, and the commit of a drain
//
// An update lock turns into an exclusive one without letting a writer in
// between, so what was copied under it is still the page when it is committed.
//
// Order: a goroutine holds locks of one aligned block only, takes them in
// ascending page order, and upgrades in descending order, releasing each page
// before it upgrades the next. Then every wait is for a page above all pages
// that the waiter's own waiters can want, and no cycle can close. (Upgrading in
// ascending order does deadlock: drain waits for a reader of page 1, who waits
// for a writer of page 2, who waits for the drain's page 3.)
//
// Readers are preferred. A stream of readers without a gap would starve a
// writer of that page; only the client that owns the page can produce one.
type pageLocks struct {
	stripes []atomic.Uint32 // power of two, at least BlockPages
	waits   [waitBuckets]waitBucket
}

const (
	maxStripes  = 1 << 16
	waitBuckets = 64

	lockExclusive = 1 << 31
	lockUpdate    = 1 << 30
	lockWaited    = 1 << 29 // somebody waits in the stripe's bucket
	lockReaders   = lockWaited - 1
)

// waitBucket parks those who wait for any of the stripes that hash to it.
type waitBucket struct {
	mu   sync.Mutex
	cond sync.Cond // on mu
	_    [40]byte  // keep neighbours off this cache line
}

// LockBytes is the memory of the page locks of an area of so many pages.
func LockBytes(pages uint64) int64 { return int64(stripesFor(pages)) * 4 }

func stripesFor(pages uint64) uint64 {
	n := uint64(BlockPages)
	for n < pages && n < maxStripes {
		n *= 2
	}
	return n
}

func newPageLocks(pages uint64) *pageLocks {
	l := &pageLocks{stripes: make([]atomic.Uint32, stripesFor(pages))}
	for i := range l.waits {
		l.waits[i].cond.L = &l.waits[i].mu
	}
	return l
}

// lockMode is what is asked of a stripe.
type lockMode struct {
	blocked uint32 // any of these set: wait
	drop    uint32 // bits a success clears
	add     uint32 // what a success adds
}

var (
	modeRead      = lockMode{blocked: lockExclusive, add: 1}
	modeUpdate    = lockMode{blocked: lockExclusive | lockUpdate, add: lockUpdate}
	modeExclusive = lockMode{blocked: lockExclusive | lockUpdate | lockReaders, add: lockExclusive}
	modeUpgrade   = lockMode{blocked: lockExclusive | lockReaders, drop: lockUpdate, add: lockExclusive}
)

func (l *pageLocks) try(page uint64, m *lockMode) bool {
	s := &l.stripes[page&uint64(len(l.stripes)-1)]
	for {
		old := s.Load()
		if old&m.blocked != 0 {
			return false
		}
		if s.CompareAndSwap(old, old&^m.drop+m.add) {
			return true
		}
	}
}

func (l *pageLocks) lock(page uint64, m *lockMode) {
	if l.try(page, m) {
		return
	}
	stripe := page & uint64(len(l.stripes)-1)
	b := &l.waits[stripe%waitBuckets]
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		// The bit first, then the try: whoever unlocks after the try sees it.
		l.stripes[stripe].Or(lockWaited)
		if l.try(page, m) {
			return
		}
		b.cond.Wait()
	}
}

// barrier returns when every holder of an exclusive or update lock at the time
// of the call has released it. It takes each stripe once, one at a time.
func (l *pageLocks) barrier() {
	for stripe := range uint64(len(l.stripes)) {
		l.lock(stripe, &modeUpdate)
		l.unlock(stripe, lockUpdate)
	}
}

func (l *pageLocks) unlock(page uint64, held uint32) {
	stripe := page & uint64(len(l.stripes)-1)
	left := l.stripes[stripe].Add(-held)
	if left&lockWaited == 0 || left&lockReaders != 0 {
		return
	}
	b := &l.waits[stripe%waitBuckets]
	b.mu.Lock()
	l.stripes[stripe].And(^uint32(lockWaited))
	b.cond.Broadcast()
	b.mu.Unlock()
}
