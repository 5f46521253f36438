package ramster

import (
	"cmp"
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
		k.sweepCached()
		if k.host != nil { // else donors have none of the pages that may not be lost
			if k.mustRepair() && !time.Now().Before(k.notBefore) {
				k.repair()
			}
			k.commute()
		}
		k.retire()
	}
}

// keeper is the working memory of that goroutine.
type keeper struct {
	*background
	listed  [wire.MaxList]wire.Listed
	waiter  *waiter
	page    [backends.PageSize]byte
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
		switch {
		case e.ephemeral:
			all = k.compareCached(m, place, id, e) && all
		case k.host != nil:
			all = k.compareExport(m, place, id, e) && all
		}
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
			// In this order: what lands meanwhile has its stub before it leaves the air. A list with a
			// generation behind ours is a lie, but to flush that would be to flush ours: a page that is
			// there, or will be when it has landed, behind the back of compareStubs.
			if k.flights.carry(key, l.Generation) {
				continue
			}
			if s, _, _, ok := k.stubOf(e, key); ok && s.generation <= l.Generation && s.names(place) {
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
			return cmp.Compare(l.Page, page)
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
		if !k.replaceStub(e, ref, o, s, s.without(place)) {
			ok = false // in use just now: the next comparison sees it
			return true
		}
		m.missing.Add(1)
		k.thin = true
		return true
	})
	return ok
}

// has asks the donor whether it has a page; sure is false if it does not answer. What it has
// is in k.waiter.
func (k *keeper) has(m *member, key backends.Key, s stub) (there, sure bool) {
	if k.waiter == nil {
		k.waiter = newWaiter()
	}
	err := k.waiter.ask(m, key, s.generation)
	return k.waiter.length > 0, err == nil
}

// fetchFrom fetches a page from the first of the places that has it, sealed into k.waiter and
// opened into k.page. Who wants it sealed needs it opened all the same: a source that is
// damaged or hostile is found out here.
func (k *keeper) fetchFrom(places []uint8, key backends.Key, s stub, sum uint32) bool {
	for _, n := range places {
		m := k.members.at[n].Load()
		if m == nil {
			continue
		}
		if there, _ := k.has(m, key, s); !there {
			continue
		}
		if k.open(k.waiter, key, s, sum, k.page[:]) == "" {
			return true
		}
		m.rejected.Add(1)
	}
	return false
}

// stubOf returns the stub of a page, and its object without data, if donors have it. Without the page's lock it may
// be of the past.
func (c *Cache) stubOf(e *export, key backends.Key) (s stub, o arena.Object, ref arena.Ref, ok bool) {
	at := e.pages.Get(key.Page)
	if at == 0 {
		return stub{}, arena.Object{}, 0, false
	}
	ref = arena.Ref(at - 1)
	var b [stubSize]byte
	// Not into a result: the buffer would be garbage of each call.
	found, ok := c.arena.Snapshot(ref, b[:])
	if !ok || found.Export != key.Export || found.Page != key.Page {
		return stub{}, arena.Object{}, 0, false
	}
	s, ok = decodeStub(found)
	return s, arena.Object{Export: found.Export, Page: found.Page, Codec: found.Codec, Flags: found.Flags, Sum: found.Sum}, ref, ok
}

// replaceStub makes next the page's stub, if was still is. o is its object.
func (b *background) replaceStub(e *export, ref arena.Ref, o arena.Object, was, next stub) bool {
	return b.replace(e, ref, o, was,
		func(now arena.Object) (arena.Ref, bool) { return b.putStub(now, next) },
		func(to arena.Ref) { b.forgetStub(to, next) })
}

// replace makes what put returns the page's copy, if was still is its stub, whose object
// is o. put is given that object, under the page's lock, and changes the index; undo takes
// back what it made if the host changes its mind.
func (b *background) replace(e *export, ref arena.Ref, o arena.Object, was stub, put func(now arena.Object) (arena.Ref, bool), undo func(arena.Ref)) bool {
	var to arena.Ref
	made := false
	ok := b.host.Rehandle(backends.Key{Export: o.Export, Page: o.Page}, backends.Handle(ref), func() (backends.Handle, bool) {
		now, ok := b.arena.Get(ref)
		if !ok || now.Export != o.Export || now.Page != o.Page {
			return 0, false
		}
		if s, remote := decodeStub(now); !remote || s != was {
			return 0, false
		}
		to, made = put(now)
		if made {
			e.charge.Add(b.arena.SizeOf(to) - b.arena.SizeOf(ref))
		}
		return backends.Handle(to), made
	})
	switch {
	case ok:
		b.forgetStub(ref, was)
	case made:
		e.charge.Add(b.arena.SizeOf(ref) - b.arena.SizeOf(to))
		undo(to)
		e.pages.Set(o.Page, uint64(ref)+1) // it had a word, so there is memory for one
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
		if placeState(k.members.states[n].Load()) == placeLost && k.members.stubs[n].Load() == 0 && k.cached.at[n].Load() == 0 {
			k.setPlace(uint32(n), placeFree)
		}
	}
	list := *k.members.list.Load()
	for _, m := range list {
		n := m.place.Load()
		if m.leaving.Load() && (n == 0 || k.members.stubs[n].Load() == 0) {
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
		k.sayGoodbye([]*member{m}, goodbye)
		if err := m.session.Close(); err != nil {
			k.config.Log.Warn("the session with a donor did not end well", "donor", m.Name, "error", err)
		}
		k.config.Log.Info("donor has left", "donor", m.Name)
	}
}
