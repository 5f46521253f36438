package cleancache

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/pagelock"
	"github.com/tmemd/tmemd/backends/sharedmem"
)

// BlockPages is how many pages may be locked at once, see package pagelock.
const BlockPages = pagelock.BlockPages

// Mode says what becomes of a page that was got.
type Mode int32

// The modes.
const (
	Inclusive Mode = iota // it stays
	Exclusive             // it leaves: the client has it now
)

var modeNames = [...]string{"inclusive", "exclusive"}

// String returns the mode as the configuration spells it.
func (m Mode) String() string { return modeNames[m] }

// ParseMode is the inverse of String.
func ParseMode(text string) (Mode, error) {
	for m, name := range modeNames {
		if name == text {
			return Mode(m), nil
		}
	}
	return 0, fmt.Errorf("%q is no mode: it is inclusive or exclusive", text)
}

// Pool is the clean pages of one disk, or of all disks that share them, with their
// locks. Methods say which lock of the page the caller holds.
type Pool struct {
	c      *Cleancache // immutable
	name   string      // immutable
	id     uint32      // immutable
	length uint64      // pages; immutable

	*pagelock.Locks // immutable
	index           *index

	mode atomic.Int32

	// life is held for reading by whoever walks the index outside a request, and for
	// writing by InvalidateFS.
	life sync.RWMutex

	pages    [MaxBackends]atomic.Int64 // words that name each backend
	counters counters

	shared *shared // that it is, or nil
}

type counters struct {
	succGets, failedGets, puts, invalidates atomic.Uint64
}

// Counters is a snapshot of a pool's counters, with the kernel's meanings.
type Counters struct {
	SuccGets    uint64 // hits
	FailedGets  uint64 // misses
	Puts        uint64 // pages offered, kept or not
	Invalidates uint64 // calls of InvalidatePage
}

// Stats is a pool's account of itself.
type Stats struct {
	Counters
	Mode     Mode
	Backends map[string]int64 // pages by backend, by its name; forgotten ones included that nobody asked for since
	Users    int              // disks that use the pool
	Memory   sharedmem.Usage
}

func newPool(c *Cleancache, config FSConfig) (*Pool, error) {
	if config.Pages == 0 || config.Pages > backends.MaxPages {
		return nil, fmt.Errorf("%d pages is not between 1 and %d", config.Pages, uint64(backends.MaxPages))
	}
	x, err := newIndex(config.Pages)
	if err != nil {
		return nil, err
	}
	p := &Pool{c: c, name: config.Name, id: config.ID, length: config.Pages, Locks: pagelock.New(config.Pages), index: x}
	p.SetMode(config.Mode)
	return p, nil
}

// ID is the number that backends know its pages by.
func (p *Pool) ID() uint32 { return p.id }

// Pages is the pool's length in pages.
func (p *Pool) Pages() uint64 { return p.length }

// Mode says what becomes of a page that was got.
func (p *Pool) Mode() Mode { return Mode(p.mode.Load()) }

// SetMode changes the mode, from the next get on.
func (p *Pool) SetMode(m Mode) { p.mode.Store(int32(m)) }

// Stats returns a snapshot.
func (p *Pool) Stats() Stats {
	s := Stats{
		Counters: Counters{
			SuccGets: p.counters.succGets.Load(), FailedGets: p.counters.failedGets.Load(),
			Puts: p.counters.puts.Load(), Invalidates: p.counters.invalidates.Load(),
		},
		Mode: p.Mode(), Backends: map[string]int64{}, Users: 1, Memory: p.index.memory.Usage(),
	}
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	if p.shared != nil {
		s.Users = p.shared.users
	}
	for i := range p.c.slots {
		if b := p.c.slots[i].Load(); b != nil {
			s.Backends[b.name] = max(p.pages[i].Load(), 0)
		}
	}
	return s
}

func (p *Pool) describe(s *slot) backends.Export {
	return backends.Export{ID: p.id, Name: p.name, Pages: p.length, Ephemeral: true, Host: host{c: p.c, s: s}}
}

// InvalidateFS ends the use of the pool: with its last user all pages are dropped,
// and the backends forget it. REQUIRES: no request of the caller's is or will be
// under way.
func (p *Pool) InvalidateFS() error {
	if !p.c.endUse(p) {
		return nil
	}
	p.life.Lock()
	defer p.life.Unlock()
	p.forgetIf(0, p.length, func(word) bool { return true })
	for _, s := range p.c.forgetPool(p.id) {
		s.backend.InvalidateArea(p.id)
	}
	// Only now may Leave overlook the pool: the backend that is closed then is not
	// called from here any more.
	p.c.mu.Lock()
	delete(p.c.pools, p.id)
	p.c.byID.Delete(p.id)
	p.c.mu.Unlock()
	return p.index.memory.Close()
}
