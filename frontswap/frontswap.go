package frontswap

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/latency"
	"github.com/tmemd/tmemd/backends/sharedmem"
)

// Frontswap is the registry: which backends there are, which areas are open,
// and the list of those that take stores now. One for each daemon; all methods
// are safe for concurrent use.
type Frontswap struct {
	log    *slog.Logger
	memory *sharedmem.Folder        // immutable: where maps are, or nil
	record func([]Registered) error // immutable: see Config.Record
	follow Follower                 // immutable: see Config.Follower

	// active is what a store asks, in order. The set it points to never changes;
	// it is replaced under mu.
	active atomic.Pointer[activeSet]

	// slots finds the backend of an Owner. Written under mu.
	slots [MaxBackends]atomic.Pointer[slot]

	// balancing is held to compute shares; taken before mu.
	balancing sync.Mutex
	full      float64 // bytes that all clients took when a backend was full last; guarded by balancing

	mu      sync.Mutex
	clients map[string]*Client // by name; guarded by mu
	domains uint32             // clients made so far; guarded by mu
	areas   map[uint32]*Area   // open areas by id; guarded by mu
	byID    sync.Map           // the same for hosts, who must not wait for mu: uint32 to *Area; written under mu
}

// activeSet is an immutable list of backends that take stores.
type activeSet struct {
	slots []*slot
	ranks []int // the slots' order when the set was made
	local bool  // there is a backend, and no Store among them waits
}

// after returns the backends that pages of from move on to: those that are
// asked later, and one that replaces it.
func (s *activeSet) after(from *slot, rank int) []*slot {
	for i, other := range s.slots {
		if s.ranks[i] >= rank && other != from {
			return s.slots[i:]
		}
	}
	return nil
}

// slot is one registered backend.
type slot struct {
	name    string           // immutable
	owner   Owner            // immutable
	backend backends.Backend // immutable
	local   bool             // immutable: backend.Local()

	state  State           // guarded by Frontswap.mu
	reason string          // why it is not simply active; guarded by Frontswap.mu
	inited map[uint32]bool // areas it was initialised for; guarded by Frontswap.mu
	order  int             // stores ask the lowest first; guarded by Frontswap.mu
	move   *move           // the latest move of its pages, or nil; guarded by Frontswap.mu

	restored Registered // what it was before a takeover; immutable

	loads, stores latency.Histogram // of the pages that latency.Sampled picks

	leaving bool // no word names it any more; guarded by Frontswap.mu

	hand hand // owned by the move that runs

	owed        atomic.Bool   // clients inside their share want memory of it, and others are above theirs
	contended   atomic.Bool   // it asked for pages to be evicted lately, and there are several clients
	contendedAt time.Time     // when it did so last; guarded by Frontswap.balancing
	headroom    atomic.Uint64 // bytes that are for clients inside their share

	loadErrors atomic.Uint64
	evicted    atomic.Uint64 // pages moved on because the backend asked for it
	refaults   atomic.Uint64 // of these, pages that came straight back
}

// Config says what a registry is made of.
type Config struct {
	Log *slog.Logger

	// Memory is where page maps are kept for a process that takes over, or nil.
	Memory *sharedmem.Folder

	// Record is called with the backends that words of a map may name, whenever
	// they, their order or their state change; before the first word can name a new
	// one, and after the last word named one that goes, before that is closed. If
	// a new one cannot be recorded it is not loaded; other errors are logged. It is
	// called with a lock held and must call nothing of this package. It may be nil.
	Record func([]Registered) error

	// Follower is told which backends there are, or nil.
	Follower Follower
}

// Follower keeps pages of its own in the backends, beside those of swap: what
// cleancache is for disks.
type Follower interface {
	// Follow says which backends take pages from now on, in the order in which they
	// are asked. It is called whenever that changes, with a lock held, and must call
	// nothing of this package.
	Follow(active []backends.Named)

	// Leave is called before a backend is closed, which is not among the active any
	// more. When it returns, the follower has dropped its pages and areas, and does
	// not call the backend again.
	Leave(b backends.Backend)
}

// nobody is the Follower where there is none.
type nobody struct{}

