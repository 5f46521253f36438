package arena

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

// TestDamage flips bits all over the region between operations. Nothing may
// panic or loop (A3), no slot may have two owners (A2), and an object that was
// not hit itself is found whole. Those that were hit may be lost.
func TestDamage(t *testing.T) {
	for seed := range uint64(15) {
		d := &damager{
			t:      t,
			seed:   seed,
			random: rand.New(rand.NewPCG(seed, 4)),
			a:      newArena(t, 4*ChunkSize),
			data:   object(seed, 400).Data,
			live:   make(map[Ref]damaged),
		}
		for range 3000 {
			d.step()
		}
		if s := d.a.Stats(); s.HeldBytes > 4*ChunkSize {
			t.Fatalf("A5: seed %d: %+v", seed, s)
		}
	}
}

type damager struct {
	t      *testing.T
	seed   uint64
	random *rand.Rand
	a      *Arena
	data   []byte
	live   map[Ref]damaged
	refs   []Ref // the keys of live
}

type damaged struct {
	o    Object
	hurt bool
}

func (d *damager) step() {
	switch d.random.IntN(8) {
	case 0, 1, 2, 3:
		d.put()
	case 4, 5:
		d.free()
	case 6:
		d.flip(d.random.IntN(len(d.a.memory)))
	case 7: // a header is the likelier place to do harm
		d.flip(d.random.IntN(len(d.a.memory)/RefUnit)*RefUnit + d.random.IntN(headerSize))
	}
}

func (d *damager) put() {
	o := object(0, 1)
	o.Page = d.random.Uint64N(MaxPages)
	o.Data = d.data[:1+d.random.IntN(400)]
	ref, ok := d.a.Put(o)
	if !ok {
		return
	}
	if owner, taken := d.live[ref]; taken {
		if !owner.hurt {
			d.t.Fatalf("A2: seed %d: ref %#x was given out twice", d.seed, uint64(ref))
		}
		return
	}
	d.live[ref] = damaged{o: o}
	d.refs = append(d.refs, ref)
}

func (d *damager) free() {
	if len(d.refs) == 0 {
		return
	}
	i := d.random.IntN(len(d.refs))
	ref := d.refs[i]
	got, ok := d.a.Get(ref)
	if owner := d.live[ref]; !owner.hurt && (!ok || !same(got, owner.o)) {
		d.t.Fatalf("A2: seed %d: Get(%#x) = %+v, %v, want %+v", d.seed, uint64(ref), got, ok, owner.o)
	}
	d.a.Free(ref)
	d.refs[i] = d.refs[len(d.refs)-1]
	d.refs = d.refs[:len(d.refs)-1]
	delete(d.live, ref)
}

func (d *damager) flip(at int) {
	d.a.memory[at] ^= 1 << d.random.IntN(8)
	for ref, owner := range d.live {
		if from := int(ref) * RefUnit; at >= from && at < from+headerSize+len(owner.o.Data) {
			owner.hurt = true
			d.live[ref] = owner
		}
	}
}

// TestDamagedLink aims the free list of a chunk at a live slot, at itself and
// outside, and expects that the live object stays whole.
func TestDamagedLink(t *testing.T) {
	for _, link := range []uint64{1, 2, 3, 9, 1 << 16, 1<<64 - 1} {
		a := newArena(t, 1<<20)
		first := object(1, 1000)
		first.Export, first.Sum = 0, 1 // as a link, the header leads to slot 0 again
		keep := mustPut(t, a, first)   // slot 0
		second := mustPut(t, a, object(2, 1000))
		third := mustPut(t, a, object(3, 1000))
		mustFree(t, a, second)
		mustFree(t, a, third) // the list is: slot 2, slot 1
		setLink(a, third, link)
		refs := map[Ref]bool{keep: true}
		for i := range uint64(100) {
			ref := mustPut(t, a, object(10+i, 1000))
			if refs[ref] {
				t.Fatalf("A2: link %#x: ref %#x was given out twice", link, uint64(ref))
			}
			refs[ref] = true
			mustGet(t, a, ref, object(10+i, 1000))
		}
		mustGet(t, a, keep, first)
	}
}

