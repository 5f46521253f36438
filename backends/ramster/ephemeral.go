package ramster

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/arena"
	"github.com/tmemd/tmemd/backends/pageindex"
	"github.com/tmemd/tmemd/backends/sharedmem"
)

// Pages of ephemeral exports go to one donor, and from there they may vanish. The stub is
// there from the start, is the handle, and never changes; so nobody is asked for the page's
// lock, and there is no host to ask. Until the donor has answered, the sealed page is also in
// the flight that the stub names, and is loaded from there:
//
//	state      is in memory here                      left by
//	flying     a stub, and the sealed page in flight  the donor's answer
//	at a donor a stub                                 -
//	gone       nothing                                -
//
// and from each of them to gone by Invalidate; by a donor's answer that is anything but OK; by
// a load that does not get the page, for whatever reason; when the stub's room is needed; and
// when a comparison shows that the donor has dropped it.
//
// Queueing them behind others in the staging area was the other way. There a page whose donor
// is slow would take room from swap until it is found and dropped; here there are
// so many flights, and no more.

const (
	// maxFlying bounds the ephemeral pages that were sent and not answered yet, and half
	// of that those of one donor: one that does not answer is not to keep others idle.
	maxFlying = 512
	// flagUsed is the flag of a stub whose page was loaded since the clock passed it. It
	// has no meaning for other objects: Mark may hit one.
	flagUsed = 2
	// reclaimAtOnce is how many chunks of stubs a store looks through for some that were
	// not used.
	reclaimAtOnce = 8
	// cachedLocks is how many locks there are for changes of pages' stubs.
	cachedLocks = 64
)

// cached is what belongs to pages of ephemeral exports alone.
type cached struct {
	index  *pageindex.Space  // nil until there is such an export; guarded by Cache.exportsMu
	memory *sharedmem.Region // the same; of the flights' pages
	left   []uint32          // pools of theirs that an earlier process may have left at donors; immutable
	others atomic.Bool       // there was an export that is not ephemeral

	flights atomic.Pointer[[maxFlying]*flying] // nil until there is such an export
	idle    chan *flying                       // has room for all

	locks [cachedLocks]sync.Mutex // by page: its stub and its word in the index. Not held while the arena is reclaimed

	dropCold, dropAny arena.Judge // judgeCold and judgeAny, as values; immutable

	pages   atomic.Int64             // stubs
	at      [placeCount]atomic.Int64 // of these, by place
	same    atomic.Int64             // same-filled pages
	dropped atomic.Uint64            // stubs whose room was needed
	gone    atomic.Uint64            // pages that a donor did not give
}

// openCached makes the index of an ephemeral export, and with the first one what they all
// need. REQUIRES: exportsMu held.
func (c *Cache) openCached(id uint32) (*pageindex.Table, error) {
	if !c.ledger.noteCached(id, c.isEphemeral) {
		return nil, fmt.Errorf("there are %d ephemeral exports already", cachedMost)
	}
	if c.cached.index == nil {
		index, err := pageindex.NewSpace("ramster index of cached pages", indexLimit(c.config.Pages), indexLimit(c.config.Pages))
		if err != nil {
			return nil, err
		}
		memory, err := sharedmem.NewPrivate("ramster cached pages in flight", maxFlying*slotSize)
		if err != nil {
			return nil, errors.Join(err, index.Close())
		}
		c.cached.index, c.cached.memory = index, memory
		c.cached.idle = make(chan *flying, maxFlying)
		var all [maxFlying]*flying
		for i := range all {
			all[i] = &flying{cache: c, number: uint16(i), blob: memory.Bytes()[i*slotSize : (i+1)*slotSize]}
			c.cached.idle <- all[i]
		}
		c.cached.flights.Store(&all)
	}
	return c.cached.index.NewTable(nil), nil
}

func (n *cached) close() (err error) {
	if n.index != nil {
		err = errors.Join(n.index.Close(), n.memory.Close())
	}
	return err
}

// isEphemeral says whether the export is one of that sort, and isKept whether it is one of
// the other.
func (c *Cache) isEphemeral(export uint32) bool {
	e := (*c.exports.Load())[export]
	return e != nil && e.ephemeral
}

