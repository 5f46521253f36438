package frontswap

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/sharedmem"
)

// move is one pass over the pages that a backend has: a drain, which takes
// them all, or a shrink or migration, which takes the coldest. A backend has at
// most one at a time.
type move struct {
	fs      *Frontswap
	from    *slot
	areas   []*Area
	started time.Time
	total   uint64 // pages of the backend when it started
	rank    int    // the backend's order when it started

	// Only whoever runs the move looks at these: evicting from one client after the
	// other it changes them.
	most   uint64            // stop after so many
	buffer *sharedmem.Region // room for the blocks in hand, or nil before the first pass
	hand   *hand             // where a look for cold pages goes on
	client *Client           // whose pages it looks at now; nil if everybody's

	// Immutable once the move is in its slot.
	shared      bool // there were several clients when it began
	cold        bool // pass over pages that were referenced since the last look
	keepRefused bool // pages that no backend takes stay where they are
	toStorage   bool // no backend is asked
	evicts      bool // the backend asked for it: what it leaves on storage has a shadow

	ctx    context.Context
	cancel context.CancelCauseFunc
	ended  chan struct{} // closed by endLocked

	running atomic.Bool
	moved   atomic.Uint64

	// loading and spare have a token for each worker that reads from the backend;
	// sent after page locks. The spare ones are for while nobody else is at work.
	loading, spare chan struct{}
	asked          atomic.Uint64 // requests for pages when a worker looked last

	mu   sync.Mutex        // taken last of all
	into map[string]uint64 // of moved, by the backend that took them; guarded by mu
}

// Drain is a snapshot of a move of a backend's pages.
type Drain struct {
	Running bool
	Started time.Time
	Total   uint64 // pages that the backend had when the move started
	Moved   uint64 // pages moved so far
	Left    uint64 // pages that the backend still has

	// Of the moved ones, those that went to backends, by name; storage has the
	// others, written there or synced before.
	Into map[string]uint64

	BufferBytes int64 // memory that it takes while it runs
}

// Stored is how many of the moved pages storage has.
func (d *Drain) Stored() uint64 {
	stored := d.Moved
	for _, n := range d.Into {
		stored -= min(n, stored)
	}
	return stored
}

func (m *move) snapshot(left uint64) Drain {
	m.mu.Lock()
	defer m.mu.Unlock()
	return Drain{
		Running: m.running.Load(), Started: m.started, Total: m.total, Moved: m.moved.Load(), Left: left,
		Into: maps.Clone(m.into), BufferBytes: int64(m.workers()) * blockBytes,
	}
}

// newMoveLocked begins a move of all pages of s, or of those that set makes it be
// about. REQUIRES: mu held.
func (f *Frontswap) newMoveLocked(ctx context.Context, s *slot, set func(*move)) *move {
	m := &move{
		fs: f, from: s, started: time.Now(), total: f.pagesLocked(s), rank: s.order, ended: make(chan struct{}),
		most: ^uint64(0), into: map[string]uint64{}, loading: make(chan struct{}, loaders()), spare: make(chan struct{}, spareLoaders()),
	}
	m.hand, m.shared = &s.hand, len(f.sharingLocked()) > 1
	m.ctx, m.cancel = context.WithCancelCause(ctx)
	m.running.Store(true)
	for _, a := range f.areas {
		m.areas = append(m.areas, a)
	}
	slices.SortFunc(m.areas, func(a, b *Area) int { return cmp.Compare(a.id, b.id) })
	set(m)
	s.move = m
	return m
}

// endLocked lets others begin a move. REQUIRES: mu held.
func (m *move) endLocked() {
	m.cancel(nil)
	m.running.Store(false)
	close(m.ended)
	if m.buffer != nil {
		m.buffer.Close()
	}
}

// run passes over every area, in ascending order: a drain from the start, a look
// for cold pages from where the last one stopped and around, like a clock's
// hand. From the start each time, the pages at the front would go first,
// however hot.
func (m *move) run() error {
	if m.buffer == nil {
		buffer, err := sharedmem.NewPrivate("drain buffer", int64(m.workers())*blockBytes)
		if err != nil {
			return err
		}
		m.buffer = buffer
	}
	buffer := m.buffer
	start, hand := 0, *m.hand
	if m.cold {
		start = max(0, slices.IndexFunc(m.areas, func(a *Area) bool { return a.id == hand.area }))
	}
	for i := range m.areas {
		from := uint64(0)
		a := m.areas[(start+i)%len(m.areas)]
		if m.cold && i == 0 && a.id == hand.area {
			from = hand.page
		}
		if err := m.area(a, from, a.Pages(), buffer.Bytes()); err != nil {
			return err
		}
	}
	if m.cold && len(m.areas) > 0 && m.areas[start].id == hand.area {
		return m.area(m.areas[start], 0, hand.page, buffer.Bytes())
	}
	return nil
}

// hand is where the last look for cold pages stopped.
type hand struct {
	area uint32
	page uint64 // the first of a block
}

// barrier returns when every store, invalidate and move of a page that was under
// way in an area at the time of the call has ended (F3).
func (m *move) barrier() {
	for _, a := range m.areas {
		a.locks.Barrier()
	}
}

// area passes over an area's pages from one to before another. An area that is
// being closed gives its pages up itself; a drain waits for that, as the backend
// must not be closed under it.
func (m *move) area(a *Area, from, to uint64, buffer []byte) error {
	if m.cold && !a.life.TryRLock() {
		return nil // it is being closed
	}
	if !m.cold {
		a.life.RLock()
	}
	err := m.blocks(a, from, to, buffer)
	a.life.RUnlock()
	if err == nil && !m.cold && a.closing.Load() {
		<-a.closed
	}
	return err
}

