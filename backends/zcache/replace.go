package zcache

import (
	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/arena"
)

// replacement puts one copy of a page into the place of another. It belongs to one
// goroutine, which uses it again and again: a function of its own for each page,
// for the host to call, would be garbage of 200 bytes for each.
type replacement struct {
	*background
	rehandle func() (backends.Handle, bool) // swap, as a value; immutable

	// Of the replacement under way.
	ref       arena.Ref
	was, next arena.Object
	to        arena.Ref
	made      bool
}

func (b *background) newReplacement() *replacement {
	r := &replacement{background: b}
	r.rehandle = r.swap
	return r
}

// replace makes next the page's copy instead of the one under ref, if that is
// still what was (a snapshot of it, with Data).
func (r *replacement) replace(ref arena.Ref, was, next arena.Object) bool {
	r.ref, r.was, r.next, r.made = ref, was, next, false
	ok := r.host.Rehandle(backends.Key{Export: was.Export, Page: was.Page}, backends.Handle(ref), r.rehandle)
	switch {
	case ok:
		r.forget(ref)
	case r.made: // a host that changed its mind
		r.charge(r.next.Export, r.arena.SizeOf(r.ref)-r.chargeOf(r.next, r.to))
		r.forget(r.to)
	default:
		r.moved[backends.MovedContended].Add(1)
	}
	return ok
}

// swap is called by the host, under the page's lock (Z6).
func (r *replacement) swap() (backends.Handle, bool) {
	now, ok := r.arena.Get(r.ref)
	if !ok || !sameObject(now, r.was) {
		return 0, false
	}
	r.next.Flags |= now.Flags
	r.to, r.made = r.put(r.next)
	if r.made {
		r.charge(r.next.Export, r.chargeOf(r.next, r.to)-r.arena.SizeOf(r.ref))
	}
	return backends.Handle(r.to), r.made
}
