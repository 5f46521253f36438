package zcache

import (
	"bytes"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/arena"
)

// sharer finds the like of a page and makes the page a reference. It is one goroutine's, beside
// its replacement.
type sharer struct {
	*replacement
	data []byte // of what was found; made with the first page that may be shared, as is page
	page []byte // what that decompresses to
	link [linkBytes]byte
}

// What became of an attempt to share a page.
type sharedOutcome uint8

const (
	sharedNot   sharedOutcome = iota // there is no page like it
	sharedNow                        // it has become a reference
	sharedLater                      // it was in use
)

// share makes the page under ref a reference, if one like it is found that may be shared.
// was is its object, and page what that decompresses to.
// Nothing of it is in the way of a store: that a page has its like shows in nothing but what
// memory it takes, and in how long its loads take.
func (w *sharer) share(ref arena.Ref, was arena.Object, page []byte, domain uint32) sharedOutcome {
	if w.data == nil {
		w.data, w.page = make([]byte, backends.PageSize), make([]byte, backends.PageSize)
	}
	s := w.sharing.Load()
	refs, n := s.find(domain, was.Sum)
	for _, like := range refs[:n] {
		if like == ref {
			continue
		}
		number, charge, ok := w.holdLike(like, was.Sum, page, domain)
		if !ok {
			continue
		}
		w.made = false
		if w.replace(ref, was, w.reference(was, link{number, charge})) {
			return sharedNow // the hold is the reference's now
		}
		if !w.made { // else forget has dropped it
			s.drop(number)
		}
		return sharedLater
	}
	return sharedNot
}

// reference is the object that a page has when it shares a content; good until the next.
func (w *sharer) reference(was arena.Object, l link) arena.Object {
	return arena.Object{
		Export: was.Export, Page: was.Page, Codec: uint8(shared), Sum: was.Sum, Data: l.encode(&w.link, was.Export, was.Page),
	}
}

// holdLike returns a content that is the page byte for byte, with a hold on it: the one at ref, or
// one made of the page that is there.
func (w *sharer) holdLike(ref arena.Ref, sum uint32, page []byte, domain uint32) (number, charge uint32, ok bool) {
	o, ok := w.arena.Snapshot(ref, w.data)
	if !ok || o.Droppable || o.Sum != sum || len(o.Data) == 0 {
		return 0, 0, false
	}
	if isContent(o) {
		return w.holdContent(ref, uint32(o.Page), sum, page, domain)
	}
	if !isCompressed(o) || w.domainOf(o.Export) != domain || !w.isLike(o, page) {
		return 0, 0, false
	}
	return w.makeContent(ref, o, domain)
}

// isLike compares whole pages.
func (w *sharer) isLike(o arena.Object, page []byte) bool {
	return w.decode(Codec(o.Codec), w.page, o.Data) && bytes.Equal(w.page, page)
}

func (w *sharer) holdContent(ref arena.Ref, number, sum uint32, page []byte, domain uint32) (_, charge uint32, ok bool) {
	s := w.sharing.Load()
	of, ok := s.hold(number, ref)
	if !ok {
		return 0, 0, false
	}
	if of != domain {
		s.drop(number)
		return 0, 0, false
	}
	if at, ok := s.pin(number); ok {
		o, ok := w.arena.Get(at)
		ok = ok && isContent(o) && o.Page == uint64(number) && o.Sum == sum && w.isLike(o, page)
		s.unpin(number)
		if ok {
			return number, uint32(w.arena.SizeOf(at)), true
		}
	}
	s.drop(number)
	return 0, 0, false
}

// makeContent makes a page's own object, o under ref, into a content and a reference to
// it, and holds the content. If the page is in use, everything stays as it is.
func (w *sharer) makeContent(ref arena.Ref, o arena.Object, domain uint32) (number, charge uint32, ok bool) {
	s := w.sharing.Load()
	number, ok = s.take(domain, 2) // for that page's reference, and for the caller
	if !ok {
		return 0, 0, false
	}
	content := o
	content.Export, content.Page, content.Codec, content.Flags = domain, uint64(number), o.Codec|uint8(contentOf), o.Flags&flagSettled
	to, ok := w.put(content)
	if !ok {
		s.drop(number)
		s.drop(number)
		return 0, 0, false
	}
	s.move(number, to)
	charge = uint32(w.arena.SizeOf(ref))
	w.made = false
	if w.replace(ref, o, w.reference(o, link{number, charge})) {
		w.note(domain, o.Sum, to)
		return number, charge, true
	}
	if !w.made {
		s.drop(number)
	}
	s.drop(number)
	return 0, 0, false
}

// moveContent puts a content elsewhere: next instead of was, or as it is if next is nil. Its
// references stay as they are. It returns false if it is being read, or moved.
func (b *background) moveContent(ref arena.Ref, was arena.Object, next *arena.Object) bool {
	s := b.sharing.Load()
	if s == nil || !s.moves.TryLock() {
		b.moved[backends.MovedContended].Add(1)
		return false
	}
	defer s.moves.Unlock()
	number := uint32(was.Page)
	domain, ok := s.hold(number, ref)
	if !ok {
		return false // gone
	}
	defer s.drop(number)
	now, ok := b.arena.Get(ref) // stays: it is held, and nobody else moves any
	if !ok || now.Codec != was.Codec || now.Page != was.Page || next != nil && !sameObject(now, was) {
		return false
	}
	if next == nil {
		next = &now
	} else {
		next.Flags |= now.Flags
	}
	to, ok := b.put(*next)
	if !ok {
		return false
	}
	if !s.move(number, to) {
		s.wipe(to)
		b.moved[backends.MovedContended].Add(1)
		return false
	}
	b.note(domain, next.Sum, to)
	s.wipe(ref)
	return true
}