// TestDamagedLinkWhileFilling makes a free slot its own successor, and takes
// slots without filling them, as goroutines that are preempted in Put do.
func TestDamagedLinkWhileFilling(t *testing.T) {
	a := newArena(t, 1<<20)
	mustPut(t, a, object(1, 1000))
	ref := mustPut(t, a, object(2, 1000))
	mustFree(t, a, ref)
	setLink(a, ref, 2) // slot 1
	taken := make(map[int64]bool)
	for range 10 {
		offset, ok := a.take(&a.classes[a.classFor[1016/RefUnit+1]], 1000)
		if !ok || taken[offset] {
			t.Fatalf("A2: slot at %d, ok: %v, was taken before: %v", offset, ok, taken[offset])
		}
		taken[offset] = true
		if _, ok := a.Get(Ref(offset / RefUnit)); ok {
			t.Fatal("A1: a slot that is being filled is live")
		}
	}
}

// TestDamagedHeader changes one thing about a slot at a time.
func TestDamagedHeader(t *testing.T) {
	const length = 3584
	live := object(1, length)
	live.Codec = 1
	for _, test := range []struct {
		name  string
		slot  int64
		word0 uint64
	}{
		{"spare bit", 0, 1<<63 | 1<<codecShift | length<<lengthShift},
		{"filling", 0, filling | 1<<codecShift | length<<lengthShift},
		{"no codec", 0, length << lengthShift},
		{"no length", 0, 1 << codecShift},
		{"length of the class below", 0, 1<<codecShift | (length-400)<<lengthShift},
		{"length beyond the slot", 0, 1<<codecShift | (length+400)<<lengthShift},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := newArena(t, ChunkSize)
			ref := mustPut(t, a, live)
			*a.word0(int64(ref) * RefUnit) = test.word0
			if o, ok := a.Get(ref); ok {
				t.Errorf("A3: Get returned %+v", o)
			}
			mustFree(t, a, ref)
			if s := a.Stats(); s.Objects != 0 || s.DataBytes <= -256 || s.DataBytes >= 256 {
				t.Errorf("after Free: %+v", s)
			}
		})
	}
}

// TestDamageBeyondSlots makes a header where none is: in a slot that was never
// taken, and in the tail of a chunk.
func TestDamageBeyondSlots(t *testing.T) {
	a := newArena(t, ChunkSize)
	o := object(1, MaxData)
	keep := mustPut(t, a, o)
	c := largestClass(a)
	header := *a.word0(int64(keep) * RefUnit)
	for _, slot := range []int64{5, c.slots} {
		offset := slot * c.size
		*a.word0(offset) = header
		ref := Ref(offset / RefUnit)
		if slot == c.slots {
			if _, ok := a.Get(ref); ok {
				t.Error("A3: Get found an object in the tail")
			}
		}
		if a.Free(ref) {
			t.Errorf("A3: Free of slot %d, which was never taken, succeeded", slot)
		}
	}
	mustGet(t, a, keep, o)
	mustFree(t, a, keep)
}

// setLink makes a free slot lead elsewhere.
func setLink(a *Arena, ref Ref, link uint64) {
	binary.LittleEndian.PutUint64(a.word1(int64(ref)*RefUnit), link)
}

// FuzzSlot gives a slot any header. Get must not panic, and must not return
// data from beyond the slot; Free must leave the arena usable.
func FuzzSlot(f *testing.F) {
	f.Add(uint64(0), uint64(0), uint16(100))
	f.Add(uint64(1)<<codecShift|uint64(100)<<lengthShift, uint64(7), uint16(100))
	f.Add(uint64(1)<<codecShift|uint64(8191)<<lengthShift, uint64(7), uint16(3584))
	f.Add(^uint64(0), ^uint64(0), uint16(1))
	f.Fuzz(func(t *testing.T, w0, w1 uint64, length uint16) {
		a, err := New("test arena", ChunkSize, ChunkSize)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		size := 1 + int(length)%MaxData
		ref := mustPut(t, a, object(1, size))
		neighbour := mustPut(t, a, object(2, size))
		*a.word0(int64(ref) * RefUnit) = w0
		setLink(a, ref, w1)
		slot := int(a.classes[a.classFor[(headerSize+size+RefUnit-1)/RefUnit]].size)
		if o, ok := a.Get(ref); ok && (w0&never != 0 || o.Codec == 0 || o.Page >= MaxPages || len(o.Data) == 0 || headerSize+len(o.Data) > slot) {
			t.Fatalf("Get returned %+v from a slot of %d bytes", o, slot)
		}
		if freed := a.Free(ref); freed != (w0 != 0) {
			t.Fatalf("Free of a slot with word 0 %#x: %v", w0, freed)
		}
		mustGet(t, a, neighbour, object(2, size))
		third, ok := a.Put(object(3, size))
		if !ok {
			t.Fatal("Put found no room")
		}
		mustGet(t, a, third, object(3, size))
		mustGet(t, a, neighbour, object(2, size))
	})
}
