package donor

import (
	"bytes"
	"testing"

	"github.com/tmemd/tmemd/backends/ramster/wire"
)

const (
	kept    = 7 // a persistent pool
	dropped = 8 // an ephemeral one
)

func newPeer(t *testing.T, pl *place) *peer {
	t.Helper()
	p := pl.session(t, "a", someone, 1)
	t.Cleanup(func() { p.conn.Close() })
	p.pool(t, kept, 0)
	p.pool(t, dropped, wire.Ephemeral)
	return p
}

func TestPutAndGet(t *testing.T) {
	p := newPeer(t, newPlace(t, Config{}))
	for _, pool := range []uint32{kept, dropped} {
		for _, page := range []uint64{0, 1, 511, 512, 1 << 20, wire.MaxPages - 1} {
			data := sealed(page, 5)
			if got := p.put(t, pool, page, 5, data); got != wire.OK {
				t.Fatalf("put of page %d: %v", page, got)
			}
			for range 2 { // a get takes nothing away
				if generation, got := p.get(t, pool, page, 0); generation != 5 || !bytes.Equal(got, data) {
					t.Fatalf("get of page %d: generation %d, %d bytes", page, generation, len(got))
				}
			}
		}
		if _, got := p.get(t, pool, 2, 0); got != nil {
			t.Error("a page that was never put")
		}
	}
	for _, length := range []int{1, 15, 16, 17, 4096, wire.MaxBlob} {
		data := bytes.Repeat([]byte{byte(length)}, length)
		p.put(t, kept, 77, uint64(1000+length), data)
		if _, got := p.get(t, kept, 77, 0); !bytes.Equal(got, data) {
			t.Errorf("%d bytes come back as %d", length, len(got))
		}
	}
}

func TestGenerations(t *testing.T) {
	p := newPeer(t, newPlace(t, Config{}))
	put := func(generation uint64, want wire.Status) {
		t.Helper()
		if got := p.put(t, kept, 1, generation, sealed(1, generation)); got != want {
			t.Fatalf("put of generation %d: %v, want %v", generation, got, want)
		}
	}
	is := func(want uint64) {
		t.Helper()
		generation, data := p.get(t, kept, 1, 0)
		if generation != want || want != 0 && !bytes.Equal(data, sealed(1, want)) {
			t.Fatalf("generation %d is there, want %d", generation, want)
		}
	}
	flush := func(generation uint64, want wire.Status) {
		t.Helper()
		if got := p.flush(t, kept, 1, 1, generation); got != want {
			t.Fatalf("flush of generation %d: %v, want %v", generation, got, want)
		}
	}
	put(10, wire.OK)
	put(10, wire.OK) // a repeat
	put(9, wire.Stale)
	is(10)
	put(12, wire.OK)
	put(10, wire.Stale)
	flush(11, wire.None)
	is(12)
	flush(12, wire.OK)
	flush(12, wire.None)
	is(0)
	put(13, wire.OK)
	flush(1<<63, wire.OK)
	is(0)
}

func TestRuns(t *testing.T) {
	p := newPeer(t, newPlace(t, Config{}))
	const first = 1024 - 20
	for i := uint64(0); i < 64; i += 2 {
		p.put(t, kept, first+i, 100+i, sealed(first+i, 100+i))
	}
	check := func(flushed func(page uint64) bool) {
		t.Helper()
		if err := p.send(wire.Request{Operation: wire.Get, Pool: kept, Page: first, Count: wire.MaxRun}, nil); err != nil {
			t.Fatal(err)
		}
		for i := range uint64(wire.MaxRun) {
			a, b, err := p.receive()
			page := first + i
			if err != nil || a.Page != page || a.Number != p.number || (a.Flags&wire.More != 0) != (i < wire.MaxRun-1) {
				t.Fatalf("reply %d: %+v, %v", i, a, err)
			}
			if i%2 == 1 || flushed(page) {
				if a.Status != wire.None {
					t.Fatalf("page %d: %v, want none", page, a.Status)
				}
			} else if a.Status != wire.OK || a.Generation != 100+i || !bytes.Equal(b, sealed(page, 100+i)) {
				t.Fatalf("page %d: %+v", page, a)
			}
		}
	}
	check(func(uint64) bool { return false })
	if got := p.flush(t, kept, first+4, 3, 200); got != wire.OK {
		t.Fatalf("flush: %v", got)
	}
	check(func(page uint64) bool { return page >= first+4 && page < first+7 })
	// Of an object's pages those that are not newer.
	p.must(t, wire.OK, wire.Request{Operation: wire.FlushObject, Pool: kept, Page: 1024, Generation: 130}, nil)
	check(func(page uint64) bool {
		return page >= first+4 && page < first+7 || page >= 1024 && 100+page-first <= 130
	})
	p.must(t, wire.None, wire.Request{Operation: wire.FlushObject, Pool: kept, Page: 2048, Generation: 130}, nil)
	if got := p.flush(t, kept, 0, 65535, 1000); got != wire.OK {
		t.Fatalf("flush: %v", got)
	}
	check(func(uint64) bool { return true })
	if room, _ := p.room(t); room.Pages != 0 {
		t.Errorf("%d pages left", room.Pages)
	}
}

