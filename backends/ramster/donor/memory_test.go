package donor

import (
	"bytes"
	"math"
	"testing"
	"testing/quick"

	"github.com/tmemd/tmemd/backends/arena"
	"github.com/tmemd/tmemd/backends/ramster/wire"
)

// fill puts pages of 1,000 bytes from one on until there is no room, and returns behind
// the last.
func (p *peer) fill(t fatalf, pool uint32, page, generation uint64) uint64 {
	t.Helper()
	for ; ; page++ {
		switch got := p.put(t, pool, page, generation, make([]byte, 1000)); got {
		case wire.OK:
		case wire.Full:
			return page
		default:
			t.Fatalf("page %d: %v", page, got)
		}
	}
}

// TestFull: ephemeral pages go for others, persistent ones never, and what does not fit
// is refused.
func TestFull(t *testing.T) {
	const limit = 4 << 20
	pl := newPlace(t, Config{Limit: limit})
	p := newPeer(t, pl)
	for page := range uint64(5000) { // more than fits
		if got := p.put(t, dropped, page, 1, make([]byte, 1000)); got != wire.OK {
			t.Fatalf("ephemeral page %d: %v", page, got)
		}
	}
	s := pl.donor.Stats()
	if n := s.Clients[0].Ephemeral; s.Evicted == 0 || n == 0 || n == 5000 {
		t.Fatalf("%d ephemeral pages, %d dropped", n, s.Evicted)
	}
	last := p.fill(t, kept, 0, 2)
	s = pl.donor.Stats()
	if s.Clients[0].Ephemeral != 0 {
		t.Errorf("a page is refused, with %d ephemeral ones left", s.Clients[0].Ephemeral)
	}
	// Of 64 chunks, each with 62 pages, some are for other sizes.
	if last < limit/arena.ChunkSize*62*9/10 {
		t.Errorf("%d pages fit into %d bytes", last, limit)
	}
	if s.HeldBytes > limit+arena.ChunkSize || s.Clients[0].Wanted != 0 {
		t.Errorf("%d bytes held, limit %d, %d wanted", s.HeldBytes, limit, s.Clients[0].Wanted)
	}
	// A version that finds no room leaves no older one; other sizes have theirs.
	for page := range uint64(64) {
		got := p.put(t, kept, page, 3, make([]byte, 4000))
		generation, _ := p.get(t, kept, page, 0)
		if want := map[wire.Status]uint64{wire.OK: 3, wire.Full: 0}[got]; generation != want {
			t.Errorf("put of page %d is %v, and generation %d is left", page, got, generation)
		}
	}
	for page := uint64(64); page < last; page++ {
		if generation, _ := p.get(t, kept, page, 0); generation != 2 {
			t.Fatalf("persistent page %d is gone", page)
		}
	}
	// One in the place of another needs no room.
	if got := p.put(t, kept, 100, 3, make([]byte, 1000)); got != wire.OK {
		t.Errorf("in place: %v", got)
	}
}

// TestSecondChance: pages that are fetched stay longer.
func TestSecondChance(t *testing.T) {
	pl := newPlace(t, Config{Limit: 4 << 20})
	p := newPeer(t, pl)
	for page := range uint64(200) {
		p.put(t, kept, page, 1, make([]byte, 1000))
	}
	for page := range uint64(8000) {
		p.put(t, dropped, page, 1, make([]byte, 1000))
		p.get(t, dropped, page%100, 0)
	}
	for page := range uint64(200) { // the clock came by their pool
		if generation, _ := p.get(t, kept, page, 0); generation != 1 {
			t.Errorf("persistent page %d was dropped", page)
		}
	}
	for page := range uint64(100) {
		if generation, _ := p.get(t, dropped, page, 0); generation != 1 {
			t.Errorf("page %d, fetched all the time, was dropped", page)
		}
	}
	if pl.donor.Stats().Evicted == 0 {
		t.Error("no page was dropped")
	}
}

// TestWeights: the client above its share loses ephemeral pages first. Xen had the
// comparison the wrong way around for ten years.
func TestWeights(t *testing.T) {
	pl := newPlace(t, Config{Limit: 8 << 20, Clients: map[string]Grant{"a": {Quota: 1 << 30, Weight: 1}, "b": {Quota: 1 << 30, Weight: 3}}})
	a := newPeer(t, pl)
	b := pl.session(t, "b", another, 1)
	defer b.conn.Close()
	b.pool(t, dropped, wire.Ephemeral)
	for page := range uint64(2000) { // together a half
		a.put(t, dropped, page, 1, make([]byte, 1000))
		b.put(t, dropped, page, 1, make([]byte, 1000))
	}
	for page := range uint64(12000) {
		b.put(t, dropped, 10000+page, 1, make([]byte, 1000))
		a.put(t, dropped, 10000+page, 1, make([]byte, 1000))
	}
	s := pl.donor.Stats()
	ratio := float64(s.Clients[1].Used) / float64(s.Clients[0].Used)
	if ratio < 2.5 || ratio > 3.5 {
		t.Errorf("a, of weight 1, uses %d bytes, b, of weight 3, %d", s.Clients[0].Used, s.Clients[1].Used)
	}
}

