package arena

import (
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
)

// TestDroppableConcurrently has objects dropped while others read, free and put:
// whoever gets an object by a snapshot gets all of it, and nobody frees another's.
func TestDroppableConcurrently(t *testing.T) {
	a, err := New("test arena", 8*ChunkSize, 8*ChunkSize)
	if err != nil {
		t.Fatal(err)
	}
	const workers, rounds = 4, 20000
	var wg sync.WaitGroup
	for w := range uint32(workers) {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(uint64(w), 2))
			type put struct {
				ref Ref
				o   Object
			}
			var mine []put
			buffer := make([]byte, MaxData)
			page := uint64(0)
			for range rounds {
				switch {
				case len(mine) == 0 || random.IntN(3) == 0:
					page++
					o := object(page%50, 1+random.IntN(MaxData))
					o.Export, o.Page, o.Droppable = w, page, random.IntN(4) > 0
					if ref, ok := a.Put(o); ok {
						mine = append(mine, put{ref, o})
					}
				default:
					i := random.IntN(len(mine))
					p := mine[i]
					if o, ok := a.Snapshot(p.ref, buffer); ok && o.Export == w && o.Page == p.o.Page && !same(o, p.o) {
						t.Errorf("page %d of export %d is %+v, want %+v", p.o.Page, w, o, p.o)
						return
					} else if (!ok || o.Export != w || o.Page != p.o.Page) && !p.o.Droppable {
						t.Errorf("page %d of export %d is gone", p.o.Page, w)
						return
					}
					if random.IntN(2) == 0 {
						if !freePut(a, p.ref, p.o) && !p.o.Droppable {
							t.Errorf("page %d of export %d cannot be freed", p.o.Page, w)
							return
						}
						mine[i] = mine[len(mine)-1]
						mine = mine[:len(mine)-1]
					}
				}
				if random.IntN(20) == 0 {
					a.Reclaim(1+random.IntN(3), func(o Object) (uint8, bool) { return o.Flags, o.Page%2 == 0 })
				}
			}
			for _, p := range mine {
				freePut(a, p.ref, p.o)
			}
		})
	}
	wg.Wait()
	consistent(t, a)
	if s := a.Stats(); s.Objects != 0 || s.Droppable != 0 || a.Droppable() != 0 {
		t.Errorf("at the end there are %+v and %d droppable chunks", s, a.Droppable())
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestDroppableGivesWay: all that droppable objects hold is there for others, of
// whatever length.
func TestDroppableGivesWay(t *testing.T) {
	a, err := New("test arena", 8*ChunkSize, 8*ChunkSize)
	if err != nil {
		t.Fatal(err)
	}
	for seed := uint64(0); ; seed++ {
		o := object(seed, int(1+seed*37%MaxData))
		o.Droppable = true
		if _, ok := a.Put(o); !ok && a.Room() == 0 {
			break
		}
	}
	kept := map[Ref]Object{}
	for seed := uint64(0); ; seed++ {
		o := object(seed, MaxData)
		ref, ok := a.Put(o)
		if !ok && a.Reclaim(1, func(Object) (uint8, bool) { return 0, true }) == 0 {
			break
		}
		if ok {
			kept[ref] = o
		}
	}
	if want := 8 * int(a.classes[len(a.classes)-1].slots); len(kept) != want {
		t.Errorf("%d objects found room, want %d", len(kept), want)
	}
	for ref, o := range kept {
		mustGet(t, a, ref, o)
		a.Free(ref)
	}
	consistent(t, a)
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestDroppableDoNotSurvive: A9.
func TestDroppableDoNotSurvive(t *testing.T) {
	h := newHome(t)
	at := h.open(false)
	a, err := Create(at, "test arena", 24*ChunkSize, 32*ChunkSize)
	if err != nil {
		t.Fatal(err)
	}
	kept, dropped := map[Ref]Object{}, map[Ref]Object{}
	for seed := range uint64(300) {
		o := object(seed, int(1+seed%5*700))
		o.Droppable = seed%2 == 0
		ref := mustPut(t, a, o)
		if o.Droppable {
			dropped[ref] = o
		} else {
			kept[ref] = o
		}
	}
	h.leave(at, a)
	at = h.open(false)
	if a, err = Open(at, "test arena", 24*ChunkSize); err != nil {
		t.Fatal(err)
	}
	for ref, o := range dropped {
		if _, ok := a.Claim(ref, o.Export, o.Page); ok {
			t.Fatalf("a droppable object was claimed: %+v", o)
		}
	}
	for ref, o := range kept {
		if _, ok := a.Claim(ref, o.Export, o.Page); !ok {
			t.Fatalf("%+v cannot be claimed", o)
		}
	}
	if n := a.Unclaimed(); n != 0 {
		t.Errorf("%d objects count as unclaimed", n)
	}
	if freed, err := a.Settle(); err != nil || freed != 0 {
		t.Fatalf("Settle freed %d: %v", freed, err)
	}
	consistent(t, a)
	if s := a.Stats(); s.Objects != int64(len(kept)) || s.Droppable != 0 || a.Droppable() != 0 {
		t.Errorf("Stats shows %+v, want %d objects", s, len(kept))
	}
	for ref, o := range kept {
		mustGet(t, a, ref, o)
	}
	if err := errors.Join(a.Close(), at.Folder.Close()); err != nil {
		t.Fatal(err)
	}
}

// freePut frees the object as its sort is freed.
func freePut(a *Arena, ref Ref, o Object) bool {
	if !o.Droppable {
		return a.Free(ref)
	}
	_, ok := a.FreeOf(ref, o.Export, o.Page)
	return ok
}
