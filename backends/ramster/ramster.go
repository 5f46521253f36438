package ramster

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/arena"
	"github.com/tmemd/tmemd/backends/packed"
	"github.com/tmemd/tmemd/backends/pageindex"
	"github.com/tmemd/tmemd/backends/samefilled"
)

// Kind is what [Cache.Kind] returns.
const Kind = "ramster"

const (
	arenaPurpose = "ramster arena"
	indexPurpose = "ramster index"
)

// Cache is other hosts' memory, with a staging area before it.
type Cache struct {
	config Config // immutable
	arena  *arena.Arena
	ledger *ledger
	index  *pageindex.Space
	sealer sealer

	unpacker atomic.Pointer[packed.Decoder] // nil until it is needed

	// connect makes the session to a donor. Immutable.
	connect func(*member) (session, error)

	// exports is the set of initialised exports. It is replaced, not changed.
	exports   atomic.Pointer[map[uint32]*export]
	exportsMu sync.Mutex  // held to replace exports and background
	closed    atomic.Bool // written with members.mu held

	background atomic.Pointer[background] // the goroutines' owner while there is something for them to do
	before     *background                // the last one that there was; guarded by exportsMu
	evictions  sync.WaitGroup             // calls of Host.Evict under way

	members members
	changed signal        // a donor came, went, or has other room
	keeper  chan struct{} // wakes the keeper

	staged      chan staged // pages that wait to be sent
	stagedBytes atomic.Int64
	forgotten   atomic.Bool // staged pages may be missing in the queue
	stubs       atomic.Int64
	flights     flights
	encoders    chan *encoder // idle ones
	waiters     sync.Pool     // *waiter
	turn        atomic.Uint64 // counts loads from donors
	ahead       *readAhead
	home        home
	cached      cached // pages of ephemeral exports

	adopting *adopting          // from Open to Adopted, which one goroutine calls
	adopted  map[uint32]*export // from Adopted to each one's Init; guarded by exportsMu
	opened   time.Time          // when donors were first connected to; not changed once there is an export

	same    atomic.Int64 // same-filled pages held
	lost    atomic.Int64 // pages that no donor has any more, as of the last look
	corrupt atomic.Uint64
	refused [backends.Refusals]atomic.Uint64
	counts  counts
}

// counts are the counters of what happened that backends.Stats has no name for.
type counts struct {
	sent, sentAgain, repaired, orphans, aheadPages, aheadHits, secondCopy, waited, evicted atomic.Uint64
}

// export is an initialised export.
type export struct {
	pages     *pageindex.Table // of pages that donors have: arena.Ref + 1 of the stub
	ephemeral bool             // immutable
	host      backends.Host    // or nil; immutable once the export is in the set
	charge    backends.Charge  // of its pages, unless it is ephemeral

	life   sync.RWMutex // held for reading by the keeper while it uses pages, for writing to end it
	closed atomic.Bool  // it is about to end
}

var _ backends.Backend = (*Cache)(nil)

// New makes an empty cache, and connects to the donors in the background.
func New(config Config) (*Cache, error) {
	return create(config, (*Cache).connectPeer)
}

func create(config Config, connect func(*Cache, *member) (session, error)) (*Cache, error) {
	config = config.withDefaults()
	fail := func(err error) (*Cache, error) { return nil, fmt.Errorf("create ramster: %w", err) }
	if err := config.validate(); err != nil {
		return fail(err)
	}
	limit := config.arenaLimit()
	a, err := arena.Create(config.Memory, arenaPurpose, limit, limit)
	if err != nil {
		return fail(err)
	}
	l, err := createLedger(config.Memory, config.Identity, config.Log.Warn)
	if err != nil {
		return fail(errors.Join(err, a.Close()))
	}
	c, err := assemble(config, a, l, connect)
	if err != nil {
		return fail(errors.Join(err, a.Close(), l.close()))
	}
	if err := c.addDonors(); err != nil {
		return fail(errors.Join(err, c.Close()))
	}
	return c, nil
}

