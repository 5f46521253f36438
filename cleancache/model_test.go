package cleancache

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/backendtest"
	"github.com/tmemd/tmemd/backends/zcache"
)

// TestModel compares with storage that is a map, while backends come and go and
// forget what they like: a hit is always what storage has, and after a miss there is
// none before a put.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		const pages = 1100
		c := New(quiet())
		p, err := c.InitFS(FSConfig{Name: "disk", ID: 1, Pages: pages})
		if err != nil {
			rt.Fatal(err)
		}
		storage := map[uint64]uint64{} // seeds
		missed := map[uint64]bool{}    // since the last put
		var loaded []*backendtest.Map
		active := map[*backendtest.Map]bool{}
		var want Counters
		follow := func() {
			var named []backends.Named
			for _, b := range loaded {
				if active[b] {
					named = append(named, backends.Named{Name: b.Name, Backend: b})
				}
			}
			c.Follow(named)
		}
		leave := func(rt *rapid.T, i int) {
			b := loaded[i]
			loaded = append(loaded[:i:i], loaded[i+1:]...)
			delete(active, b)
			follow()
			c.Leave(b)
			if err := b.Close(); err != nil || b.Misuse() != nil {
				rt.Fatalf("close of %s: %v, misuse: %v", b.Name, err, b.Misuse())
			}
		}
		page := func(rt *rapid.T) uint64 {
			return rapid.SampledFrom([]uint64{0, 1, 2, 3, 511, 512, 1024, pages - 1}).Draw(rt, "page")
		}
		pick := func(rt *rapid.T) int {
			if len(loaded) == 0 {
				rt.Skip("no backend")
			}
			return rapid.IntRange(0, len(loaded)-1).Draw(rt, "which")
		}
		dst := make([]byte, backends.PageSize)
		made := 0
		rt.Repeat(map[string]func(*rapid.T){
			"put": func(rt *rapid.T) {
				n := page(rt)
				put(p, n, storage[n])
				want.Puts++
				missed[n] = false
			},
			"get": func(rt *rapid.T) {
				n := page(rt)
				p.RLock(n)
				hit := p.GetPage(n, dst)
				p.RUnlock(n)
				if hit && (missed[n] || !bytes.Equal(dst, backendtest.Mixed(storage[n]))) {
					rt.Fatalf("page %d: a hit of other bytes, or after a miss (%v)", n, missed[n])
				}
				if hit {
					want.SuccGets++
				} else {
					want.FailedGets++
				}
				missed[n] = !hit || p.Mode() == Exclusive
			},
			"write": func(rt *rapid.T) {
				n := page(rt)
				p.Lock(n)
				p.InvalidatePage(n)
				storage[n] = rapid.Uint64Range(0, 1<<20).Draw(rt, "seed")
				p.Unlock(n)
				want.Invalidates++
				missed[n] = true
			},
			"forget": func(rt *rapid.T) {
				n := page(rt)
				loaded[pick(rt)].Drop(func(key backends.Key) bool { return key.Page == n })
			},
			"range": func(rt *rapid.T) {
				first, last := page(rt), page(rt)
				p.InvalidateInode(first, last)
				for n := first; n < last; n++ {
					missed[n] = true
				}
			},
			"mode": func(rt *rapid.T) { p.SetMode(Mode(rapid.IntRange(0, 1).Draw(rt, "mode"))) },
			"load": func(rt *rapid.T) {
				if len(loaded) < MaxBackends {
					made++
					b := &backendtest.Map{Name: fmt.Sprint("b", made), Limit: rapid.IntRange(0, 5).Draw(rt, "limit")}
					loaded, active[b] = append(loaded, b), true
					follow()
				}
			},
			"freeze": func(rt *rapid.T) {
				b := loaded[pick(rt)]
				active[b] = !active[b]
				follow()
			},
			"unload": func(rt *rapid.T) { leave(rt, pick(rt)) },
			"": func(rt *rapid.T) {
				s := p.Stats()
				if s.Counters != want {
					rt.Fatalf("counters are %+v, want %+v", s.Counters, want)
				}
				held := uint64(0)
				for _, b := range loaded {
					held += b.Stats().Pages
				}
				words := int64(0)
				for _, n := range s.Backends {
					words += n
				}
				if words < int64(held) {
					rt.Fatalf("words name %d pages, backends have %d", words, held)
				}
			},
		})
		if err := p.InvalidateFS(); err != nil {
			rt.Fatal(err)
		}
		for len(loaded) > 0 {
			leave(rt, 0)
		}
	})
}