// blocks REQUIRES: a.life held for reading.
func (m *move) blocks(a *Area, from, to uint64, buffer []byte) error {
	w := m.startWorkers(a, buffer)
	err := a.Touched(func(first, last uint64) error {
		first, last = max(first, from), min(last, to)
		for ; first < last && !a.closing.Load() && m.moved.Load() < m.most; first += BlockPages {
			if m.cold {
				*m.hand = hand{a.id, first}
			}
			if m.ctx.Err() != nil {
				return context.Cause(m.ctx)
			}
			if err := w.do(span{first, int(min(BlockPages, last-first))}); err != nil {
				return err
			}
		}
		return nil
	})
	return w.end(err)
}

// storageWord is the word of a page that the move leaves on storage.
func (m *move) storageWord() word {
	if m.evicts {
		return m.from.shadowWord()
	}
	return makeWord(OwnerStorage, 0)
}

// block is a move's work on one aligned block of an area.
type block struct {
	m      *move
	a      *Area
	first  uint64
	n      int
	buffer []byte // room for all its pages

	mine  [BlockPages]bool  // pages that are locked, to be moved
	waits [BlockPages]bool  // of these, those whose data is in the buffer, for storage
	next  [BlockPages]word  // what a page's word will be; 0 for one that stays
	into  [BlockPages]*slot // the backend that took it, nil for storage
}

// move moves the pages of the block that are the backend's. A page that becomes
// the backend's meanwhile may be missed, unless F3 rules that out.
func (b *block) move() error {
	room := b.m.most - b.m.moved.Load()
	for i := range b.n {
		page := b.first + uint64(i)
		if room == 0 {
			break
		}
		if b.a.word(page).owner() != b.m.from.owner {
			continue
		}
		b.a.LockUpdate(page)
		if b.mine[i] = b.wanted(page); b.mine[i] {
			room--
		} else {
			b.a.UnlockUpdate(page)
		}
	}
	err := b.copy()
	// Descending, as pagelock wants it. After an error, what has arrived counts.
	for i := b.n - 1; i >= 0; i-- {
		page := b.first + uint64(i)
		switch {
		case !b.mine[i]:
		case b.next[i] == 0:
			b.a.UnlockUpdate(page)
		default:
			b.a.upgrade(page)
			b.a.commit(page, b.next[i])
			b.a.Unlock(page)
			if b.m.evicts {
				b.m.from.evicted.Add(1)
			}
			if b.m.evicts || b.m.client != nil {
				b.a.client.evicted.Add(1)
			}
		}
	}
	b.account()
	return err
}

// account counts the pages that have moved.
func (b *block) account() {
	b.m.mu.Lock()
	defer b.m.mu.Unlock()
	for i := range b.n {
		if b.next[i] == 0 {
			continue
		}
		b.m.moved.Add(1)
		if b.into[i] != nil {
			b.m.into[b.into[i].name]++
		}
	}
}

// wanted says whether the page is to be moved. Looking for cold pages gives a
// page that was referenced a second chance. REQUIRES: LockUpdate held.
func (b *block) wanted(page uint64) bool {
	w := b.a.word(page)
	if w.owner() != b.m.from.owner {
		return false
	}
	if b.m.cold && w&referenced != 0 {
		b.a.at(page).And(uint64(^referenced))
		return false
	}
	return true
}

// copy moves the data of the pages that are mine: to a backend that takes it,
// else runs of neighbours to storage in one piece. What was read before a page
// that cannot be is written all the same. REQUIRES: LockUpdate held for each of
// them.
func (b *block) copy() error {
	failed := b.loadAll()
	for start := 0; start < b.n; start++ {
		end := start
		for end < b.n && b.waits[end] {
			end++
		}
		if err := b.write(start, end); err != nil {
			return err
		}
		start = end
	}
	return failed
}

// loadAll reads the pages that are mine, until one cannot be read.
func (b *block) loadAll() error {
	tokens := b.m.beginLoading()
	defer func() { <-tokens }()
	// After the locks, never before: F3 rests on it for moves too.
	var to []*slot
	if !b.m.toStorage {
		to = b.a.fs.active.Load().after(b.m.from, b.m.rank)
	}
	for i := range b.n {
		switch {
		case !b.mine[i]:
		case b.a.word(b.first+uint64(i))&synced != 0 && len(to) == 0:
			b.next[i] = b.m.storageWord() // storage has it already
		default:
			if err := b.load(i, to); err != nil {
				return err
			}
		}
	}
	return nil
}

// load reads a page into its place in the buffer and offers it to the backends.
func (b *block) load(i int, to []*slot) error {
	page := b.first + uint64(i)
	if i%yieldPages == 0 && !b.m.cold {
		runtime.Gosched()
	}
	data := b.buffer[i*backends.PageSize:][:backends.PageSize]
	w := b.a.word(page)
	if err := b.a.loadFrom(b.m.from, page, w, data); err != nil {
		if w&synced == 0 {
			return err
		}
		b.next[i] = b.m.storageWord()
		return nil
	}
	if handle, s := b.a.offer(to, page, data); s != nil {
		b.next[i], b.into[i] = makeWord(s.owner, handle)|w&synced, s
		return nil
	}
	b.waits[i] = !b.m.keepRefused
	return nil
}

// write writes the pages from start to before end, which wait in the buffer, to
// storage.
func (b *block) write(start, end int) error {
	if start >= end {
		return nil
	}
	run := b.buffer[start*backends.PageSize : end*backends.PageSize]
	if err := b.a.storage.WritePages(b.first+uint64(start), run); err != nil {
		return fmt.Errorf("write %d pages of %s from page %d to storage: %w", end-start, b.a.name, b.first+uint64(start), err)
	}
	for i := start; i < end; i++ {
		b.next[i] = b.m.storageWord()
	}
	return nil
}