func (nobody) Follow([]backends.Named) {}
func (nobody) Leave(backends.Backend)  {}

// New returns a registry without backends or areas, of memory that ends with the
// process.
func New(log *slog.Logger) *Frontswap { return Open(Config{Log: log}) }

// Open returns a registry without backends or areas.
func Open(c Config) *Frontswap {
	f := &Frontswap{log: c.Log, memory: c.Memory, record: c.Record, follow: c.Follower, areas: map[uint32]*Area{}, clients: map[string]*Client{}}
	f.clients[DefaultClient] = newClient(f, DefaultClient, Quota{Weight: 1})
	if f.follow == nil {
		f.follow = nobody{}
	}
	if f.record == nil {
		f.record = func([]Registered) error { return nil }
	}
	f.active.Store(&activeSet{})
	return f
}

// Register loads a backend under a name of its own: it is initialised for
// every open area, then offered every page that is stored from now on. An
// error leaves no trace of it, and the backend belongs to the caller again.
func (f *Frontswap) Register(name string, b backends.Backend) error {
	f.mu.Lock()
	last := 0
	for _, s := range f.slotsLocked() {
		last = max(last, s.order+1)
	}
	undo, err := f.registerLocked(name, b, last)
	f.mu.Unlock()
	for _, id := range undo {
		b.InvalidateArea(id)
	}
	return err
}

// registerLocked is Register at a given place of the order. After an error the
// caller tells the backend to forget the areas in undo, without mu.
// REQUIRES: mu held.
func (f *Frontswap) registerLocked(name string, b backends.Backend, order int) (undo []uint32, err error) {
	if f.findLocked(name) != nil {
		return nil, fmt.Errorf("load backend %s: %w", name, ErrExists)
	}
	index := 0
	for index < MaxBackends && f.slots[index].Load() != nil {
		index++
	}
	if index == MaxBackends {
		return nil, fmt.Errorf("load backend %s: all %d places are taken", name, MaxBackends)
	}
	s := &slot{
		name: name, owner: firstBackendOwner + Owner(index), backend: b, local: b.Local(),
		order: order, state: StateRegistered, inited: map[uint32]bool{},
	}
	for _, a := range f.areas {
		if err := b.Init(a.describe(s)); err != nil {
			return undo, fmt.Errorf("load backend %s: initialise for export %s: %w", name, a.name, err)
		}
		s.inited[a.id] = true
		undo = append(undo, a.id)
	}
	if err := s.moveLocked(StateActive, ""); err != nil {
		return undo, err
	}
	if err := f.record(append(f.registeredLocked(), s.registered())); err != nil {
		return undo, fmt.Errorf("load backend %s: %w", name, err)
	}
	// The slot before the set: a store that sees the set commits words that a
	// load must be able to follow.
	f.slots[index].Store(s)
	f.duesLocked()
	f.publishLocked()
	f.log.Info("backend loaded", "backend", name, "kind", b.Kind(), "areas", len(f.areas))
	return nil, nil
}

// publishLocked replaces the set that stores ask by the backends that are
// active. REQUIRES: mu held.
func (f *Frontswap) publishLocked() {
	next := &activeSet{local: true}
	var active []backends.Named
	for _, s := range f.slotsLocked() {
		if s.state == StateActive {
			next.slots = append(next.slots, s)
			next.ranks = append(next.ranks, s.order)
			next.local = next.local && s.local
			active = append(active, backends.Named{Name: s.name, Backend: s.backend})
		}
	}
	next.local = next.local && len(next.slots) > 0
	f.active.Store(next)
	f.follow.Follow(active)
}

// forgetAreas takes the areas that s was initialised for off its books; the
// caller tells the backend, without mu.
func (f *Frontswap) forgetAreas(s *slot) []uint32 {
	f.mu.Lock()
	defer f.mu.Unlock()
	ids := slices.Sorted(maps.Keys(s.inited))
	clear(s.inited)
	return ids
}

