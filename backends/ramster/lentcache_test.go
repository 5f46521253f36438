package ramster

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/arena"
	"github.com/tmemd/tmemd/backends/backendtest"
	"github.com/tmemd/tmemd/backends/ramster/donor"
	"github.com/tmemd/tmemd/backends/ramster/wire"
	"github.com/tmemd/tmemd/backends/samefilled"
)

// TestCachedUnload: of a backend that has nothing but cached pages, donors are told in an
// instant or not at all.
func TestCachedUnload(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"silent", "away", "killed"} {
		w := newWorld(t, wireConfig(), 10, "a", "b")
		w.host.Close(1)
		if err := w.cache.Close(); err != nil {
			t.Fatal(err)
		}
		w.witness.forget()
		var err error
		if w.cache, err = New(w.config); err != nil {
			t.Fatal(err)
		}
		w.awaitUp()
		if got := w.cache.farewell(); got != goodbyeCached {
			t.Errorf("a backend without pages of swap takes leave for %v", got)
		}
		d := newDisk(t, w.cache, 300)
		d.fill(t)
		for _, h := range w.donors {
			switch how {
			case "silent":
				h.set(&weather{alter: func(wire.Request, *frame) ([]frame, bool) { return nil, false }})
			case "away":
				h.set(&weather{away: true})
			case "killed":
				h.kill(false)
			}
		}
		d.close()
		if got := w.cache.farewell(); got != goodbyeCached {
			t.Errorf("a backend without pages of swap takes leave for %v", got)
		}
		if err := errors.Join(w.cache.Close(), w.folder.Close()); err != nil {
			t.Error(err)
		}
		if s := w.cache.Stats(); s.HeldBytes != 0 {
			t.Errorf("%d bytes held after Close", s.HeldBytes)
		}
	}
}

// TestCachedNetwork has donors in trouble of every kind, two at a time, while a disk is read
// and written and swap goes on: disks get the right bytes or none.
func TestCachedNetwork(t *testing.T) {
	t.Parallel()
	config := wireConfig()
	config.Compare, config.Patience = 200*time.Millisecond, 20*time.Millisecond
	w := newWorld(t, config, 300, "a", "b", "c")
	random := rand.New(rand.NewPCG(w.seed, 96))
	d := newDisk(t, w.cache, 900)
	c := w.clients(1, true)
	defer c.end()
	stop := make(chan struct{})
	var readers sync.WaitGroup
	var work [3]int
	for i := range work {
		readers.Go(func() {
			random := rand.New(rand.NewPCG(w.seed, 50+uint64(i)))
			for {
				select {
				case <-stop:
					return
				default:
				}
				page := random.IntN(len(d.pages))
				switch random.IntN(8) {
				case 0:
					d.write(page)
				case 1:
					for p := page; p < min(page+40, len(d.pages)); p++ {
						d.read(p)
					}
				default:
					if d.read(page) {
						work[i]++
					}
				}
			}
		})
	}
	names := []string{"a", "b", "c"}
	for range soak() {
		for _, n := range random.Perm(len(troubles) - 1) { // but "removed"
			one := random.IntN(3)
			first, second := w.donors[names[one]], w.donors[names[(one+1)%3]]
			undo := []func(){
				troubles[n].do(c, first, random),
				troubles[random.IntN(len(troubles)-1)].do(c, second, random),
			}
			c.awaitWork(100 + random.Int64N(100))
			for _, u := range undo {
				u()
			}
			c.awaitWork(40)
		}
	}
	close(stop)
	readers.Wait()
	c.end()
	for i, hits := range work {
		if hits == 0 {
			t.Errorf("reader %d had no hit", i)
		}
	}
	w.settleCached()
	d.readAll()
	r, s := w.cache.Remote(), w.cache.Stats()
	if s.CorruptLoads != 0 || r.CachedGone == 0 {
		t.Errorf("%+v, %d corrupt", r, s.CorruptLoads)
	}
	t.Logf("%d hits, %d pages gone", work, r.CachedGone)
	d.close()
	for name, h := range w.donors {
		w.await("donors to forget", func() (bool, string) { return h.cachedAt() == 0, name })
	}
	w.end()
}

