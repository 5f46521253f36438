package donor

import (
	"bytes"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/tmemd/tmemd/backends/arena"
	"github.com/tmemd/tmemd/backends/ramster/wire"
)

// TestConcurrent has owners store, fetch and flush at once, pipelined, while limits,
// grants and sessions change.
func TestConcurrent(t *testing.T) {
	grants := map[string]Grant{"a": {Quota: 1 << 30}, "b": {Quota: 1 << 30, Weight: 3}, "c": {Quota: 1 << 20}}
	pl := newPlace(t, Config{Limit: 6 << 20, Clients: grants})
	stop := make(chan struct{})
	var owners, others sync.WaitGroup
	for i, name := range []string{"a", "a", "b", "c"} {
		party := wire.Party{Identity: [16]byte{byte(i + 1)}, Epoch: [16]byte{1}}
		// One at a time: the name goes with the place.
		session := uint64(1)
		peer := pl.session(t, name, party, session)
		owners.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(i)))
			peer.pool(t, kept, 0)
			peer.pool(t, dropped, wire.Ephemeral)
			has := make(map[uint64]uint64)
			for generation := uint64(1); generation < 6000; generation++ {
				page := random.Uint64N(900)
				switch random.IntN(10) {
				case 0, 1, 2:
					switch got := peer.put(t, kept, page, generation, bytesOf(page, generation)); got {
					case wire.OK:
						has[page] = generation
					case wire.Full:
						delete(has, page)
					default:
						t.Errorf("put: %v", got)
					}
				case 3, 4, 5:
					peer.put(t, dropped, page, generation, bytesOf(page, generation))
				case 6:
					if generation, data := peer.get(t, dropped, page, 0); data != nil && !bytes.Equal(data, bytesOf(page, generation)) {
						t.Errorf("ephemeral page %d, generation %d: other bytes", page, generation)
					}
				case 7:
					peer.flush(t, kept, page, 1, generation)
					delete(has, page)
				default:
					got, data := peer.get(t, kept, page, 0)
					if got != has[page] || got != 0 && !bytes.Equal(data, bytesOf(page, got)) {
						t.Errorf("page %d: generation %d, want %d", page, got, has[page])
						return
					}
				}
				if generation%1000 == 0 {
					peer.must(t, wire.OK, wire.Request{Operation: wire.Destroy, Pool: dropped}, nil)
					peer.pool(t, dropped, wire.Ephemeral)
				}
			}
			for page, generation := range has {
				if got, data := peer.get(t, kept, page, 0); got != generation || !bytes.Equal(data, bytesOf(page, generation)) {
					t.Errorf("page %d: generation %d, want %d", page, got, generation)
				}
			}
			peer.conn.Close()
		})
	}
	others.Go(func() {
		random := rand.New(rand.NewPCG(2, 2))
		for {
			select {
			case <-stop:
				return
			case <-time.After(3 * time.Millisecond):
			}
			if err := pl.donor.SetLimit(3<<20 + random.Int64N(60)*arena.ChunkSize); err != nil {
				t.Error(err)
			}
			if err := pl.donor.SetClients(grants); err != nil {
				t.Error(err)
			}
			pl.donor.compact(8)
			pl.donor.Stats()
		}
	})
	owners.Wait()
	close(stop)
	others.Wait()
	s := pl.donor.Stats()
	if s.Corrupt != 0 || s.Evicted == 0 || s.Compacted == 0 {
		t.Errorf("%d corrupt, %d dropped, %d moved", s.Corrupt, s.Evicted, s.Compacted)
	}
}

// TestPipelined: many requests are answered in order, many with one write.
func TestPipelined(t *testing.T) {
	pl := newPlace(t, Config{})
	p := newPeer(t, pl)
	const pages = 20000
	go func() {
		for page := range uint64(pages) {
			p.send(wire.Request{Operation: wire.Put, Pool: kept, Page: page % 1000, Generation: page + 1}, bytesOf(page%1000, page+1))
		}
	}()
	first := uint64(3 + 1) // after hello and two pools
	for n := range uint64(pages) {
		a, _, err := p.receive()
		if err != nil || a.Number != first+n || a.Status != wire.OK {
			t.Fatalf("reply %d: %+v, %v", n, a, err)
		}
	}
}

// TestEndsWithClose: connections in any state do not keep Close.
func TestEndsWithClose(t *testing.T) {
	pl := newPlace(t, Config{})
	p := newPeer(t, pl)
	silent := pl.dial(t, "a")
	defer silent.conn.Close()
	full := pl.session(t, "b", another, 1)
	defer full.conn.Close()
	full.pool(t, kept, 0)
	full.put(t, kept, 1, 1, make([]byte, wire.MaxBlob))
	full.conn.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
	for full.send(wire.Request{Operation: wire.Get, Pool: kept, Page: 1, Count: 64}, nil) == nil {
	}
	pl.reopen(t)
	p.ends(t)
	silent.ends(t)
}