// TestWanted: a limit that is lowered takes ephemeral pages first, and asks for the
// others those who are furthest above their share.
func TestWanted(t *testing.T) {
	pl := newPlace(t, Config{Limit: 8 << 20, Clients: map[string]Grant{"a": {Quota: 1 << 30, Weight: 1}, "b": {Quota: 1 << 30, Weight: 2}, "c": {Quota: 1 << 30, Weight: 1}}})
	a, b, c := newPeer(t, pl), pl.session(t, "b", another, 1), pl.session(t, "c", another, 1)
	defer b.conn.Close()
	defer c.conn.Close()
	b.pool(t, kept, 0)
	c.pool(t, dropped, wire.Ephemeral)
	for page := range uint64(2500) { // 2.5 MiB each
		a.put(t, kept, page, 1, make([]byte, 1000))
		b.put(t, kept, page, 1, make([]byte, 1000))
	}
	for page := range uint64(1500) {
		c.put(t, dropped, page, 1, make([]byte, 1000))
	}
	if err := pl.donor.SetLimit(6 << 20); err != nil {
		t.Fatal(err)
	}
	eventually(t, "ephemeral pages are dropped", func() bool { s := pl.donor.Stats(); return s.HeldBytes <= 6<<20 && s.Clients[2].Ephemeral < 1500 })
	for _, p := range []*peer{a, b} {
		if room, reply := p.room(t); room.Pages != 2500 || room.Wanted != 0 || reply.Flags != 0 {
			t.Errorf("while ephemeral pages do: %+v, flags %d", room, reply.Flags)
		}
	}
	if err := pl.donor.SetLimit(4 << 20); err != nil {
		t.Fatal(err)
	}
	eventually(t, "pages are wanted", func() bool { return pl.donor.Stats().Clients[0].Wanted > 1e6 })
	roomA, reply := a.room(t)
	roomB, replyB := b.room(t)
	// The sum has to come down to 4 MiB: a to a third of that, b may keep nearly all.
	if reply.Flags&wire.WantsBack == 0 || roomA.Wanted < roomB.Wanted || roomB.Wanted > 200<<10 || roomB.Pages != 2500 || roomA.Pages != 2500 {
		t.Errorf("a %+v (%d), b %+v (%d)", roomA, reply.Flags, roomB, replyB.Flags)
	}
	if room, _ := c.room(t); room.Pages != 0 {
		t.Errorf("pages are wanted, and there are %d ephemeral ones", room.Pages)
	}
	if got := a.put(t, kept, 9000, 1, make([]byte, 1000)); got != wire.Full {
		t.Errorf("a put of who is to take pages back: %v", got)
	}
	// Both take back what they are asked for.
	for page := uint64(0); page < 2500; page++ {
		for _, p := range []*peer{a, b} {
			if room, _ := p.room(t); room.Wanted > 0 {
				if generation, data := p.get(t, kept, page, 0); generation != 1 || !bytes.Equal(data, make([]byte, 1000)) {
					t.Fatalf("page %d is not there to be taken back", page)
				}
				p.flush(t, kept, page, 1, 1)
			}
		}
	}
	eventually(t, "the limit is kept, and nothing wanted", func() bool {
		s := pl.donor.Stats()
		return s.HeldBytes <= 4<<20+arena.ChunkSize && s.Clients[0].Wanted == 0 && s.Clients[1].Wanted == 0
	})
	if err := pl.donor.SetLimit(8 << 20); err != nil {
		t.Fatal(err)
	}
	eventually(t, "there is room again", func() bool { return a.put(t, kept, 9000, 1, make([]byte, 1000)) == wire.OK })
	for _, limit := range []int64{0, arena.ChunkSize - 1, 65 << 20} {
		if pl.donor.SetLimit(limit) == nil {
			t.Errorf("a limit of %d bytes was set", limit)
		}
	}
}