// OpenArea opens a swap area. Backends that are loaded are initialised for it;
// one that cannot be refuses its pages, and the area works without it.
func (f *Frontswap) OpenArea(c AreaConfig) (*Area, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if other := f.areas[c.ID]; other != nil {
		return nil, fmt.Errorf("open area %s: id %d belongs to %s", c.Name, c.ID, other.name)
	}
	client := f.clients[cmp.Or(c.Client, DefaultClient)]
	if client == nil {
		return nil, fmt.Errorf("open area %s: client %s: %w", c.Name, c.Client, ErrNoClient)
	}
	a, err := newArea(f, client, c)
	if err != nil {
		return nil, err
	}
	if c.Takeover {
		// With mu held for as long as it takes: nobody else is about yet.
		if err := a.adopt(); err != nil {
			return nil, errors.Join(fmt.Errorf("open area %s: %w", c.Name, err), a.memory.Leave())
		}
	}
	for i := range f.slots {
		s := f.slots[i].Load()
		if s == nil || s.state != StateActive && s.state != StateFrozen {
			continue
		}
		if err := s.backend.Init(a.describe(s)); err != nil {
			f.log.Warn("backend cannot serve the export", "backend", s.name, "export", c.Name, "error", err)
			continue
		}
		s.inited[a.id] = true
	}
	f.areas[c.ID] = a
	f.byID.Store(c.ID, a)
	client.joinLocked(a)
	return a, nil
}

// describe REQUIRES: Frontswap.mu held.
func (a *Area) describe(s *slot) backends.Export {
	export := backends.Export{ID: a.id, Name: a.name, Pages: a.Pages(), Host: host{f: a.fs, s: s}}
	if a.client.quota.Dedup {
		export.Dedup = a.client.domain
	}
	return export
}

// Close closes the area (the kernel's invalidate_area): backends drop its
// pages and are told once, then the map is gone. If the memory is left for another
// process (sharedmem's Folder.Leave), pages and map stay as they are. REQUIRES: no request is or
// will be under way. It waits for drains to leave the area.
func (a *Area) Close() error {
	a.closing.Store(true)
	defer close(a.closed)
	a.life.Lock()
	defer a.life.Unlock()
	release := (*sharedmem.Region).Close
	switch {
	case a.adoption != nil: // nothing is changed before Resume
		release = (*sharedmem.Region).Leave
	case !a.fs.memory.Left():
		a.invalidateArea()
	}

	for _, s := range a.fs.forgetArea(a.id) {
		s.backend.InvalidateArea(a.id)
	}
	// Only now may an unload overlook the area: the backend it closes is not
	// called from here any more.
	a.fs.mu.Lock()
	delete(a.fs.areas, a.id)
	a.fs.byID.Delete(a.id)
	a.client.leaveLocked(a)
	a.fs.mu.Unlock()
	a.words.Store(new([]atomic.Uint64))
	return release(a.memory)
}

// forgetArea takes an area off the books of every backend and returns those
// that have to be told.
func (f *Frontswap) forgetArea(id uint32) (told []*slot) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.slotsLocked() {
		if s.inited[id] {
			delete(s.inited, id)
			told = append(told, s)
		}
	}
	return told
}

// fail takes a backend that erred out of the set. Its pages stay.
func (f *Frontswap) fail(s *slot, cause error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	// Not active any more: an earlier error or an unload was first.
	if s.state != StateActive || s.moveLocked(StateFailed, cause.Error()) != nil {
		return
	}
	f.publishLocked()
	f.recordLocked()
	f.log.Error("backend failed and takes no more pages", "backend", s.name, "error", cause)
}

// loadFailed records that a page could not be loaded. Only powers of two are
// logged, so that a broken backend cannot flood the log.
func (f *Frontswap) loadFailed(a *Area, page uint64, s *slot, cause error) {
	if s == nil {
		f.log.Error("page lost", "export", a.name, "page", page, "error", cause)
		return
	}
	if n := s.loadErrors.Add(1); n&(n-1) == 0 {
		f.log.Error("page cannot be loaded", "export", a.name, "page", page, "backend", s.name, "errors", n, "error", cause)
	}
	// A damaged page says nothing about the others; a backend that cannot load
	// for another reason should not get more.
	if !errors.Is(cause, backends.ErrCorrupt) && !errors.Is(cause, backends.ErrTransient) {
		f.fail(s, cause)
	}
}