func TestExclusiveGet(t *testing.T) {
	pl := newPlace(t, Config{})
	p := newPeer(t, pl)
	p.put(t, dropped, 1, 5, sealed(1, 5))
	if generation, got := p.get(t, dropped, 1, wire.Exclusive); generation != 5 || !bytes.Equal(got, sealed(1, 5)) {
		t.Fatalf("generation %d", generation)
	}
	if _, got := p.get(t, dropped, 1, 0); got != nil {
		t.Error("an exclusive get left the page")
	}
	p.put(t, kept, 1, 5, sealed(1, 5))
	p.must(t, wire.Bad, wire.Request{Operation: wire.Get, Pool: kept, Page: 1, Count: 1, Flags: wire.Exclusive}, nil)
	p.ends(t)
	p = pl.session(t, "a", someone, 2)
	defer p.conn.Close()
	if _, got := p.get(t, kept, 1, 0); got == nil {
		t.Error("an exclusive get of a persistent pool took the page")
	}
}

func TestList(t *testing.T) {
	p := newPeer(t, newPlace(t, Config{}))
	want := make(map[uint64]uint64)
	for i := range uint64(1000) {
		page := i * i % 70000 * 13
		p.put(t, kept, page, i+1, sealed(page, i+1))
		want[page] = i + 1
	}
	got, next, last := make(map[uint64]uint64), uint64(0), int64(-1)
	for next < wire.MaxPages {
		a, b := p.must(t, wire.OK, wire.Request{Operation: wire.List, Pool: kept, Page: next, Count: 100}, nil)
		for ; len(b) > 0; b = b[wire.ListedSize:] {
			l := wire.DecodeListed(b)
			if int64(l.Page) <= last {
				t.Fatalf("page %d after %d", l.Page, last)
			}
			got[l.Page], last = l.Generation, int64(l.Page)
		}
		next = a.Page
	}
	if len(got) != len(want) {
		t.Fatalf("%d pages are listed, want %d", len(got), len(want))
	}
	for page, generation := range want {
		if got[page] != generation {
			t.Fatalf("page %d is listed as generation %d, want %d", page, got[page], generation)
		}
	}
}

func TestPools(t *testing.T) {
	pl := newPlace(t, Config{})
	p := newPeer(t, pl)
	for _, r := range []wire.Request{
		{Operation: wire.Put, Pool: 99, Page: 1, Generation: 1, Length: 1},
		{Operation: wire.Get, Pool: 99, Page: 1, Count: 1},
		{Operation: wire.Flush, Pool: 99, Page: 1, Count: 1, Generation: 1},
		{Operation: wire.FlushObject, Pool: 99, Page: 1024, Generation: 1},
		{Operation: wire.Destroy, Pool: 99},
		{Operation: wire.List, Pool: 99, Count: 1},
	} {
		p.must(t, wire.Gone, r, make([]byte, r.Length))
	}
	// Between requests nothing is under way.
	number := func() uint32 {
		return pl.donor.owners[ownerKey{pl.donor.clients["a"], someone.Identity}].pools[kept].number
	}
	p.pool(t, kept, 0) // again
	p.put(t, kept, 1, 5, sealed(1, 5))
	p.put(t, dropped, 1, 6, sealed(1, 6))
	before := number()
	p.must(t, wire.OK, wire.Request{Operation: wire.Destroy, Pool: kept}, nil)
	p.must(t, wire.Gone, wire.Request{Operation: wire.Get, Pool: kept, Page: 1, Count: 1}, nil)
	p.pool(t, kept, 0)
	if now := number(); now == before || now%maxPools != before%maxPools {
		t.Errorf("a pool in the place of another has the number %#x, and that had %#x", now, before)
	}
	if _, got := p.get(t, kept, 1, 0); got != nil {
		t.Error("a page of the pool before")
	}
	if generation, _ := p.get(t, dropped, 1, 0); generation != 6 {
		t.Error("another pool lost its page")
	}
	p.must(t, wire.OK, wire.Request{Operation: wire.Destroy, Pool: kept}, nil)
	p.must(t, wire.OK, wire.Request{Operation: wire.Destroy, Pool: dropped}, nil)
	if s := pl.donor.Stats(); s.UsedBytes != 0 || s.Clients[0].Persistent != 0 || s.Clients[0].Ephemeral != 0 || s.Pools != 0 {
		t.Errorf("without pools: %+v", s.Clients)
	}
	p.pool(t, kept, wire.Ephemeral)
	p.must(t, wire.Bad, wire.Request{Operation: wire.Pool, Pool: kept}, nil)
	p.ends(t)
}

