package cleancache

import (
	"errors"
	"sync/atomic"

	"github.com/tmemd/tmemd/backends"
)

// GetPage fills dst with the page and reports a hit. It waits if the backend does.
// After a miss dst holds nothing of use. REQUIRES: any lock of the page held.
func (p *Pool) GetPage(page uint64, dst []byte) bool {
	at, w, hit := p.get(page, dst, false)
	if !hit {
		p.counters.failedGets.Add(1)
		return false
	}
	p.counters.succGets.Add(1)
	if p.Mode() == Exclusive {
		p.drop(at, page, w)
	}
	return true
}

// TryGetPage is GetPage for callers that must not wait: false also if the backend
// would. It neither counts nor takes the page away: a request of which one page is
// missed is served again, whole, by GetPage. GotPages says when it is done.
// REQUIRES: any lock of the page held.
func (p *Pool) TryGetPage(page uint64, dst []byte) bool {
	_, _, hit := p.get(page, dst, true)
	return hit
}

// GotPages says that n pages from first on were got by TryGetPage. It takes no lock
// that has to be waited for. REQUIRES: no lock of them held.
func (p *Pool) GotPages(first, n uint64) {
	p.counters.succGets.Add(n)
	if p.Mode() != Exclusive {
		return
	}
	for page := first; page < first+n; page++ {
		if !p.TryRLock(page) {
			continue // somebody changes it: it is going anyhow
		}
		if at := p.index.find(page); at != nil {
			p.drop(at, page, word(at.Load()))
		}
		p.RUnlock(page)
	}
}

func (p *Pool) get(page uint64, dst []byte, local bool) (at *atomic.Uint64, w word, hit bool) {
	if at = p.index.find(page); at == nil {
		return nil, none, false
	}
	w = word(at.Load())
	owner, ok := w.owner()
	if !ok {
		return at, w, false
	}
	s := p.c.slots[owner-1].Load()
	if local && !s.local {
		return at, w, false
	}
	err := s.backend.Load(backends.Key{Export: p.id, Page: page}, w.handle(), dst)
	if err == nil {
		return at, w, true
	}
	p.drop(at, page, w) // C4
	if !errors.Is(err, backends.ErrGone) && !errors.Is(err, backends.ErrTransient) && !errors.Is(err, backends.ErrCorrupt) {
		p.c.fail(s, err)
	}
	return at, w, false
}

// drop gives the page up, unless somebody else does just now or did.
// REQUIRES: any lock of the page held.
func (p *Pool) drop(at *atomic.Uint64, page uint64, w word) {
	owner, ok := w.owner()
	if !ok || !at.CompareAndSwap(uint64(w), uint64(busy)) {
		return
	}
	// Busy until the backend has forgotten it: a put must come behind that (C3).
	p.c.slots[owner-1].Load().backend.Invalidate(backends.Key{Export: p.id, Page: page}, w.handle())
	p.pages[owner-1].Add(-1)
	at.Store(uint64(none))
}

// PutPage offers the page, as storage has it, to the backends in turn. It waits if
// one of them does. REQUIRES: a lock of the page held, without a gap since storage
// was read (C1).
func (p *Pool) PutPage(page uint64, data []byte) {
	p.counters.puts.Add(1)
	// After the lock, never before: C5 rests on it.
	active := *p.c.active.Load()
	if len(active) == 0 {
		return
	}
	at := p.index.use(page)
	if !at.CompareAndSwap(uint64(none), uint64(busy)) {
		return // it is here, or somebody else puts the same
	}
	at.Store(uint64(p.offer(active, page, data)))
}

// offer returns the page's word.
func (p *Pool) offer(active []*slot, page uint64, data []byte) word {
	key := backends.Key{Export: p.id, Page: page}
	for _, s := range active {
		handle, refusal, err := s.backend.Store(key, data)
		switch {
		case err == nil && refusal == backends.Accepted:
			p.pages[s.owner-1].Add(1)
			return makeWord(s.owner, handle)
		case err != nil && !errors.Is(err, backends.ErrTransient):
			p.c.fail(s, err)
		}
	}
	return none
}

// InvalidatePage gives the page up: storage is about to have something else.
// REQUIRES: Lock held.
func (p *Pool) InvalidatePage(page uint64) {
	p.counters.invalidates.Add(1)
	p.forget(page)
}

// forget REQUIRES: Lock held.
func (p *Pool) forget(page uint64) {
	if at := p.index.find(page); at != nil {
		p.drop(at, page, word(at.Load()))
	}
}

// InvalidateInode gives up the pages from first to before last. It locks each that
// is there.
func (p *Pool) InvalidateInode(first, last uint64) {
	p.life.RLock()
	defer p.life.RUnlock()
	p.forgetIf(first, min(last, p.length), func(word) bool { return true })
}

// forgetIf gives up the pages from first to before last whose word is one that which
// says. REQUIRES: life held.
func (p *Pool) forgetIf(first, last uint64, which func(word) bool) {
	for page := p.index.next(first, last); page < last; page = p.index.next(page+1, last) {
		// A look without the lock, for words that were there before the call.
		if w := word(p.index.words[page].Load()); w == none || w != busy && !which(w) {
			continue
		}
		p.Lock(page)
		if w := word(p.index.words[page].Load()); which(w) {
			p.forget(page)
		}
		p.Unlock(page)
	}
}

// HasPage says whether the page is cached, as far as the index knows: the backend may
// have forgotten it. REQUIRES: any lock of the page held.
func (p *Pool) HasPage(page uint64) bool {
	at := p.index.find(page)
	if at == nil {
		return false
	}
	_, ok := word(at.Load()).owner()
	return ok
}