func assemble(config Config, a *arena.Arena, l *ledger, connect func(*Cache, *member) (session, error)) (*Cache, error) {
	sealer, err := newSealer(l.key())
	if err != nil {
		return nil, err
	}
	// A leaf of the index has 512 pages; runs of pages share one.
	index, err := pageindex.NewSpace(indexPurpose, indexLimit(config.Pages), indexLimit(config.Pages))
	if err != nil {
		return nil, err
	}
	ahead, err := newReadAhead()
	if err != nil {
		return nil, errors.Join(err, index.Close())
	}
	c := &Cache{
		opened: time.Now(), config: config, arena: a, ledger: l, index: index, sealer: sealer, ahead: ahead,
		keeper:   make(chan struct{}, 1),
		staged:   make(chan staged, config.Staging/stagedEach),
		encoders: newEncoders(),
	}
	c.connect = func(m *member) (session, error) { return connect(c, m) }
	c.cached.dropCold, c.cached.dropAny = c.judgeCold, c.judgeAny
	c.waiters.New = func() any { return newWaiter() }
	c.flights.init(c)
	c.exports.Store(&map[uint32]*export{})
	c.members.list.Store(&[]*member{})
	return c, nil
}

// indexLimit has room for pages in runs, twice over, and some that lie alone.
func indexLimit(pages int64) int64 { return 2*8*pages + 16<<20 }

func (c *Cache) addDonors() error {
	for _, d := range c.config.Donors {
		if err := c.AddDonor(d); err != nil {
			return err
		}
	}
	return nil
}

// Kind returns "ramster".
func (c *Cache) Kind() string { return Kind }

// Local returns false: loads wait for the network.
func (c *Cache) Local() bool { return false }

// Init makes the export known to us and to donors. The first one with a host, or that
// is ephemeral, starts the background work.
func (c *Cache) Init(e backends.Export) error {
	c.exportsMu.Lock()
	defer c.exportsMu.Unlock()
	old := *c.exports.Load()
	if old[e.ID] != nil {
		return fmt.Errorf("init ramster for export %d: it is initialised already", e.ID)
	}
	if e.Pages > backends.MaxPages {
		return fmt.Errorf("init ramster for export %d: %d pages are more than %d", e.ID, e.Pages, uint64(backends.MaxPages))
	}
	exports := maps.Clone(old)
	if e.Ephemeral {
		pages, err := c.openCached(e.ID)
		if err != nil {
			return fmt.Errorf("init ramster for export %d: %w", e.ID, err)
		}
		exports[e.ID] = &export{pages: pages, ephemeral: true}
	} else {
		exports[e.ID] = c.takeAdopted(e.ID)
		exports[e.ID].host = e.Host
		c.cached.others.Store(true)
		c.ledger.unnoteCached(e.ID)
	}
	c.members.mu.Lock()
	c.exports.Store(&exports)
	for _, m := range *c.members.list.Load() {
		m.openPool(e.ID, e.Ephemeral)
	}
	c.members.mu.Unlock()
	if b := c.followExportsLocked(exports); b != nil {
		b.cancel() // the next one waits for it
	}
	return nil
}

// InvalidateArea forgets the export, here and at the donors. With the last one the
// background work ends, and with the last one that has a host what turns to it.
func (c *Cache) InvalidateArea(id uint32) {
	for _, m := range *c.members.list.Load() {
		m.destroy(id)
	}
	c.forgetExports(func(other uint32, _ *export) bool { return other == id }).stop()
	c.arena.Scrub(func(o arena.Object) bool { return o.Export == id })
}

// forgetExports returns the background to be stopped, or nil: without a lock, as
// Init may be called by somebody whom it has to wait for.
func (c *Cache) forgetExports(which func(uint32, *export) bool) *background {
	c.exportsMu.Lock()
	defer c.exportsMu.Unlock()
	old := *c.exports.Load()
	exports := maps.Clone(old)
	maps.DeleteFunc(exports, which)
	c.members.mu.Lock()
	c.exports.Store(&exports)
	c.members.mu.Unlock()
	for id, e := range old {
		if exports[id] == nil {
			e.closed.Store(true)
			e.life.Lock()
			e.pages.Free()
			e.life.Unlock()
		}
	}
	return c.followExportsLocked(exports)
}

// followExportsLocked has the background that these exports need. It returns the one
// that is to be stopped, or nil. REQUIRES: exportsMu held.
func (c *Cache) followExportsLocked(exports map[uint32]*export) *background {
	var host backends.Host
	needed := false
	for _, e := range exports {
		if e.host != nil {
			host = e.host
		}
		needed = needed || e.ephemeral || e.host != nil
	}
	now := c.background.Load()
	if now == nil && !needed || now != nil && needed && (now.host != nil) == (host != nil) {
		return nil
	}
	var next *background
	if needed {
		next = startBackground(c, host, c.before)
		c.before = next
	}
	return c.background.Swap(next)
}

