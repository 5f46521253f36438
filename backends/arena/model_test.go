package arena

import (
	"encoding/binary"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// fatalf is what rapid.T and testing.TB have in common here.
type fatalf interface {
	Helper()
	Fatalf(format string, args ...any)
}

// consistent checks A1, A4 and A5 by walking every list and every slot. Nothing
// else may be using the arena.
func consistent(t fatalf, a *Arena) {
	t.Helper()
	listed := make(map[int]string) // chunk → the list it is in
	walk := func(name string, first uint32) {
		t.Helper()
		for at := first; at != 0; at = a.chunks[at-1].next {
			n := int(at - 1)
			if other, ok := listed[n]; ok {
				t.Fatalf("A4: chunk %d is in list %s and in %s", n, other, name)
			}
			listed[n] = name
		}
	}
	walk("warm", a.pool.warm)
	walk("cold", a.pool.cold)
	held, objects, used, touched := 0, int64(0), int64(0), int64(0)
	for i := range a.classes {
		walk("partial", a.classes[i].partial)
		objects += a.classes[i].objects
	}
	slots := int64(0)
	for n := range a.chunks {
		number := a.chunks[n].class.Load()
		list := listed[n]
		switch {
		case number != 0:
			held++
			slots += consistentChunk(t, a, n, &a.classes[number], list)
		case list == "warm":
			held++
		case list == "partial", list == "" && n < a.pool.bump:
			t.Fatalf("A4: chunk %d has no class and is in list %q", n, list)
		}
	}
	if slots != objects {
		t.Fatalf("A1: %d slots are live, %d objects counted", slots, objects)
	}
	if held != a.pool.heldCount {
		t.Fatalf("A5: %d chunks hold memory, %d counted, of %d", held, a.pool.heldCount, len(a.chunks))
	}
	if want := a.pool.limit - held + a.pool.warmCount; a.Room() != want {
		t.Fatalf("A5: room for %d chunks, want %d", a.Room(), want)
	}
	for n := range a.chunks {
		touched += int64(a.chunks[n].touched) * pageSize
		if c := &a.classes[a.chunks[n].class.Load()]; c.size > 0 {
			used += int64(a.chunks[n].used) * c.size
		}
	}
	if s := a.Stats(); s.UsedBytes != used || s.HeldBytes != touched {
		t.Fatalf("A5: %d bytes in use and %d touched, counted %+v", used, touched, s)
	}
}

// consistentChunk checks one chunk and returns how many slots are live.
func consistentChunk(t fatalf, a *Arena, n int, c *class, list string) int64 {
	t.Helper()
	chunk := &a.chunks[n]
	if (list == "partial") == chunk.full(c.slots) || chunk.used == 0 {
		t.Fatalf("A4: chunk %d with %d slots in use, full: %v, is in list %q", n, chunk.used, chunk.full(c.slots), list)
	}
	free := make(map[int64]bool)
	for at := uint64(chunk.free); at != 0; {
		slot := int64(at - 1)
		if free[slot] || slot >= int64(chunk.bump) {
			t.Fatalf("the free list of chunk %d leads to slot %d twice, or beyond %d", n, slot, chunk.bump)
		}
		free[slot] = true
		at = binary.LittleEndian.Uint64(a.word1(int64(n)*ChunkSize + slot*c.size))
	}
	live := int64(0)
	for slot := range c.slots {
		offset := int64(n)*ChunkSize + slot*c.size
		if offset%ChunkSize >= int64(chunk.touched)*pageSize {
			break // reading would take memory
		}
		_, ok := a.read(offset, c)
		if ok == (free[slot] || slot >= int64(chunk.bump)) || ok == a.isFree(offset) {
			t.Fatalf("A1: slot %d of chunk %d is live: %v, in the free list: %v, bump: %d", slot, n, ok, free[slot], chunk.bump)
		}
		if ok {
			live++
		}
	}
	if live != int64(chunk.used) {
		t.Fatalf("A1: chunk %d has %d live slots, %d counted", n, live, chunk.used)
	}
	return live
}

// TestModel compares with a plain map. The region is small, so that it is often
// full and chunks change class.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		a, err := New("test arena", 24*ChunkSize, 32*ChunkSize)
		if err != nil {
			rt.Fatal(err)
		}
		defer func() {
			if err := a.Close(); err != nil {
				rt.Errorf("Close: %v", err)
			}
		}()
		m := &model{a: a, limit: 24 * ChunkSize, objects: make(map[Ref]Object), mixed: true}
		rt.Repeat(map[string]func(*rapid.T){
			"put":      m.put,
			"putMany":  m.putMany,
			"get":      m.get,
			"free":     m.free,
			"freeMany": m.freeMany,
			"mark":     m.mark,
			"compact":  m.compact,
			"setLimit": m.setLimit,
			"walk":     m.walk,
			"reclaim":  m.reclaim,
			"freeOf":   m.freeOf,
			"":         m.check,
		})
		for ref, o := range m.objects {
			mustGetModel(rt, a, ref, o)
			a.Free(ref)
		}
		m.objects, m.refs, m.bytes = nil, nil, 0
		m.check(rt)
	})
}