// TestPoolsAreBounded: what one client can have does not keep others out.
func TestPoolsAreBounded(t *testing.T) {
	pl := newPlace(t, Config{})
	a, b := pl.session(t, "a", someone, 1), pl.session(t, "b", another, 1)
	defer a.conn.Close()
	defer b.conn.Close()
	for i := range uint32(maxPoolsOfClient) {
		a.pool(t, i, 0)
	}
	a.must(t, wire.Full, wire.Request{Operation: wire.Pool, Pool: maxPoolsOfClient}, nil)
	b.pool(t, 1, 0)
	a.must(t, wire.OK, wire.Request{Operation: wire.Destroy, Pool: 3}, nil)
	a.pool(t, maxPoolsOfClient, 0)
}

func TestFreeze(t *testing.T) {
	pl := newPlace(t, Config{})
	p := newPeer(t, pl)
	for page := range uint64(4) {
		p.put(t, kept, page, 5, sealed(page, 5))
	}
	pl.donor.Freeze()
	for _, c := range []struct {
		page, generation uint64
		want             wire.Status
		left             uint64
	}{
		{9, 6, wire.Frozen, 0},
		{0, 6, wire.Frozen, 0}, // no older one is left
		{1, 5, wire.OK, 5},
		{2, 4, wire.Stale, 5},
	} {
		if got := p.put(t, kept, c.page, c.generation, sealed(c.page, c.generation)); got != c.want {
			t.Errorf("put of page %d, generation %d: %v, want %v", c.page, c.generation, got, c.want)
		}
		if generation, _ := p.get(t, kept, c.page, 0); generation != c.left {
			t.Errorf("generation %d of page %d is left, want %d", generation, c.page, c.left)
		}
	}
	if room, _ := p.room(t); !room.Frozen {
		t.Error("the account does not say frozen")
	}
	if got := p.flush(t, kept, 3, 1, 5); got != wire.OK {
		t.Errorf("flush: %v", got)
	}
	pl.donor.Thaw()
	if got := p.put(t, kept, 9, 6, sealed(9, 6)); got != wire.OK {
		t.Errorf("put after thaw: %v", got)
	}
}

// TestCounts: what the account and the metrics say is what there is.
func TestCounts(t *testing.T) {
	pl := newPlace(t, Config{})
	p := newPeer(t, pl)
	for page := range uint64(100) {
		p.put(t, kept, page, 1, sealed(page, 1))
	}
	p.get(t, kept, 1000, 0)
	room, a := p.room(t)
	s := pl.donor.Stats()
	if room.Pages != 100 || int64(room.Used) != s.Clients[0].Used || s.UsedBytes != pl.donor.arena.Used()+pl.donor.index.Used() {
		t.Errorf("%+v, %+v", room, s.Clients)
	}
	if room.Quota != 1<<30 || room.Foreign != 0 || room.Weight != 1 || room.Wanted != 0 || a.Flags != 0 || room.Free == 0 || room.Free > 16<<20 {
		t.Errorf("%+v, flags %d", room, a.Flags)
	}
	free := room.Free
	for page := range uint64(100) {
		p.put(t, dropped, page, 1, sealed(page, 1))
	}
	if room, _ := p.room(t); room.Pages != 200 || free-room.Free > 2*4096 { // but for the nodes of an index
		t.Errorf("%d pages, %d bytes free, %d before pages that may be dropped came", room.Pages, room.Free, free)
	}
	for page := range uint64(100) {
		p.get(t, dropped, page, wire.Exclusive)
	}
	if got := pl.donor.droppable.Load() + pl.donor.clients["a"].droppable.Load(); got != 0 {
		t.Errorf("%d bytes can be dropped where nothing is", got)
	}
	if s.Requests[wire.Put][wire.OK] != 100 || s.Requests[wire.Get][wire.None] != 1 || s.Requests[wire.Hello][wire.OK] != 1 || s.Sessions != 1 || s.Pools != 2 {
		t.Errorf("%+v", s)
	}
	if s.HeldBytes > s.LimitBytes || s.HeldBytes < s.UsedBytes {
		t.Errorf("%d bytes held, %d used, limit %d", s.HeldBytes, s.UsedBytes, s.LimitBytes)
	}
}