// TestCachedRestart: a process that takes over finds no cached page, and neither do donors keep
// any of a disk: not of one that is there again, nor of one that is not.
func TestCachedRestart(t *testing.T) {
	t.Parallel()
	for _, again := range []bool{true, false} {
		config := wireConfig()
		config.Deadline = 5 * time.Second // nobody is late here but the machine, and what is late is a miss
		w := newWorld(t, config, 100, "a", "b")
		s := &survivors{world: w}
		for page := range w.pages {
			if _, err := w.host.Write(key(page), backendtest.Mixed(page)); err != nil {
				t.Fatal(err)
			}
		}
		w.settle(2)
		d := newDisk(t, w.cache, 400)
		d.fill(t)
		w.await("pages to be at donors", func() (bool, string) {
			return w.donors["a"].cachedAt()+w.donors["b"].cachedAt() == w.cache.Remote().Cached, w.describe()
		})
		held := s.die()
		s.openFolder()
		var err error
		if s.cache, err = Open(s.config); err != nil {
			t.Fatal(err)
		}
		for page := range d.pages {
			if d.pages[page].cached && !isSame(d.pages[page].handle) && s.cache.Adopt(d.key(page), d.pages[page].handle) {
				t.Fatalf("B27: ephemeral page %d was adopted", page)
			}
		}
		for page, handle := range held {
			s.adopt(page, handle)
		}
		if orphans, err := s.cache.Adopted(); err != nil || orphans != 0 {
			t.Errorf("B27: %d orphans, %v", orphans, err)
		}
		s.host = &backendtest.Host{Backend: s.cache}
		if err := s.host.Open(1, s.pages); err != nil {
			t.Fatal(err)
		}
		for page, handle := range held {
			s.host.Adopted(key(page), handle, backendtest.Mixed(page))
		}
		if again {
			d = newDisk(t, s.cache, 400)
		}
		w.await("donors to have none", func() (bool, string) {
			return w.donors["a"].cachedAt()+w.donors["b"].cachedAt() == 0, w.describe()
		})
		w.awaitUp()
		if again {
			d.fill(t)
			d.close()
		}
		if err := s.host.Check(1); err != nil {
			t.Error(err)
		}
		w.settle(2)
		w.end()
	}
}

// TestCachedNumberTaken: a number that was a disk's and is that of swap now is not destroyed.
func TestCachedNumberTaken(t *testing.T) {
	l, err := createLedger(arena.Place{}, [16]byte{}, func(string, ...any) {})
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	used := func(n uint32) bool { return n != 7 }
	for n := range uint32(cachedMost) {
		for range 2 {
			if !l.noteCached(n, used) {
				t.Fatalf("no place for pool %d", n)
			}
		}
	}
	if got := len(l.cachedPools()); got != cachedMost {
		t.Errorf("%d pools", got)
	}
	if !l.noteCached(0xffffffff, used) || l.noteCached(5000, func(uint32) bool { return true }) {
		t.Error("the place of a pool that is not in use, or of one that is")
	}
	l.unnoteCached(3)
	l.unnoteCached(3)
	got := l.cachedPools()
	if len(got) != cachedMost-1 || got[3] != 4 || got[6] != 0xffffffff {
		t.Errorf("%d pools: %d", len(got), got[:8])
	}
}

