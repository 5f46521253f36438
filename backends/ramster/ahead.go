package ramster

import (
	"sync"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/ramster/wire"
	"github.com/tmemd/tmemd/backends/sharedmem"
)

const (
	aheadSlots   = 512 // pages that were read ahead, and are not loaded yet
	aheadStreams = 8   // clients, or parts of one, that read in sequence
	aheadLeast   = 8   // pages that a stream begins with
	aheadGap     = 4   // pages that a stream may jump over: several workers serve one client
	aheadAfter   = 2   // pages that have to follow one: loads at random do so by chance
	aheadMost    = wire.MaxRun
)

// readAhead fetches pages before they are loaded, for whoever loads in sequence: a
// swapoff, a drain, the kernel's own clusters. What it has is still sealed, and is
// believed for one generation only, so nothing has to be taken away when a page changes.
//
//	slot      left by
//	empty     reserve
//	pending   Page (it is there), Ended (it is not), for those who wait
//	ready     take
type readAhead struct {
	memory *sharedmem.Region
	slots  [aheadSlots]aheadSlot

	mu      sync.Mutex
	streams [aheadStreams]stream // guarded by mu
	clock   uint64               // guarded by mu
}

// aheadSlot is one page.
type aheadSlot struct {
	mu         sync.Mutex
	arrived    sync.Cond
	key        backends.Key
	generation uint64 // 0: empty
	pending    bool
	length     int
	blob       []byte // of the region; immutable
}

// stream is a sequence of loads.
type stream struct {
	export   uint32
	next     uint64 // the page that continues it
	followed int    // pages that continued it
	until    uint64 // pages before this one were asked for
	window   uint64
	used     uint64 // clock of the last use
}

func newReadAhead() (*readAhead, error) {
	memory, err := sharedmem.NewPrivate("ramster read-ahead", aheadSlots*slotSize)
	if err != nil {
		return nil, err
	}
	a := &readAhead{memory: memory}
	for i := range a.slots {
		a.slots[i].blob = memory.Bytes()[i*slotSize : (i+1)*slotSize]
		a.slots[i].arrived.L = &a.slots[i].mu
	}
	return a, nil
}

// slotSize is wire.MaxBlob in whole lines.
const slotSize = (wire.MaxBlob + 63) / 64 * 64

func (a *readAhead) slot(key backends.Key) *aheadSlot {
	return &a.slots[(key.Page+uint64(key.Export)*61)%aheadSlots]
}

// take gives a page that was read ahead to w, after waiting for it if it is on its
// way.
func (a *readAhead) take(key backends.Key, generation uint64, w *waiter) bool {
	s := a.slot(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.key == key && s.generation == generation && s.pending {
		s.arrived.Wait()
	}
	if s.key != key || s.generation != generation || s.length == 0 {
		return false
	}
	w.length = copy(w.blob[:], s.blob[:s.length])
	s.generation, s.length = 0, 0
	return true
}

// reserve makes a slot expect a page. It returns false if it expects another one, or
// has this one.
func (a *readAhead) reserve(key backends.Key, generation uint64) bool {
	s := a.slot(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pending || s.key == key && s.generation == generation {
		return false
	}
	s.key, s.generation, s.pending, s.length = key, generation, true, 0
	return true
}

// arrive ends what reserve began; a nil blob if the page did not come.
func (a *readAhead) arrive(key backends.Key, generation uint64, blob []byte) {
	s := a.slot(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.key != key || s.generation != generation || !s.pending {
		return
	}
	s.pending, s.length = false, copy(s.blob, blob)
	if s.length == 0 {
		s.generation = 0
	}
	s.arrived.Broadcast()
}

// next says which pages to read ahead now that this one is loaded: none if it does
// not continue a stream.
func (a *readAhead) next(key backends.Key) (first, last uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.clock++
	oldest := 0
	for i := range a.streams {
		s := &a.streams[i]
		if s.used != 0 && s.export == key.Export && key.Page+aheadGap >= s.next && key.Page < s.next+aheadGap {
			if key.Page < s.next {
				return 0, 0 // out of turn
			}
			s.used, s.next = a.clock, key.Page+1
			if s.followed++; s.followed < aheadAfter || s.until > key.Page+s.window/2 {
				return 0, 0 // by chance, or enough is on its way
			}
			s.window = min(max(2*s.window, aheadLeast), aheadMost)
			first = max(s.until, key.Page)
			s.until = first + s.window
			return first, s.until
		}
		if s.used < a.streams[oldest].used {
			oldest = i
		}
	}
	a.streams[oldest] = stream{export: key.Export, next: key.Page + 1, until: key.Page + 1, used: a.clock}
	return 0, 0
}

func (a *readAhead) close() error { return a.memory.Close() }

// aheadRun is one request for pages that are read ahead.
type aheadRun struct {
	ahead       *readAhead
	export      uint32
	first       uint64
	generations [aheadMost]uint64 // by page from first on; 0 where none is expected
}

// Page implements [peer.Sink].
func (r *aheadRun) Page(page, generation uint64, blob []byte) {
	if i := page - r.first; i < aheadMost && r.generations[i] == generation && generation != 0 {
		r.ahead.arrive(backends.Key{Export: r.export, Page: page}, generation, blob)
		r.generations[i] = 0
	}
}

// Ended implements [peer.Sink].
func (r *aheadRun) Ended(error) {
	for i, generation := range r.generations {
		if generation != 0 {
			r.ahead.arrive(backends.Key{Export: r.export, Page: r.first + uint64(i)}, generation, nil)
		}
	}
}

// readAhead asks for the pages that are likely to be loaded next, in one round trip for
// each run that one donor has.
func (c *Cache) readAhead(key backends.Key) {
	first, last := c.ahead.next(key)
	e := (*c.exports.Load())[key.Export]
	if first == last || e == nil {
		return
	}
	var run *aheadRun
	var from *member
	count := 0
	ask := func() {
		if run == nil {
			return
		}
		if err := from.session.Fetch(key.Export, run.first, count, run); err != nil {
			run.Ended(err)
		}
		run = nil
	}
	for page := first; page < last; page++ {
		s, m := c.ownerOf(e, backends.Key{Export: key.Export, Page: page}, from)
		if m == nil {
			continue
		}
		if run != nil && m != from {
			ask()
		}
		if !c.ahead.reserve(backends.Key{Export: key.Export, Page: page}, s.generation) {
			continue
		}
		if run == nil {
			// Garbage, one for each run: it is a long way to another host.
			run, from = &aheadRun{ahead: c.ahead, export: key.Export, first: page}, m
		}
		run.generations[page-run.first] = s.generation
		count = int(page-run.first) + 1
		c.counts.aheadPages.Add(1)
	}
	ask()
}

// ownerOf says which donor to ask for a page, if donors have it: the one given, if it
// has it.
func (c *Cache) ownerOf(e *export, key backends.Key, before *member) (s stub, m *member) {
	if e.ephemeral {
		return c.ownerOfCached(e, key)
	}
	s, _, _, ok := c.stubOf(e, key)
	if !ok {
		return stub{}, nil
	}
	for _, place := range s.donors {
		found := c.members.at[place].Load()
		if found == nil || !c.isBelieved(place) || !found.isUp() {
			continue
		}
		if m == nil || found == before {
			m = found
		}
	}
	return s, m
}
