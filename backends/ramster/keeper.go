package ramster

import (
	"slices"
	"time"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/arena"
	"github.com/tmemd/tmemd/backends/ramster/wire"
)

const (
	// keepEvery is how often the keeper looks around when nobody wakes it.
	keepEvery = time.Second
	// evictMost is how many pages the host is asked for at once.
	evictMost = 4096
)

// keep makes true, again and again, what donors and stubs say of each other.
func (b *background) keep() {
	k := &keeper{background: b}
	timer := time.NewTimer(keepEvery)
	defer timer.Stop()
	for {
		select {
		case <-b.ctx.Done():
			return
		case <-b.keeper:
			k.pause, k.notBefore = 0, time.Time{} // something changed
		case <-timer.C:
		}
		timer.Reset(keepEvery)
		k.findStaged()
		for _, m := range *b.members.list.Load() {
			m.retell()
			if m.downFor() > b.config.Lost {
				m.session.Abandon() // pages that were under way to it go elsewhere
			}
			if time.Since(m.compared) > b.config.Compare {
				m.debt.Store(true) // who has lost pages and does not say so is found out
			}
			if m.isUp() && m.debt.Swap(false) {
				m.compared = time.Now()
				if !k.compare(m) {
					m.debt.Store(true)
				}
			}
		}
		if k.mustRepair() && !time.Now().Before(k.notBefore) {
			k.repair()
		}
		k.retire()
		k.commute()
	}
}

// keeper is the working memory of that goroutine.
type keeper struct {
	*background
	listed  [wire.MaxList]wire.Listed
	waiter  *waiter
	page    [backends.PageSize]byte
	blob    [wire.MaxBlob]byte
	owed    time.Duration // pause that the rate asks for
	refs    []arena.Ref
	blocked int  // pages of donors that are to give them up, which no other one takes
	thin    bool // there are pages with fewer copies than there should be

	// A walk that did nothing is not done again so soon.
	pause     time.Duration
	notBefore time.Time
}

// findStaged fills the queue with staged pages if some may be missing there. Those
// that are there twice are sent once: see sender.send.
func (k *keeper) findStaged() {
	if !k.forgotten.Swap(false) {
		return
	}
	for n := range k.arena.Chunks() {
		k.refs = k.arena.Refs(n, k.refs[:0])
		for _, ref := range k.refs {
			o, ok := k.arena.Snapshot(ref, nil)
			if ok && isStaged(o) && !k.flights.has(ref) {
				k.restage(staged{backends.Key{Export: o.Export, Page: o.Page}, ref})
			}
		}
	}
}

// compare makes the pages that a donor has, and those that stubs say it has, the same:
// what nobody knows of is flushed, and what is not there is taken out of stubs. It
// returns false if it did not get through.
func (k *keeper) compare(m *member) bool {
	place := uint8(m.place.Load())
	all := true
	for id, e := range *k.exports.Load() {
		e.life.RLock()
		all = k.compareExport(m, place, id, e) && all
		e.life.RUnlock()
	}
	return all
}

func (k *keeper) compareExport(m *member, place uint8, id uint32, e *export) bool {
	for from := uint64(0); from < wire.MaxPages; {
		if e.closed.Load() {
			return true
		}
		n, next, err := m.session.List(k.ctx, id, from, k.listed[:])
		if err != nil {
			return false
		}
		listed := k.listed[:n]
		for _, l := range listed {
			key := backends.Key{Export: id, Page: l.Page}
			// In this order: what lands meanwhile has its stub before it leaves the air.
			if k.flights.carry(key, l.Generation) {
				continue
			}
			if s, _, _, ok := k.stubOf(e, key); ok && s.generation == l.Generation && s.names(place) {
				continue
			}
			if !m.session.Flush(id, l.Page, 1, l.Generation) {
				return false
			}
			k.counts.orphans.Add(1)
		}
		if !k.compareStubs(m, place, id, e, from, next, listed) {
			return false
		}
		from = next
	}
	return true
}