// TestLevel: the total is shared out, nobody is asked who is below a level that the
// others are at.
func TestLevel(t *testing.T) {
	check := func(used [5]uint32, weights [5]uint8, total uint32) bool {
		shares := make([]share, len(used))
		sum := int64(0)
		for i := range shares {
			shares[i] = share{used: int64(used[i]) + 1, weight: int64(weights[i]) + 1}
			sum += shares[i].used
		}
		want := int64(float64(sum) * float64(total) / math.MaxUint32)
		level(shares, want)
		got, most, least := int64(0), 0.0, math.Inf(1)
		for _, s := range shares {
			got += s.target
			if s.target < 0 || s.target > s.used {
				return false
			}
			most = max(most, float64(s.target)/float64(s.weight))
			if s.target < s.used {
				least = min(least, float64(s.target+1)/float64(s.weight))
			}
		}
		return got <= want && got >= want-int64(len(shares)) && least >= most*(1-1e-6)-1
	}
	if err := quick.Check(check, &quick.Config{MaxCount: 10000}); err != nil {
		t.Error(err)
	}
}

// TestSparse: pages far from each other cost nodes, which their client is charged with.
func TestSparse(t *testing.T) {
	pl := newPlace(t, Config{Limit: 4 << 20, Clients: map[string]Grant{"a": {Quota: 1 << 20}, "b": {Quota: 1 << 30}}})
	p := newPeer(t, pl)
	stored := uint64(0)
	for page := range uint64(1000) {
		if p.put(t, kept, page<<28, 1, []byte{1}) == wire.OK {
			stored++
		}
	}
	room, _ := p.room(t)
	if room.Used > 1<<20+5*4096 || stored > 200 || stored < 50 {
		t.Errorf("%d pages, %+v", stored, room)
	}
	// Without a quota in the way, the limit is.
	b := pl.session(t, "b", another, 1)
	defer b.conn.Close()
	b.pool(t, kept, 0)
	for page := range uint64(2000) {
		b.put(t, kept, page<<28, 1, []byte{1})
	}
	if s := pl.donor.Stats(); s.HeldBytes > 4<<20+arena.ChunkSize {
		t.Errorf("%d bytes held", s.HeldBytes)
	}
	b.must(t, wire.OK, wire.Request{Operation: wire.Destroy, Pool: kept}, nil)
	if got := b.put(t, kept, 1, 1, []byte{1}); got != wire.Gone {
		t.Errorf("%v", got)
	}
	b.pool(t, kept, 0)
	if got := b.put(t, kept, 1, 1, []byte{1}); got != wire.OK {
		t.Errorf("after the nodes went: %v", got)
	}
}

// TestDamage: a page that changed in memory is none, and in nobody's way.
func TestDamage(t *testing.T) {
	pl := newPlace(t, Config{})
	p := newPeer(t, pl)
	d := pl.donor
	pool := d.owners[ownerKey{d.clients["a"], someone.Identity}].pools[kept]
	damage := func(page uint64, at int) {
		o, ok := d.arena.Get(refOf(pool.table.Get(page)))
		if !ok {
			t.Fatal("no object")
		}
		o.Data[at] ^= 0x40
	}
	for page := range uint64(4) {
		p.put(t, kept, page, 5, sealed(page, 5))
	}
	p.room(t)
	damage(0, versionSize+3)
	if _, data := p.get(t, kept, 0, 0); data != nil {
		t.Error("a damaged page is answered")
	}
	damage(1, 6) // its generation is enormous now
	if got := p.put(t, kept, 1, 6, sealed(1, 6)); got != wire.OK {
		t.Errorf("in the place of a damaged one: %v", got)
	}
	if _, data := p.get(t, kept, 1, 0); !bytes.Equal(data, sealed(1, 6)) {
		t.Error("the page after a damaged one")
	}
	damage(2, versionSize)
	if got := p.put(t, kept, 2, 5, sealed(2, 5)); got != wire.OK {
		t.Errorf("the same version again: %v", got)
	}
	if _, data := p.get(t, kept, 2, 0); !bytes.Equal(data, sealed(2, 5)) {
		t.Error("the same version again is not there")
	}
	// A word that leads to another's object.
	pool.table.Set(3, pool.table.Get(2))
	if _, data := p.get(t, kept, 3, 0); data != nil {
		t.Error("another page is answered")
	}
	if _, data := p.get(t, kept, 2, 0); !bytes.Equal(data, sealed(2, 5)) {
		t.Error("it is gone from its own place")
	}
	if s := d.Stats(); s.Corrupt != 4 {
		t.Errorf("%d pages found damaged, want 4", s.Corrupt)
	}
}
