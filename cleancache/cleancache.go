package cleancache

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/tmemd/tmemd/backends"
)

// Cleancache is the registry: which backends there are, and which disks have pools.
// One for each daemon; all methods are safe for concurrent use.
type Cleancache struct {
	log *slog.Logger

	// active is what a put asks, in order. The set it points to never changes; it is
	// replaced under mu.
	active atomic.Pointer[[]*slot]

	// slots finds the backend that a word names. Written under mu.
	slots [MaxBackends]atomic.Pointer[slot]

	mu      sync.Mutex
	pools   map[uint32]*Pool // by id; guarded by mu
	shares  map[UUID]*shared // guarded by mu
	byID    sync.Map         // the same as pools for hosts, who must not wait for mu; written under mu
	offered []backends.Named // what Follow was last told; guarded by mu
}

// slot is a backend that words may name.
type slot struct {
	name    string           // immutable
	owner   int              // immutable: 1 to MaxBackends
	backend backends.Backend // immutable
	local   bool             // immutable: backend.Local()

	inited  map[uint32]bool // pools that it was initialised for; guarded by Cleancache.mu
	failed  bool            // it erred, and gets no puts until it was away; guarded by Cleancache.mu
	leaving bool            // guarded by Cleancache.mu
}

// New returns a registry without backends or pools.
func New(log *slog.Logger) *Cleancache {
	c := &Cleancache{log: log, pools: map[uint32]*Pool{}, shares: map[UUID]*shared{}}
	c.active.Store(&[]*slot{})
	return c
}

// FSConfig describes the pool of a disk.
type FSConfig struct {
	Name  string // the disk's name, for messages
	ID    uint32 // unique among open pools, and distinct from those of swap
	Pages uint64 // 1 to backends.MaxPages
	Mode  Mode   // to begin with
}

// InitFS makes a pool, empty. Backends that are loaded are initialised for it, and
// those that come later will be.
func (c *Cleancache) InitFS(config FSConfig) (*Pool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.initLocked(config)
}

func (c *Cleancache) initLocked(config FSConfig) (*Pool, error) {
	if other := c.pools[config.ID]; other != nil {
		return nil, fmt.Errorf("cache for disk %s: id %d belongs to %s", config.Name, config.ID, other.name)
	}
	p, err := newPool(c, config)
	if err != nil {
		return nil, fmt.Errorf("cache for disk %s: %w", config.Name, err)
	}
	for i := range c.slots {
		if s := c.slots[i].Load(); s != nil && !s.leaving {
			c.initPoolLocked(s, p)
		}
	}
	c.pools[p.id] = p
	c.byID.Store(p.id, p)
	return p, nil
}

// initPoolLocked initialises a backend for a pool. One that refuses has no page of it:
// that is no error (C6).
func (c *Cleancache) initPoolLocked(s *slot, p *Pool) {
	if err := s.backend.Init(p.describe(s)); err != nil {
		c.log.Warn("backend keeps no pages of the disk", "backend", s.name, "disk", p.name, "error", err)
		return
	}
	s.inited[p.id] = true
}

// Follow says which backends take pages from now on, in the order in which they are
// asked; see frontswap's Follower. It calls nothing but their Init.
func (c *Cleancache) Follow(active []backends.Named) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offered = slices.Clone(active)
	for i := range c.slots {
		if s := c.slots[i].Load(); s != nil && !slices.ContainsFunc(active, s.is) {
			s.failed = false // frozen or drained: whoever thaws it has looked at it
		}
	}
	for _, b := range active {
		if c.findLocked(b.Backend) == nil {
			c.addLocked(b)
		}
	}
	c.publishLocked()
}

func (s *slot) is(b backends.Named) bool { return s.backend == b.Backend }

// addLocked makes a slot and initialises the backend for all pools, before a put can
// see it. Without a free slot, which frontswap has as many of, the backend is not used.
func (c *Cleancache) addLocked(b backends.Named) {
	index := 0
	for index < MaxBackends && c.slots[index].Load() != nil {
		index++
	}
	if index == MaxBackends {
		c.log.Warn("backend keeps no pages of disks", "backend", b.Name, "error", "too many backends")
		return
	}
	s := &slot{name: b.Name, owner: index + 1, backend: b.Backend, local: b.Backend.Local(), inited: map[uint32]bool{}}
	for _, p := range c.pools {
		c.initPoolLocked(s, p)
	}
	c.slots[index].Store(s)
}

// publishLocked replaces the set that puts ask.
func (c *Cleancache) publishLocked() {
	var active []*slot
	for _, b := range c.offered {
		if s := c.findLocked(b.Backend); s != nil && !s.failed && !s.leaving {
			active = append(active, s)
		}
	}
	c.active.Store(&active)
}

func (c *Cleancache) findLocked(b backends.Backend) *slot {
	for i := range c.slots {
		if s := c.slots[i].Load(); s != nil && s.backend == b {
			return s
		}
	}
	return nil
}

// Leave drops all pages that a backend has, and lets it go: when it returns, the
// backend is not called from here any more. It does not wait for storage but for the
// requests that are under way.
func (c *Cleancache) Leave(b backends.Backend) {
	c.mu.Lock()
	s := c.findLocked(b)
	if s == nil {
		c.mu.Unlock()
		return
	}
	s.leaving = true
	c.offered = slices.DeleteFunc(slices.Clone(c.offered), s.is)
	c.publishLocked()
	pools := slices.Collect(maps.Values(c.pools))
	c.mu.Unlock()

	for _, p := range pools {
		p.leave(s)
	}
	c.mu.Lock()
	ids := slices.Sorted(maps.Keys(s.inited))
	clear(s.inited)
	c.mu.Unlock()
	for _, id := range ids {
		b.InvalidateArea(id)
	}
	c.mu.Lock()
	c.slots[s.owner-1].Store(nil)
	c.mu.Unlock()
}

// leave drops the pages that the backend has of the pool (C5).
func (p *Pool) leave(s *slot) {
	p.life.RLock()
	defer p.life.RUnlock()
	if p.index.memory.Bytes() == nil {
		return // closed while we waited
	}
	p.Quiesce()
	p.forgetIf(0, p.length, func(w word) bool {
		owner, ok := w.owner()
		return ok && owner == s.owner
	})
}

// forgetPool takes a pool off the books of every backend and returns those that have
// to be told.
func (c *Cleancache) forgetPool(id uint32) (told []*slot) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.slots {
		if s := c.slots[i].Load(); s != nil && s.inited[id] {
			delete(s.inited, id)
			told = append(told, s)
		}
	}
	return told
}

// fail takes a backend that erred out of the set. Its pages are asked for as before.
func (c *Cleancache) fail(s *slot, cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.failed {
		return
	}
	s.failed = true
	c.publishLocked()
	c.log.Error("backend failed and gets no more pages of disks", "backend", s.name, "error", cause)
}

// ErrNotAuthorised is what InitSharedFS fails with for a name that nobody may use.
var ErrNotAuthorised = errors.New("not authorised to share pages under this name")