// Invalidate forgets the page, here at once and at its donors soon.
func (c *Cache) Invalidate(key backends.Key, handle backends.Handle) {
	if samefilled.Is(handle) {
		c.countSame(key.Export, -1)
		return
	}
	ref := arena.Ref(handle)
	if c.isEphemeral(key.Export) {
		c.forgetCached(key, ref)
		return
	}
	o, ok := c.arena.Get(ref)
	if !ok || o.Export != key.Export || o.Page != key.Page {
		return // a handle that is not live
	}
	c.charge(key.Export, -c.arena.SizeOf(ref))
	if s, remote := decodeStub(o); remote {
		c.unlinkStub(key, ref, s)
		c.flush(key, s)
		return
	}
	c.flights.drop(ref)
	if isHome(o) {
		if size := stagedSlot(len(o.Data)); c.arena.Free(ref) {
			c.home.bytes.Add(-size)
		}
		return
	}
	c.forgetStaged(ref, len(o.Data))
}

// flush has donors forget a version of a page. What they cannot be told now they are
// told when the keeper compares.
func (c *Cache) flush(key backends.Key, s stub) {
	for _, place := range s.donors {
		if m := c.members.at[place].Load(); m != nil {
			m.flush(key, s.generation)
		}
	}
}

// putStub makes the stub of a page. REQUIRES: the page's lock.
func (c *Cache) putStub(o arena.Object, s stub) (arena.Ref, bool) {
	e := (*c.exports.Load())[o.Export]
	if e == nil {
		return 0, false
	}
	var b [stubSize]byte
	o.Codec, o.Flags, o.Data = codecRemote, 0, s.encode(&b)
	ref, ok := c.put(o)
	if !ok {
		return 0, false
	}
	if !e.pages.Set(o.Page, uint64(ref)+1) {
		c.arena.Free(ref)
		return 0, false
	}
	c.countStub(s, 1)
	return ref, true
}

func (c *Cache) countStub(s stub, n int64) {
	c.stubs.Add(n)
	for _, place := range s.donors {
		c.members.stubs[place].Add(n) // place 0 too, which nobody looks at
	}
}

func (c *Cache) forgetStub(ref arena.Ref, s stub) {
	if c.arena.Free(ref) {
		c.countStub(s, -1)
	}
}

// unlinkStub is forgetStub for a stub that the index may lead to.
// REQUIRES: the page's lock, or that nobody has the handle.
func (c *Cache) unlinkStub(key backends.Key, ref arena.Ref, s stub) {
	if e := (*c.exports.Load())[key.Export]; e != nil && e.pages.Get(key.Page) == uint64(ref)+1 {
		e.pages.Delete(key.Page)
	}
	c.forgetStub(ref, s)
}

func (c *Cache) forgetStaged(ref arena.Ref, length int) {
	if c.arena.Free(ref) {
		c.stagedBytes.Add(-stagedSlot(length))
	}
}

// Close ends the background work and the sessions, and gives all memory back.
func (c *Cache) Close() error {
	c.forgetExports(func(uint32, *export) bool { return true }).stop()
	c.evictions.Wait()
	c.members.mu.Lock()
	c.closed.Store(true)
	list := *c.members.list.Load()
	c.members.mu.Unlock()
	c.sayGoodbye(list, c.farewell())
	var errs []error
	for _, m := range list {
		errs = append(errs, m.session.Close())
	}
	errs = append(errs, c.arena.Close(), c.index.Close(), c.ahead.close(), c.cached.close())
	if c.adopting != nil {
		errs = append(errs, c.ledger.leave())
	} else {
		errs = append(errs, c.ledger.close())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close ramster: %w", err)
	}
	return nil
}

// goodbye is how long Close waits for donors to hear what they are to forget, and
// goodbyeCached if that is nothing but pages which they drop by themselves when they need
// the room: an instant for those that answer.
const (
	goodbye       = 2 * time.Second
	goodbyeCached = 100 * time.Millisecond
)

// farewell says which of the two it is.
func (c *Cache) farewell() time.Duration {
	if c.cached.others.Load() {
		return goodbye
	}
	return goodbyeCached
}

// sayGoodbye waits until donors in reach have been told everything. Those that are
// not told keep pages that nobody will ask for until we connect with another epoch.
func (c *Cache) sayGoodbye(list []*member, wait time.Duration) {
	for deadline := time.Now().Add(wait); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if !slices.ContainsFunc(list, func(m *member) bool { return m.isUp() && (!m.retell() || m.session.Stats().Waiting > 0) }) {
			return
		}
	}
}

func (c *Cache) count(refusal backends.Refusal) backends.Refusal {
	c.refused[refusal].Add(1)
	return refusal
}
