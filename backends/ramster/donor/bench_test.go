package donor

import (
	"testing"

	"github.com/tmemd/tmemd/backends/ramster/wire"
)

// TestAllocations: a request costs no garbage, in the connection nor in the memory.
func TestAllocations(t *testing.T) {
	pl := newPlace(t, Config{Limit: 4 << 20})
	p := newPeer(t, pl)
	data := make([]byte, 1500)
	page, generation := uint64(0), uint64(0)
	round := func() {
		generation++
		page = generation * 7 % 4000
		for _, pool := range []uint32{kept, dropped} { // the limit makes room for a half
			p.put(t, pool, page, generation, data[:200+generation%1300])
			p.get(t, pool, page, 0)
			p.flush(t, pool, page+700, 3, generation)
		}
		p.must(t, wire.OK, wire.Request{Operation: wire.List, Pool: kept, Page: page, Count: 20}, nil)
		p.room(t)
	}
	for range 3000 {
		round()
	}
	// The background may do something in between.
	if n := testing.AllocsPerRun(2000, round); n >= 1 {
		t.Errorf("%v allocations for 8 requests", n)
	}
	if s := pl.donor.Stats(); s.Evicted == 0 {
		t.Error("nothing was dropped meanwhile")
	}
}

func benchmark(b *testing.B, depth int, request func(n uint64) (wire.Request, []byte)) {
	pl := newPlace(b, Config{Limit: 256 << 20, Capacity: 256 << 20})
	p := pl.session(b, "a", someone, 1)
	defer p.conn.Close()
	p.pool(b, kept, 0)
	data := make([]byte, 1800)
	for page := range uint64(50000) {
		p.put(b, kept, page, 1, data)
	}
	b.SetBytes(4096)
	b.ReportAllocs()
	b.ResetTimer()
	tokens := make(chan struct{}, depth)
	go func() {
		for n := range uint64(b.N) {
			tokens <- struct{}{}
			r, payload := request(n)
			p.send(r, payload)
		}
	}()
	for range b.N {
		if _, _, err := p.receive(); err != nil {
			b.Fatal(err)
		}
		<-tokens
	}
}

// The owner's side here makes a system call for each request: the time is mostly its.
func BenchmarkRequests(b *testing.B) {
	data := make([]byte, 1800)
	get := func(n uint64) (wire.Request, []byte) {
		return wire.Request{Operation: wire.Get, Pool: kept, Page: n * 7919 % 50000, Count: 1}, nil
	}
	put := func(n uint64) (wire.Request, []byte) {
		return wire.Request{Operation: wire.Put, Pool: kept, Page: n * 7919 % 50000, Generation: n + 2}, data
	}
	b.Run("get/1", func(b *testing.B) { benchmark(b, 1, get) })
	b.Run("get/16", func(b *testing.B) { benchmark(b, 16, get) })
	b.Run("put/1", func(b *testing.B) { benchmark(b, 1, put) })
	b.Run("put/16", func(b *testing.B) { benchmark(b, 16, put) })
}

// BenchmarkPages is what a request costs without a connection.
func BenchmarkPages(b *testing.B) {
	pl := newPlace(b, Config{Limit: 256 << 20, Capacity: 256 << 20})
	p := pl.session(b, "a", someone, 1)
	defer p.conn.Close()
	p.pool(b, kept, 0)
	d := pl.donor
	pool := d.owners[ownerKey{d.clients["a"], someone.Identity}].pools[kept]
	data, dst := make([]byte, 1800), make([]byte, wire.MaxBlob)
	for page := range uint64(50000) {
		data[0] = 1
		d.put(pool, page, 1, data)
	}
	b.Run("get", func(b *testing.B) {
		b.ReportAllocs()
		for n := range uint64(b.N) {
			if _, _, ok := d.get(pool, n*7919%50000, false, dst); !ok {
				b.Fatal("a page is gone")
			}
		}
	})
	b.Run("put", func(b *testing.B) {
		b.ReportAllocs()
		for n := range uint64(b.N) {
			generation := n + 2
			for i := range versionSize {
				data[i] = byte(generation >> (8 * i))
			}
			if got := d.put(pool, n*7919%50000, generation, data); got != wire.OK && got != wire.Stale {
				b.Fatal(got)
			}
		}
	})
}