// TestDonorDropsFirst has two owners at one donor: disks' pages of both go before any page of
// swap is refused, whoever's.
func TestDonorDropsFirst(t *testing.T) {
	t.Parallel()
	for name, config := range map[string]donor.Config{
		"memory": {Limit: 2 << 20, Capacity: 2 << 20, Clients: map[string]donor.Grant{"one": {Quota: 1 << 30}, "two": {Quota: 1 << 30}}},
		"quota":  {Limit: 64 << 20, Capacity: 64 << 20, Clients: map[string]donor.Grant{"one": {Quota: 2 << 20}, "two": {Quota: 2 << 20}}},
	} {
		t.Run(name, func(t *testing.T) {
			lender := newShared(t, config)
			one, two := lender.owner("one"), lender.owner("two")
			fill := func(o *Cache, pages int) *disk {
				d := newDisk(t, o, pages)
				for range 2 {
					for page := range d.pages {
						d.read(page)
						if page%200 == 0 {
							await(t, "flights to land", func() bool { return o.Donors()[0].Session.Waiting == 0 })
						}
					}
				}
				return d
			}
			first, second := fill(one, 1500), fill(two, 1500)
			if s := lender.donor.Stats(); s.Evicted == 0 || s.Clients[0].Ephemeral < 200 || s.Clients[1].Ephemeral < 200 {
				t.Fatalf("the donor is not full of cached pages: %+v", s)
			}
			asked := two.Donors()[0].Session.RoundTrips // nothing else is under way
			await(t, "the donor to say how much is free", func() bool { return two.Donors()[0].Session.RoundTrips > asked+1 })
			if free := two.Donors()[0].Free; free < 3<<19 {
				t.Errorf("a donor full of cached pages has %d bytes free", free)
			}
			host := &backendtest.Host{Backend: two}
			const pages = 20000
			if err := host.Open(1, pages); err != nil {
				t.Fatal(err)
			}
			// As much as the donor takes: then it says so, and there is no cached page left that
			// could have made room.
			refused := func() bool { return lender.donor.Stats().Requests[wire.Put][wire.Full] > 0 }
			sent := uint64(0)
			for ; sent < pages && !refused(); sent++ {
				if _, err := host.Write(backends.Key{Export: 1, Page: sent}, backendtest.Page(backendtest.Structured, sent)); err != nil {
					t.Fatal(err)
				}
				if sent%100 == 0 {
					await(t, "pages of swap to leave", func() bool { return two.Remote().Staged == 0 || refused() })
				}
			}
			s := lender.donor.Stats()
			if !refused() || s.Clients[1].Persistent < 500 {
				t.Errorf("the donor took %d pages of swap of %d: %+v", s.Clients[1].Persistent, sent, s)
			}
			if s.Clients[1].Ephemeral != 0 || name == "memory" && s.Clients[0].Ephemeral != 0 {
				t.Errorf("a page of swap was refused beside %d and %d cached ones", s.Clients[0].Ephemeral, s.Clients[1].Ephemeral)
			}
			if err := host.Check(1); err != nil {
				t.Error(err)
			}
			first.readAll()
			second.readAll()
			host.Close(1)
			first.close()
			second.close()
			if err := errors.Join(one.Close(), two.Close()); err != nil {
				t.Error(err)
			}
		})
	}
}

// shared is one donor with several clients.
type shared struct {
	testing.TB
	donor  *donor.Donor
	accept chan net.Conn
}

type namedConn struct {
	net.Conn
	name string
}

func newShared(t testing.TB, config donor.Config) *shared {
	s := &shared{TB: t, accept: newListener()}
	config.Identity = [16]byte{3}
	config.Identify = func(conn net.Conn) ([]string, error) { return []string{conn.(namedConn).name}, nil }
	var err error
	if s.donor, err = donor.New(config); err != nil {
		t.Fatal(err)
	}
	var served sync.WaitGroup
	served.Go(func() { _ = s.donor.Serve(listener(s.accept)) })
	t.Cleanup(func() {
		if err := s.donor.Close(); err != nil {
			t.Error(err)
		}
		served.Wait()
	})
	return s
}

func (s *shared) owner(name string) *Cache {
	config := wireConfig()
	config.Copies, config.Identity, config.Donors = 1, [16]byte{}, []Donor{{"d", "d"}}
	config.Dial = func(context.Context, string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		s.accept <- namedConn{theirs, name}
		return ours, nil
	}
	c, err := New(config)
	if err != nil {
		s.Fatal(err)
	}
	awaitDonors(s, c)
	return c
}

func isSame(handle backends.Handle) bool { return samefilled.Is(handle) }