// restless is a small zcache in which everything in the background happens all the
// time.
func restless(t testing.TB) *zcache.Cache {
	t.Helper()
	b, err := zcache.New(zcache.Config{Limit: 2 << 20, Cold: 2 * time.Millisecond, ColdPercent: 100, Scrub: 5 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestConcurrently lets readers that fill and writers loose on two disks, with zcaches
// too small for them that are loaded and unloaded: nobody ever gets what storage does
// not have.
func TestConcurrently(t *testing.T) {
	const pages, workers, rounds = 2000, 4, 6000
	c := New(quiet())
	pools := []*Pool{newPoolOf(t, c, 1, pages), newPoolOf(t, c, 1<<31, pages)}
	var storage [2][pages]uint64 // seeds, guarded by the page's lock
	stop := make(chan struct{})
	var coming, working sync.WaitGroup
	stays := restless(t) // from the start: workers may be done before another one is there
	follow(c, stays)
	coming.Go(func() {
		for {
			b := restless(t)
			follow(c, stays, b)
			time.Sleep(3 * time.Millisecond)
			unload(t, c, stays, b)
			stays = b
			select {
			case <-stop:
				unload(t, c, stays)
				return
			default:
			}
		}
	})
	hits := make([]int, workers)
	for w := range workers {
		working.Go(func() {
			random := rand.New(rand.NewPCG(uint64(w), 3))
			dst, want := make([]byte, backends.PageSize), make([]byte, backends.PageSize)
			for range rounds {
				which := random.IntN(2)
				p, page := pools[which], random.Uint64N(pages/(1+19*random.Uint64N(2)))
				switch random.IntN(12) {
				case 0:
					p.Lock(page)
					p.InvalidatePage(page)
					storage[which][page] = random.Uint64N(8)
					p.Unlock(page)
				case 1:
					p.SetMode(Mode(random.IntN(2)))
				case 2:
					p.RLock(page)
					if p.TryGetPage(page, dst) {
						backendtest.FillMixed(want, page<<3|storage[which][page])
						if !bytes.Equal(dst, want) {
							t.Errorf("page %d of disk %d has other bytes than storage", page, which)
						}
					}
					p.RUnlock(page)
					p.GotPages(page, 1)
				default:
					p.RLock(page)
					backendtest.FillMixed(want, page<<3|storage[which][page])
					if p.GetPage(page, dst) {
						hits[w]++
						if !bytes.Equal(dst, want) {
							t.Errorf("page %d of disk %d has other bytes than storage", page, which)
						}
					} else {
						p.PutPage(page, want)
					}
					p.RUnlock(page)
				}
			}
		})
	}
	working.Wait()
	close(stop)
	coming.Wait()
	if slices.Max(hits) == 0 { // of one worker it may be, while backends come and go
		t.Error("nobody had a hit")
	}
	for _, p := range pools {
		for i := range p.pages {
			if n := p.pages[i].Load(); n != 0 {
				t.Errorf("disk %d counts %d pages in a backend that is gone", p.id, n)
			}
		}
		end(t, p)
	}
}

// TestAllocations: neither a hit, nor a miss, nor a put allocates.
func TestAllocations(t *testing.T) {
	c := New(quiet())
	p := newPoolOf(t, c, 1, 1000)
	b, err := zcache.New(zcache.Config{Limit: 16 << 20})
	if err != nil {
		t.Fatal(err)
	}
	follow(c, b)
	data, dst := backendtest.Page(backendtest.Structured, 1), make([]byte, backends.PageSize)
	put(p, 900, 1)
	page := uint64(0)
	n := testing.AllocsPerRun(300, func() {
		p.RLock(page)
		if p.GetPage(page, dst) {
			t.Error("a hit before the put")
		}
		p.PutPage(page, data)
		if !p.GetPage(page, dst) || !p.TryGetPage(page, dst) {
			t.Error("a miss after the put")
		}
		p.RUnlock(page)
		p.GotPages(page, 1)
		p.Lock(page)
		p.InvalidatePage(page)
		p.Unlock(page)
		page++
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
	end(t, p)
	unload(t, c, b)
}