// compareStubs looks for stubs of pages from to before next that name the donor and
// are not in its list.
func (k *keeper) compareStubs(m *member, place uint8, id uint32, e *export, from, next uint64, listed []wire.Listed) (ok bool) {
	ok = true
	e.pages.Range(from, func(page, _ uint64) bool {
		if page >= next || k.ctx.Err() != nil {
			return false
		}
		key := backends.Key{Export: id, Page: page}
		s, o, ref, found := k.stubOf(e, key)
		if !found || !s.names(place) {
			return true
		}
		at, there := slices.BinarySearchFunc(listed, page, func(l wire.Listed, page uint64) int {
			return int(int64(l.Page) - int64(page))
		})
		if there && listed[at].Generation == s.generation {
			return true
		}
		// It may have come after the list was made.
		switch there, sure := k.has(m, key, s); {
		case !sure:
			ok = false
			return false
		case there:
			return true
		}
		if !k.replaceStub(ref, o, s, s.without(place)) {
			ok = false // in use just now: the next comparison sees it
			return true
		}
		m.missing.Add(1)
		k.thin = true
		return true
	})
	return ok
}

// has asks the donor whether it has a page; sure is false if it does not answer.
func (k *keeper) has(m *member, key backends.Key, s stub) (there, sure bool) {
	if k.waiter == nil {
		k.waiter = newWaiter()
	}
	w := k.waiter
	w.page, w.generation, w.length = key.Page, s.generation, 0
	if m.session.Fetch(key.Export, key.Page, 1, w) != nil {
		return false, false
	}
	<-w.ended
	return w.length > 0, w.err == nil
}

// stubOf returns the stub of a page, if donors have it. Without the page's lock it may
// be of the past.
func (c *Cache) stubOf(e *export, key backends.Key) (s stub, o arena.Object, ref arena.Ref, ok bool) {
	at := e.pages.Get(key.Page)
	if at == 0 {
		return stub{}, arena.Object{}, 0, false
	}
	ref = arena.Ref(at - 1)
	var b [stubSize]byte
	o, ok = c.arena.Snapshot(ref, b[:])
	if !ok || o.Export != key.Export || o.Page != key.Page {
		return stub{}, arena.Object{}, 0, false
	}
	s, ok = decodeStub(o)
	return s, o, ref, ok
}

// replaceStub makes next the page's stub, if was still is. o is its object.
func (b *background) replaceStub(ref arena.Ref, o arena.Object, was, next stub) bool {
	var to arena.Ref
	made := false
	key := backends.Key{Export: o.Export, Page: o.Page}
	ok := b.host.Rehandle(key, backends.Handle(ref), func() (backends.Handle, bool) {
		now, ok := b.arena.Get(ref)
		if !ok || now.Export != o.Export || now.Page != o.Page {
			return 0, false
		}
		if s, remote := decodeStub(now); !remote || s != was {
			return 0, false
		}
		to, made = b.putStub(now, next)
		return backends.Handle(to), made
	})
	if ok {
		b.forgetStub(ref, was)
	} else if made {
		b.forgetStub(to, next)
		if e := (*b.exports.Load())[key.Export]; e != nil {
			e.pages.Set(key.Page, uint64(ref)+1) // it has a word, so it can have another
		}
	}
	return ok
}

// without is the stub with one donor less.
func (s stub) without(place uint8) stub {
	for i := range s.donors {
		if s.donors[i] == place {
			s.donors[i] = 0
		}
	}
	return s
}

// retire lets places go that no stub names any more, and donors that the operator
// removed with them.
func (k *keeper) retire() {
	k.members.mu.Lock()
	var gone []*member
	for n := 1; n < placeCount; n++ {
		if placeState(k.members.states[n].Load()) == placeLost && k.members.stubs[n].Load() == 0 {
			k.setPlace(uint32(n), placeFree)
		}
	}
	list := *k.members.list.Load()
	for _, m := range list {
		n := m.place.Load()
		if m.leaving.Load() && k.members.stubs[n].Load() == 0 || n == 0 && m.leaving.Load() {
			gone = append(gone, m)
		}
	}
	if len(gone) > 0 {
		list = slices.DeleteFunc(slices.Clone(list), func(m *member) bool { return slices.Contains(gone, m) })
		k.members.list.Store(&list)
		for _, m := range gone {
			k.setPlace(m.place.Load(), placeFree)
		}
	}
	k.members.mu.Unlock()
	for _, m := range gone {
		for id := range *k.exports.Load() {
			m.destroy(id)
		}
		k.sayGoodbye([]*member{m})
		if err := m.session.Close(); err != nil {
			k.config.Log.Warn("the session with a donor did not end well", "donor", m.Name, "error", err)
		}
		k.config.Log.Info("donor has left", "donor", m.Name)
	}
}