func (c *Cache) isKept(export uint32) bool {
	e := (*c.exports.Load())[export]
	return e != nil && !e.ephemeral
}

func (c *Cache) countSame(export uint32, n int64) {
	c.same.Add(n)
	if c.isEphemeral(export) {
		c.cached.same.Add(n)
	}
}

func (n *cached) lock(page uint64) *sync.Mutex {
	l := &n.locks[page%cachedLocks]
	l.Lock()
	return l
}

// storeCached is Store for a page of an ephemeral export: it is sealed, and on its way. Its
// generation is taken under the page's lock, which whoever calls Store has.
func (c *Cache) storeCached(e *export, key backends.Key, data []byte) (arena.Ref, backends.Refusal) {
	m := c.choose(key, 1, (*member).spurnsCached).members[0]
	if m == nil || !c.makeCachedRoom() {
		return 0, backends.RefusedFull
	}
	f := c.board(m)
	if f == nil {
		return 0, backends.RefusedBusy
	}
	var w *encoder
	select {
	case w = <-c.encoders:
		defer func() { c.encoders <- w }()
	default:
		f.land()
		return 0, backends.RefusedBusy
	}
	o := w.encode(key, data)
	s := cachedStub{generation: c.ledger.next(), place: uint8(m.place.Load()), flight: f.number}
	blob := c.sealer.seal(&w.seal, o, s.generation)
	var b [stubSize]byte
	ref, ok := c.arena.Put(arena.Object{
		Export: key.Export, Page: key.Page, Codec: codecCached, Sum: o.Sum, Data: s.encode(&b), Droppable: true,
	})
	if !ok {
		f.land()
		return 0, backends.RefusedFull
	}
	f.load(key, ref, s.generation, blob) // before anybody finds the stub
	c.countCached(s, 1)
	lock := c.cached.lock(key.Page)
	ok = e.pages.Set(key.Page, uint64(ref)+1)
	lock.Unlock()
	if !ok || !m.session.Put(key.Export, key.Page, s.generation, blob, f) {
		c.dropCached(key, ref, s.generation)
		f.unload()
		f.land()
		return 0, backends.RefusedBusy
	}
	c.counts.sent.Add(1)
	return ref, backends.Accepted
}

func (c *Cache) countCached(s cachedStub, n int64) {
	c.cached.pages.Add(n)
	c.cached.at[s.place].Add(n)
}

// makeCachedRoom makes room for one more stub, at the cost of others of that sort. It
// returns false if there are none.
func (c *Cache) makeCachedRoom() bool {
	for i := 0; i < reclaimAtOnce && c.isTight() && c.arena.Reclaim(1, c.cached.dropCold) > 0; i++ {
	}
	if c.isTight() {
		c.arena.Reclaim(1, c.cached.dropAny)
	}
	return !c.isTight()
}

// isTight says whether another ephemeral page would soon be in the way.
func (c *Cache) isTight() bool {
	limit := c.config.arenaLimit() / arena.ChunkSize
	return c.stubs.Load()+c.cached.pages.Load() >= c.config.Pages || int64(c.arena.Room()) <= limit/16
}

// judgeCold drops stubs of pages that were not loaded since the last look. It and judgeAny are
// called with a lock of the arena held, see [arena.Judge]. What donors have of these pages
// they drop in their turn, or it is found by comparing.
func (c *Cache) judgeCold(o arena.Object) (flags uint8, drop bool) {
	if o.Flags&flagUsed != 0 {
		return o.Flags &^ flagUsed, false
	}
	return c.judgeAny(o)
}

// judgeAny drops everything.
func (c *Cache) judgeAny(o arena.Object) (flags uint8, drop bool) {
	if s, ok := decodeCached(o); ok {
		c.countCached(s, -1)
	}
	if e := (*c.exports.Load())[o.Export]; e != nil {
		e.pages.Delete(o.Page) // a page has one stub at a time
	}
	c.cached.dropped.Add(1)
	return 0, true
}

// dropCached makes a page gone, if it still is that version.
func (c *Cache) dropCached(key backends.Key, ref arena.Ref, generation uint64) bool {
	defer c.cached.lock(key.Page).Unlock()
	s, _, ok := c.cachedOf(key, ref)
	return ok && s.generation == generation && c.freeCachedLocked(key, ref, s)
}