type model struct {
	a       *Arena
	objects map[Ref]Object
	refs    []Ref // the keys of objects, in an order that replays
	bytes   int64
	limit   int64
	seed    uint64
	mixed   bool // some objects are droppable
}

func (m *model) add(rt *rapid.T, length int) bool {
	m.seed++
	o := object(m.seed, length)
	o.Droppable = m.mixed && m.seed%3 == 0
	ref, ok := m.a.Put(o)
	if !ok {
		return false
	}
	if _, taken := m.objects[ref]; taken {
		rt.Fatalf("A2: ref %#x was given out twice", uint64(ref))
	}
	m.objects[ref] = o
	m.refs = append(m.refs, ref)
	m.bytes += int64(length)
	return true
}

func (m *model) put(rt *rapid.T) {
	if !m.add(rt, rapid.IntRange(1, MaxData).Draw(rt, "length")) && m.a.Room() > 0 {
		rt.Fatalf("Put found no room in %+v", m.a.Stats())
	}
}

func (m *model) putMany(rt *rapid.T) {
	length := rapid.IntRange(1, MaxData).Draw(rt, "length")
	for range rapid.IntRange(1, 200).Draw(rt, "count") {
		if !m.add(rt, length) {
			return
		}
	}
}

func (m *model) pick(rt *rapid.T) int {
	if len(m.refs) == 0 {
		rt.Skip("empty")
	}
	return rapid.IntRange(0, len(m.refs)-1).Draw(rt, "which")
}

func (m *model) get(rt *rapid.T) {
	ref := m.refs[m.pick(rt)]
	mustGetModel(rt, m.a, ref, m.objects[ref])
}

func mustGetModel(rt *rapid.T, a *Arena, ref Ref, want Object) {
	if got, ok := a.Get(ref); !ok || !same(got, want) {
		rt.Fatalf("Get(%#x) = %+v, %v, want %+v", uint64(ref), got, ok, want)
	}
}

func (m *model) free(rt *rapid.T) { m.drop(rt, m.pick(rt)) }

func (m *model) freeMany(rt *rapid.T) {
	first := m.pick(rt)
	for range rapid.IntRange(1, 200).Draw(rt, "count") {
		if first >= len(m.refs) {
			return
		}
		m.drop(rt, first)
	}
}

// forget takes an object out of the model.
func (m *model) forget(i int) Ref {
	ref := m.refs[i]
	m.refs[i] = m.refs[len(m.refs)-1]
	m.refs = m.refs[:len(m.refs)-1]
	m.bytes -= int64(len(m.objects[ref].Data))
	delete(m.objects, ref)
	return ref
}

func (m *model) drop(rt *rapid.T, i int) {
	ref := m.forget(i)
	if !m.a.Free(ref) {
		rt.Fatalf("Free(%#x) found nothing", uint64(ref))
	}
	if m.a.Free(ref) {
		rt.Fatalf("Free(%#x) succeeded twice", uint64(ref))
	}
}

func (m *model) mark(rt *rapid.T) {
	ref := m.refs[m.pick(rt)]
	set := uint8(rapid.IntRange(0, MaxFlags).Draw(rt, "set"))
	clear := uint8(rapid.IntRange(0, 255).Draw(rt, "clear"))
	o := m.objects[ref]
	o.Flags = o.Flags&^clear | set
	m.objects[ref] = o
	if !m.a.Mark(ref, set, clear) {
		rt.Fatalf("Mark(%#x) found nothing", uint64(ref))
	}
}

// compact lets some objects move and some not.
func (m *model) compact(rt *rapid.T) {
	stays := rapid.IntRange(1, 60).Draw(rt, "stays")
	before, movable := m.a.Stats(), m.a.Movable()
	calls, stayed := 0, 0
	freed := m.a.Compact(rapid.IntRange(1, 32).Draw(rt, "limit"), func(ref Ref) bool {
		calls++
		o, known := m.objects[ref]
		if !known {
			rt.Fatalf("Compact names %#x, which is not live", uint64(ref))
		}
		if calls%stays == stays-1 {
			stayed++
			return false
		}
		got, ok := m.a.Get(ref)
		if !ok || !same(got, o) {
			rt.Fatalf("Get(%#x) = %+v, %v, want %+v", uint64(ref), got, ok, o)
		}
		to, ok := m.a.Put(got)
		if !ok {
			stayed++
			return false
		}
		m.a.Free(ref)
		delete(m.objects, ref)
		m.objects[to] = o
		m.refs[slices.Index(m.refs, ref)] = to
		return true
	})
	after := m.a.Stats()
	if stayed == 0 && (after.HeldBytes > before.HeldBytes || freed > 0 && after.HeldBytes == before.HeldBytes) || freed > calls {
		rt.Fatalf("Compact freed %d chunks of %d movable: %d bytes held, before %d", freed, movable, after.HeldBytes, before.HeldBytes)
	}
}

