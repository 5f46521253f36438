package ramster

import (
	"bytes"
	"testing"
	"time"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/arena"
)

// TestCached: pages of a disk have one copy each, are read from donors, and leave nothing behind.
func TestCached(t *testing.T) {
	n := newNetwork("a", "b", "c")
	config := testConfig("a", "b", "c")
	config.Compare = 100 * time.Millisecond // more is written at once than fits into a session's backlog
	o := newOwner(t, config, n)
	d := newDisk(t, o.Cache, 3000)
	d.fill(t)
	count := func() (pages int64) {
		for _, donor := range n.donors {
			pages += int64(donor.count())
		}
		return pages
	}
	await(t, "one copy of each", func() bool { return count() == o.Remote().Cached })
	before := o.Remote()
	if before.Cached < 2000 || before.Pages != 0 || before.Staged != 0 {
		t.Errorf("%+v", before)
	}
	if hits := d.readAll(); hits != len(d.pages) {
		t.Errorf("%d hits", hits)
	}
	if r := o.Remote(); r.AheadHits == before.AheadHits {
		t.Error("nothing was read ahead")
	}
	for page := range 1500 {
		d.write(page)
	}
	await(t, "what was written to be forgotten", func() bool { return count() == o.Remote().Cached })
	if hits := d.readAll(); hits != len(d.pages)-1500 {
		t.Errorf("%d hits", hits)
	}
	d.close()
	if s := o.Stats(); s.EphemeralPages != 0 || s.Pages != 0 {
		t.Errorf("%d pages at the end", s.Pages)
	}
	await(t, "donors to forget", func() bool { return count() == 0 })
}

// TestCachedInFlight loads, drops and stores pages anew before their donor has answered: it is
// loaded from here, and of what was dropped nothing is left there.
func TestCachedInFlight(t *testing.T) {
	n := newNetwork("a")
	o := newOwner(t, testConfig("a"), n)
	d := newDisk(t, o.Cache, 100)
	defer d.close()
	a := n.donors["a"]
	await(t, "the first comparison", func() bool {
		return !(*o.members.list.Load())[0].debt.Load() && a.session.Stats().Waiting == 0
	})
	a.set(func() { a.slow = 300 * time.Millisecond })
	for round := range 3 {
		d.readAll()
		if hits := d.readAll(); hits != len(d.pages) {
			t.Errorf("round %d: %d hits", round, hits)
		}
		for page := range d.pages {
			if page%2 == round%2 {
				d.write(page)
			}
		}
	}
	if o.Donors()[0].Session.Waiting == 0 {
		t.Error("nothing is on its way")
	}
	a.set(func() { a.slow = 0 })
	same := func() {
		await(t, "the same here and there", func() bool {
			return int64(a.count()) == o.Remote().Cached && a.session.Stats().Waiting == 0
		})
	}
	same()
	if o.Remote().Cached == 0 {
		t.Error("nothing has landed")
	}
	for page := range d.pages { // of pages that have
		d.write(page)
	}
	same()
	if r := o.Remote(); r.Cached != 0 || r.Orphans != 0 {
		t.Errorf("%+v", r)
	}
	d.readAll()
	await(t, "flights to be idle", func() bool {
		return len(o.cached.idle) == maxFlying && (*o.members.list.Load())[0].flying.Load() == 0
	})
}

// TestCachedMiss: whatever a donor does instead of giving the page back is a miss, at once, and
// nobody's copy is missed or made again.
func TestCachedMiss(t *testing.T) {
	for name, trouble := range map[string]func(d *fakeDonor){
		"drops everything": func(d *fakeDonor) { clear(d.pools[diskID]) },
		"down":             func(d *fakeDonor) { d.down = true },
		"forgets":          func(d *fakeDonor) { d.forget() },
		"alters": func(d *fakeDonor) {
			d.alter = func(_ uint32, page uint64, p fakePage) fakePage {
				blob := bytes.Clone(p.blob)
				blob[int(page)%len(blob)] ^= 4
				return fakePage{p.generation, blob}
			}
		},
		"old": func(d *fakeDonor) {
			d.alter = func(_ uint32, page uint64, p fakePage) fakePage { return fakePage{p.generation - 1, p.blob} }
		},
	} {
		t.Run(name, func(t *testing.T) {
			config := testConfig("a")
			config.Copies, config.Patience = 1, time.Hour // nobody waits for that
			n := newNetwork("a")
			o := newOwner(t, config, n)
			d := newDisk(t, o.Cache, 500)
			defer d.close()
			d.fill(t)
			a := n.donors["a"]
			await(t, "pages to land", func() bool { return int64(a.count()) == o.Remote().Cached })
			held := o.Remote().Cached
			a.set(func() { trouble(a) })
			if name == "down" {
				await(t, "the session to end", func() bool { return o.Donors()[0].State != "up" })
			}
			misses := int64(0)
			for page := range d.pages {
				if !d.read(page) {
					misses++
				}
			}
			switch {
			case name != "forgets" && misses < held:
				t.Errorf("%d misses of %d pages", misses, held)
			case (name == "alters") != (o.Donors()[0].Rejected > 0):
				t.Errorf("%d answers rejected", o.Donors()[0].Rejected)
			}
			if r, s := o.Remote(), o.Stats(); r.Lost != 0 || r.Repaired != 0 || r.LoadsWaited != 0 || s.CorruptLoads != 0 || o.Donors()[0].Missing != 0 {
				t.Errorf("%+v, %d corrupt, %d missing", r, s.CorruptLoads, o.Donors()[0].Missing)
			}
			a.set(func() { a.down, a.alter = false, nil })
			awaitDonors(t, o.Cache)
			d.fill(t)
		})
	}
}