// freeCachedLocked frees a stub, unless the arena's clock did. Its word goes first: then
// there is none that leads nowhere, but while a page is being stored.
func (c *Cache) freeCachedLocked(key backends.Key, ref arena.Ref, s cachedStub) bool {
	if e := (*c.exports.Load())[key.Export]; e != nil && e.pages.Get(key.Page) == uint64(ref)+1 {
		e.pages.Delete(key.Page)
	}
	if _, ok := c.arena.FreeOf(ref, key.Export, key.Page); !ok {
		return false
	}
	c.countCached(s, -1)
	return true
}

// forgetCached is Invalidate of a page that may be gone.
func (c *Cache) forgetCached(key backends.Key, ref arena.Ref) {
	lock := c.cached.lock(key.Page)
	s, _, ok := c.cachedOf(key, ref)
	ok = c.freeCachedLocked(key, ref, s) && ok
	lock.Unlock()
	// A flight that finds no stub has the donor forget the page.
	if f := c.flightOf(s.flight); ok && !f.carries(key, s.generation) {
		c.flushCached(key, s)
	}
}

// flushCached has the donor forget a page. One that cannot be told drops it when it needs the
// room, or when we compare: that is not worth a comparison of its own.
func (c *Cache) flushCached(key backends.Key, s cachedStub) {
	if m := c.members.at[s.place].Load(); m != nil {
		m.flushCached(key, s.generation)
	}
}

func (m *member) flushCached(key backends.Key, generation uint64) {
	if m.isUp() {
		m.session.Flush(key.Export, key.Page, 1, generation)
	}
}

// loadCached is Load for a page that may be gone. A miss is ErrGone itself, which costs
// nothing. It asks once, and waits for nobody but the one donor, for Config.Deadline.
func (c *Cache) loadCached(key backends.Key, ref arena.Ref, dst []byte) error {
	s, o, ok := c.cachedOf(key, ref)
	if !ok {
		return backends.ErrGone
	}
	if o.Flags&flagUsed == 0 {
		c.arena.Mark(ref, flagUsed, 0)
	}
	w := c.waiters.Get().(*waiter)
	defer c.waiters.Put(w)
	version := stub{generation: s.generation}
	if c.flightOf(s.flight).copyTo(w, key, s.generation) {
		if wrong := c.open(w, key, version, o.Sum, dst); wrong != "" {
			c.dropCached(key, ref, s.generation)
			return corrupt(wrong)
		}
		return nil
	}
	c.readAhead(key)
	if c.ahead.take(key, s.generation, w) && c.open(w, key, version, o.Sum, dst) == "" {
		c.counts.aheadHits.Add(1)
		return nil
	}
	m := c.members.at[s.place].Load()
	has := true // for all we know
	if m != nil && c.isBelieved(s.place) && m.isUp() {
		err := w.ask(m, key, s.generation)
		switch {
		case w.length > 0 && c.open(w, key, version, o.Sum, dst) == "":
			return nil
		case w.length > 0:
			m.rejected.Add(1)
		default:
			has = err != nil
		}
	}
	c.cached.gone.Add(1)
	if c.dropCached(key, ref, s.generation) && has {
		c.flushCached(key, s)
	}
	return backends.ErrGone
}

// ownerOfCached is ownerOf for a page of an ephemeral export.
func (c *Cache) ownerOfCached(e *export, key backends.Key) (stub, *member) {
	s, _, ok := c.cachedAt(e, key)
	if !ok || !c.isBelieved(s.place) || c.flightOf(s.flight).carries(key, s.generation) {
		return stub{}, nil
	}
	m := c.members.at[s.place].Load()
	if m == nil || !m.isUp() {
		return stub{}, nil
	}
	return stub{generation: s.generation}, m
}

// usage is the memory that ephemeral pages take beside the arena.
func (n *cached) usage() (all []sharedmem.Usage) {
	if n.flights.Load() == nil {
		return nil
	}
	index := n.index.Usage() // written before flights
	return append(index[:], n.memory.Usage())
}