func (m *model) setLimit(rt *rapid.T) {
	m.limit = rapid.Int64Range(ChunkSize, 32*ChunkSize).Draw(rt, "limit")
	if err := m.a.SetLimit(m.limit); err != nil {
		rt.Fatal(err)
	}
}

// walk finds every object once, and takes a copy of it.
func (m *model) walk(rt *rapid.T) {
	buffer := make([]byte, MaxData)
	var refs []Ref
	for n := range m.a.Capacity() / ChunkSize {
		refs = m.a.Refs(int(n), refs)
	}
	if len(refs) != len(m.objects) {
		rt.Fatalf("the walk found %d objects, want %d", len(refs), len(m.objects))
	}
	for _, ref := range refs {
		if got, ok := m.a.Snapshot(ref, buffer); !ok || !same(got, m.objects[ref]) {
			rt.Fatalf("Snapshot(%#x) = %+v, %v, want %+v", uint64(ref), got, ok, m.objects[ref])
		}
	}
}

// reclaim drops some objects, and changes the flags of others.
func (m *model) reclaim(rt *rapid.T) {
	type name struct {
		export uint32
		page   uint64
	}
	refs := map[name]Ref{}
	chunks := map[Ref]bool{} // by the name of their first slot
	for ref, o := range m.objects {
		if o.Droppable {
			refs[name{o.Export, o.Page}] = ref
			chunks[ref/(ChunkSize/RefUnit)] = true
		}
	}
	if m.a.Droppable() != len(chunks) {
		rt.Fatalf("A9: %d droppable chunks counted, want %d", m.a.Droppable(), len(chunks))
	}
	stays, most, calls := rapid.IntRange(1, 60).Draw(rt, "stays"), rapid.IntRange(1, 32).Draw(rt, "chunks"), 0
	stayed := false
	visited := m.a.Reclaim(most, func(o Object) (flags uint8, drop bool) {
		ref, ok := refs[name{o.Export, o.Page}]
		want := m.objects[ref]
		if !ok || !same(o, want) {
			rt.Fatalf("A9: Reclaim shows %+v, want %+v", o, want)
		}
		if calls++; calls%stays == stays-1 {
			stayed = true
			now := m.objects[ref]
			now.Flags ^= 5
			m.objects[ref] = now
			return now.Flags, false
		}
		m.forget(slices.Index(m.refs, ref))
		return 0, true
	})
	if visited != min(most, len(chunks)) {
		rt.Fatalf("Reclaim looked at %d chunks, want %d of %d", visited, most, len(chunks))
	}
	if most >= len(chunks) && !stayed && m.a.Droppable() != 0 {
		rt.Fatalf("A9: all objects were dropped, and %d chunks are left", m.a.Droppable())
	}
}

// freeOf frees an object only under its own name.
func (m *model) freeOf(rt *rapid.T) {
	i := m.pick(rt)
	ref := m.refs[i]
	o := m.objects[ref]
	for _, wrong := range []struct {
		export uint32
		page   uint64
	}{{o.Export + 1, o.Page}, {o.Export, o.Page ^ 1}} {
		if _, ok := m.a.FreeOf(ref, wrong.export, wrong.page); ok {
			rt.Fatalf("FreeOf(%#x) freed page %d of export %d, which is page %d of %d", uint64(ref), wrong.page, wrong.export, o.Page, o.Export)
		}
	}
	if !o.Droppable {
		if _, ok := m.a.FreeOf(ref, o.Export, o.Page); ok {
			rt.Fatalf("FreeOf(%#x) freed an object that is not droppable", uint64(ref))
		}
		return
	}
	m.forget(i)
	got, ok := m.a.FreeOf(ref, o.Export, o.Page)
	if length := len(o.Data); len(got.Data) == length {
		got.Data = o.Data // it is dead
	}
	if !ok || !same(got, o) {
		rt.Fatalf("FreeOf(%#x) = %+v, %v, want %+v", uint64(ref), got, ok, o)
	}
	if _, again := m.a.FreeOf(ref, o.Export, o.Page); again {
		rt.Fatalf("FreeOf(%#x) succeeded twice", uint64(ref))
	}
}

func (m *model) check(rt *rapid.T) {
	s := m.a.Stats()
	droppable := int64(0)
	for _, o := range m.objects {
		if o.Droppable {
			droppable++
		}
	}
	if s.Droppable != droppable {
		rt.Fatalf("Stats shows %d droppable objects, want %d", s.Droppable, droppable)
	}
	if s.Objects != int64(len(m.objects)) || s.DataBytes != m.bytes {
		rt.Fatalf("Stats shows %d objects of %d bytes, want %d of %d", s.Objects, s.DataBytes, len(m.objects), m.bytes)
	}
	if resident := m.a.Usage()[0].Resident; resident > s.HeldBytes {
		rt.Fatalf("A5: %d bytes resident, %d held", resident, s.HeldBytes)
	}
	consistent(rt, m.a)
}