// TestCachedCompare has a donor drop pages and keep others that nobody knows of: comparing
// forgets the ones and flushes the others.
func TestCachedCompare(t *testing.T) {
	config := testConfig("a", "b")
	config.Compare = 50 * time.Millisecond
	n := newNetwork("a", "b")
	o := newOwner(t, config, n)
	d := newDisk(t, o.Cache, 1000)
	defer d.close()
	o.write(0, 200, 1)
	o.awaitSent()
	d.fill(t)
	a := n.donors["a"]
	a.set(func() {
		for page := range a.pools[diskID] {
			if page%3 == 0 {
				delete(a.pools[diskID], page)
			}
		}
		for page := range uint64(100) {
			a.pools[diskID][5000+page] = fakePage{1, []byte{1}}
		}
	})
	await(t, "the same here and there", func() bool {
		there := 0
		for _, donor := range n.donors {
			donor.mu.Lock()
			there += len(donor.pools[diskID])
			donor.mu.Unlock()
		}
		return int64(there) == o.Remote().Cached && o.Remote().Orphans >= 100
	})
	if missing := o.Donors()[0].Missing + o.Donors()[1].Missing; missing != 0 {
		t.Errorf("%d pages count as missing", missing)
	}
	d.readAll()
	o.check()
}

// TestCachedHost: pages of disks are nobody's to be asked about, and after the last export that
// has a host nobody asks it.
func TestCachedHost(t *testing.T) {
	n := newNetwork("a", "b")
	o := newOwner(t, testConfig("a", "b"), n)
	d := newDisk(t, o.Cache, 500)
	defer d.close()
	for life := range uint64(3) {
		o.write(0, 300, life)
		o.awaitSent()
		d.readAll()
		o.check()
		o.host.Close(1)
		if b := o.background.Load(); b == nil || b.host != nil {
			t.Fatal("the background has a host without an export that has one")
		}
		d.fill(t) // goes on
		if err := o.host.Open(1, testPages); err != nil {
			t.Fatal(err)
		}
		clear(o.written)
	}
	d.close()
	if b := o.background.Load(); b == nil || b.host == nil {
		t.Error("the last disk has taken the host along")
	}
	o.write(0, 300, 9)
	o.awaitSent()
	o.check()
	d.open(o.Cache) // for the deferred close
}

// TestCachedGivesWay fills the memory here with stubs of cached pages: swap gets what it gets
// without them.
func TestCachedGivesWay(t *testing.T) {
	const pages = 1 << 15
	config := testConfig("a", "b")
	config.Pages, config.Staging, config.Copies = pages, MinStaging, 1
	n := newNetwork("a", "b")
	for _, donor := range n.donors {
		donor.mute = true
	}
	o := newOwner(t, config, n)
	d := newDisk(t, o.Cache, 100)
	defer d.close()
	// As if they had been stored and sent, which takes longer. Donors have none of them.
	place := uint8((*o.members.list.Load())[0].place.Load())
	e := (*o.exports.Load())[diskID]
	made := uint64(0)
	for ; !o.isTight(); made++ {
		s, b := cachedStub{generation: o.ledger.next(), place: place}, [stubSize]byte{}
		ref, ok := o.arena.Put(arena.Object{Export: diskID, Page: 1000 + made, Codec: codecCached, Data: s.encode(&b), Droppable: true})
		if !ok || !e.pages.Set(1000+made, uint64(ref)+1) {
			t.Fatalf("no room for stub %d", made)
		}
		o.countCached(s, 1)
	}
	if made < pages*9/10 {
		t.Fatalf("memory is full of %d stubs", made)
	}
	swap := map[backends.Key]backends.Handle{}
	for page := uint64(5000); page < 5000+pages-2000; page++ {
		key := backends.Key{Export: 1, Page: page}
		ref, ok := o.putStub(arena.Object{Export: 1, Page: page}, stub{generation: o.ledger.next(), donors: [MaxCopies]uint8{place}})
		if !ok {
			t.Fatalf("no room for a stub of swap, after %d", len(swap))
		}
		swap[key] = backends.Handle(ref)
	}
	before := o.Stats()
	for page := uint64(0); page < 1900; page += 50 {
		o.write(page, 50, 1)
		o.awaitSent()
	}
	after := o.Stats()
	if after.Refused[backends.RefusedFull] != before.Refused[backends.RefusedFull] {
		t.Errorf("%d pages of swap were refused as full", after.Refused[backends.RefusedFull]-before.Refused[backends.RefusedFull])
	}
	dropped := after.Moved[backends.MovedDropped]
	if dropped == 0 || after.EphemeralPages != made-dropped || o.Remote().Cached != int64(made-dropped) || after.HeldBytes > after.LimitBytes {
		t.Errorf("%d of %d cached pages were dropped, %d are there; %d bytes held of %d", dropped, made, after.EphemeralPages, after.HeldBytes, after.LimitBytes)
	}
	left := uint64(0)
	e.pages.Range(0, func(uint64, uint64) bool { left++; return true })
	if left != made-dropped {
		t.Errorf("the index has %d pages, want %d", left, made-dropped)
	}
	o.check()
	for key, handle := range swap {
		o.Invalidate(key, handle)
	}
	e.pages.Range(0, func(page, word uint64) bool {
		o.Invalidate(backends.Key{Export: diskID, Page: page}, backends.Handle(word-1))
		return true
	})
}
