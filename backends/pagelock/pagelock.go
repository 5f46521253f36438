package pagelock

import (
	"sync"
	"sync/atomic"
)

// BlockPages is how many pages may be locked at once: an aligned block of 256
// pages, 1 MiB. Longer requests and walks go block by block.
const BlockPages = 256

// Locks are the locks of the pages of one export: striped, one 32-bit word a
// stripe. The package comment has the modes and the order.
type Locks struct {
	mask   uint64                    // immutable: stripes-1; stripes are a power of two, at least BlockPages
	pieces []atomic.Pointer[stripes] // immutable but for what they point to: nil until one of them was locked
	waits  atomic.Pointer[waitTable] // nil until somebody waited
}

// stripes are the words of neighbours. They are made when one is first needed, so
// that an export that nobody uses costs none.
type stripes [pieceStripes]atomic.Uint32

const (
	maxStripes   = 1 << 16
	pieceStripes = 1 << 10
	waitBuckets  = 64

	lockExclusive = 1 << 31
	lockUpdate    = 1 << 30
	lockWaited    = 1 << 29 // somebody waits in the stripe's bucket
	lockReaders   = lockWaited - 1
)

type waitTable [waitBuckets]waitBucket

// waitBucket parks those who wait for any of the stripes that hash to it.
type waitBucket struct {
	mu   sync.Mutex
	cond sync.Cond // on mu
	_    [40]byte  // keep neighbours off this cache line
}

// Bytes is the memory of the locks of so many pages, once all of it was used.
func Bytes(pages uint64) int64 { return int64(piecesFor(stripesFor(pages))) * pieceStripes * 4 }

func piecesFor(n uint64) uint64 { return (n + pieceStripes - 1) / pieceStripes }

func stripesFor(pages uint64) uint64 {
	n := uint64(BlockPages)
	for n < pages && n < maxStripes {
		n *= 2
	}
	return n
}

// New makes the locks of so many pages. The length may change later: stripes are
// found by page number.
func New(pages uint64) *Locks {
	n := stripesFor(pages)
	return &Locks{mask: n - 1, pieces: make([]atomic.Pointer[stripes], piecesFor(n))}
}

// Take makes all of the locks' memory now, for who must not do so later.
func (l *Locks) Take() {
	for i := range l.pieces {
		l.stripe(uint64(i) * pieceStripes)
	}
	l.bucket(0)
}

// bucket is where those wait who wait for a stripe.
func (l *Locks) bucket(stripe uint64) *waitBucket {
	table := l.waits.Load()
	if table == nil {
		made := &waitTable{}
		for i := range made {
			made[i].cond.L = &made[i].mu
		}
		l.waits.CompareAndSwap(nil, made) // or somebody else's
		table = l.waits.Load()
	}
	return &table[stripe%waitBuckets]
}

// stripe is a stripe's word.
func (l *Locks) stripe(i uint64) *atomic.Uint32 {
	piece := &l.pieces[i/pieceStripes]
	p := piece.Load()
	if p == nil {
		piece.CompareAndSwap(nil, new(stripes)) // or somebody else's
		p = piece.Load()
	}
	return &p[i%pieceStripes]
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

func (l *Locks) try(page uint64, m *lockMode) bool {
	s := l.stripe(page & l.mask)
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

func (l *Locks) lock(page uint64, m *lockMode) {
	if l.try(page, m) {
		return
	}
	stripe := page & l.mask
	b := l.bucket(stripe)
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		// The bit first, then the try: whoever unlocks after the try sees it.
		l.stripe(stripe).Or(lockWaited)
		if l.try(page, m) {
			return
		}
		b.cond.Wait()
	}
}

// RLock locks the page for reading.
func (l *Locks) RLock(page uint64) { l.lock(page, &modeRead) }

// TryRLock is RLock without waiting; it reports success.
func (l *Locks) TryRLock(page uint64) bool { return l.try(page, &modeRead) }

// RUnlock ends RLock.
func (l *Locks) RUnlock(page uint64) { l.unlock(page, 1) }

// Lock locks the page for everything.
func (l *Locks) Lock(page uint64) { l.lock(page, &modeExclusive) }

// TryLock is Lock without waiting; it reports success.
func (l *Locks) TryLock(page uint64) bool { return l.try(page, &modeExclusive) }

// Unlock ends Lock.
func (l *Locks) Unlock(page uint64) { l.unlock(page, lockExclusive) }

// LockUpdate locks the page for reading it and for writing it elsewhere: readers
// go on, writers wait.
func (l *Locks) LockUpdate(page uint64) { l.lock(page, &modeUpdate) }

// UnlockUpdate ends LockUpdate.
func (l *Locks) UnlockUpdate(page uint64) { l.unlock(page, lockUpdate) }

// Upgrade turns LockUpdate into Lock.
func (l *Locks) Upgrade(page uint64) { l.lock(page, &modeUpgrade) }

// Quiesce returns when every holder of a lock of any mode at the time of the call
// has released it. It takes each stripe once, one at a time, of those that were ever
// taken: who takes one for the first time does so after the call.
func (l *Locks) Quiesce() {
	for stripe := range l.used {
		l.Lock(stripe)
		l.Unlock(stripe)
	}
}

// Barrier returns when every holder of an exclusive or update lock at the time
// of the call has released it. It takes each stripe once, one at a time, as Quiesce.
func (l *Locks) Barrier() {
	for stripe := range l.used {
		l.lock(stripe, &modeUpdate)
		l.unlock(stripe, lockUpdate)
	}
}

// used are the stripes that were ever taken, and some of their neighbours.
func (l *Locks) used(yield func(uint64) bool) {
	for i := range l.pieces {
		if l.pieces[i].Load() == nil {
			continue
		}
		for j := range min(uint64(pieceStripes), l.mask+1) {
			if !yield(uint64(i)*pieceStripes + j) {
				return
			}
		}
	}
}

func (l *Locks) unlock(page uint64, held uint32) {
	stripe := page & l.mask
	left := l.stripe(stripe).Add(-held)
	if left&lockWaited == 0 || left&lockReaders != 0 {
		return
	}
	b := l.bucket(stripe)
	b.mu.Lock()
	l.stripe(stripe).And(^uint32(lockWaited))
	b.cond.Broadcast()
	b.mu.Unlock()
}
