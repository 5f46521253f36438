package ramster

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/backendtest"
	"github.com/tmemd/tmemd/backends/ramster/wire"
	"github.com/tmemd/tmemd/backends/samefilled"
)

// owner is a cache with a host and one export, and its donors.
type owner struct {
	testing.TB
	*Cache
	host    *backendtest.Host
	network *network
	written map[uint64][]byte // by page, what the host was told to write
}

const testPages = 4096

func newOwner(t testing.TB, config Config, n *network) *owner {
	o := &owner{TB: t, Cache: newTest(t, config, n), network: n, written: map[uint64][]byte{}}
	o.host = &backendtest.Host{Backend: o.Cache}
	if err := o.host.Open(1, testPages); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		o.host.Close(1)
		if err := o.Close(); err != nil {
			t.Error(err)
		}
		for name, d := range n.donors {
			if pages := d.count(); pages > 0 && !d.down {
				t.Errorf("donor %s has %d pages after the end", name, pages)
			}
		}
	})
	awaitDonors(t, o.Cache)
	return o
}

func awaitDonors(t testing.TB, c *Cache) {
	t.Helper()
	await(t, "all donors to be up", func() bool {
		for _, d := range c.Donors() {
			if d.State != "up" {
				return false
			}
		}
		return true
	})
}

// write writes pages of mixed content, and waits until they have left the staging area.
func (o *owner) write(first, count, seed uint64) {
	o.Helper()
	for page := first; page < first+count; page++ {
		data := backendtest.Mixed(seed<<32 + page)
		if _, err := o.host.Write(backends.Key{Export: 1, Page: page}, data); err != nil {
			o.Fatal(err)
		}
		o.written[page] = data
	}
}

func (o *owner) awaitSent() {
	o.Helper()
	await(o, "the staging area to be empty", func() bool { return o.Remote().Staged == 0 })
}

// check reads everything back.
func (o *owner) check() {
	o.Helper()
	if err := o.host.Check(1); err != nil {
		o.Fatal(err)
	}
}

// checkCopies expects that each page that donors have is at so many of them, and no
// page of nobody's is anywhere.
func (o *owner) checkCopies(copies int) {
	o.Helper()
	what := ""
	await(o, "copies as they should be", func() bool {
		pages := 0
		for name, d := range o.network.donors {
			if !d.down {
				pages += d.count()
				_ = name
			}
		}
		what = fmt.Sprintf("%d pages at donors, %d stubs", pages, o.Remote().Pages)
		return int64(pages) == int64(copies)*o.Remote().Pages
	})
	o.Log(what)
}

func TestSent(t *testing.T) {
	o := newOwner(t, testConfig("a", "b", "c"), newNetwork("a", "b", "c"))
	o.write(0, 2000, 1)
	o.awaitSent()
	if o.Remote().Pages < 1000 {
		t.Fatalf("donors have %d pages of 2000", o.Remote().Pages)
	}
	o.checkCopies(2)
	o.check()
	o.write(500, 1000, 2) // over what donors have
	o.awaitSent()
	o.check()
	o.checkCopies(2)
	for page := range uint64(300) {
		o.host.Trim(backends.Key{Export: 1, Page: page})
	}
	o.checkCopies(2)
	o.check()
}

// TestDonorDies takes one donor away, for good: loads go on, and copies are made again.
func TestDonorDies(t *testing.T) {
	o := newOwner(t, testConfig("a", "b", "c"), newNetwork("a", "b", "c"))
	o.write(0, 1500, 1)
	o.awaitSent()
	a := o.network.donors["a"]
	a.set(func() { a.down = true })
	o.check()
	o.checkCopies(2)
	b := o.network.donors["b"]
	b.set(func() { b.down = true })
	o.check()
	if lost := o.Remote().Lost; lost != 0 {
		t.Errorf("%d pages lost", lost)
	}
}

// TestDonorComesBack cuts one off, long enough for its copies to be made elsewhere: what
// it has then is nobody's.
func TestDonorComesBack(t *testing.T) {
	o := newOwner(t, testConfig("a", "b", "c"), newNetwork("a", "b", "c"))
	o.write(0, 1500, 1)
	o.awaitSent()
	a := o.network.donors["a"]
	a.set(func() { a.down = true })
	o.write(200, 600, 2)
	for page := uint64(1000); page < 1200; page++ {
		o.host.Trim(backends.Key{Export: 1, Page: page})
	}
	o.awaitSent()
	o.checkCopies(2)
	a.set(func() { a.down = false })
	await(t, "pages of nobody's to be flushed", func() bool { return o.Remote().Orphans > 0 })
	o.check()
	o.checkCopies(2)
}

// TestDonorForgets restarts one without its memory: it is not believed, and what it
// had is copied again from the others.
func TestDonorForgets(t *testing.T) {
	o := newOwner(t, testConfig("a", "b", "c"), newNetwork("a", "b", "c"))
	for round := range uint64(3) {
		o.write(0, 1000, round)
		o.awaitSent()
		for _, name := range []string{"a", "b", "c"} {
			d := o.network.donors[name]
			before := o.Remote().Repaired
			held := d.count()
			d.set(d.forget)
			o.check()
			if held > 0 {
				await(t, "copies to be made again", func() bool { return o.Remote().Repaired > before })
			}
			o.checkCopies(2)
		}
	}
}

// TestDonorLosesPages has one lose pages and not say so. Loads may all ask the other one:
// it is found out all the same.
func TestDonorLosesPages(t *testing.T) {
	config := testConfig("a", "b", "c")
	config.Compare = 100 * time.Millisecond
	o := newOwner(t, config, newNetwork("a", "b", "c"))
	o.write(0, 1000, 1)
	o.awaitSent()
	a := o.network.donors["a"]
	held := a.count()
	a.set(func() {
		for page := range a.pools[1] {
			if page%3 == 0 {
				delete(a.pools[1], page)
			}
		}
	})
	if held == a.count() {
		t.Fatal("nothing was there to be lost")
	}
	o.check()
	o.checkCopies(2)
}

func TestRemoveDonor(t *testing.T) {
	n := newNetwork("a", "b", "c")
	o := newOwner(t, testConfig("a", "b"), n)
	o.write(0, 1000, 1)
	o.awaitSent()
	if err := o.AddDonor(Donor{"c", "c"}); err != nil {
		t.Fatal(err)
	}
	if err := o.RemoveDonor("a", false); err != nil {
		t.Fatal(err)
	}
	await(t, "the donor to leave", func() bool { return len(o.Donors()) == 2 })
	if pages := n.donors["a"].count(); pages != 0 {
		t.Errorf("the donor that left has %d pages", pages)
	}
	o.check()
	o.checkCopies(2)
	if err := o.AddDonor(Donor{"c", "elsewhere"}); !errors.Is(err, ErrKnown) {
		t.Errorf("a second donor c: %v", err)
	}
	if err := o.RemoveDonor("a", false); !errors.Is(err, ErrUnknown) {
		t.Errorf("a donor that has left: %v", err)
	}
	// With nobody to take its pages, they go to the next place.
	if err := o.RemoveDonor("b", false); err != nil {
		t.Fatal(err)
	}
	await(t, "the donor to leave", func() bool { return len(o.Donors()) == 1 })
	o.check()
}

// TestSameDonorTwice gives one donor two names: two copies there would be one.
func TestSameDonorTwice(t *testing.T) {
	n := newNetwork("a", "b")
	n.donors["again"] = n.donors["a"]
	c := newTest(t, testConfig("a", "b", "again"), n)
	defer c.Close()
	await(t, "two to be up and one refused", func() bool {
		states := map[string]int{}
		for _, d := range c.Donors() {
			states[d.State]++
		}
		return states["up"] == 2 && states["refused"] == 1
	})
}

// TestHostile has both donors of each page answer something else, in every way that
// there is: nothing of it is ever believed.
func TestHostile(t *testing.T) {
	for name, alter := range map[string]func(d *fakeDonor, page uint64, p fakePage) fakePage{
		"old": func(d *fakeDonor, page uint64, p fakePage) fakePage {
			return fakePage{p.generation, d.pools[99][page].blob} // what it had before
		},
		"old, and says so": func(d *fakeDonor, page uint64, p fakePage) fakePage { return d.pools[99][page] },
		"foreign": func(d *fakeDonor, page uint64, p fakePage) fakePage {
			return fakePage{p.generation, d.pools[1][(page+1)%300].blob}
		},
		"altered": func(d *fakeDonor, page uint64, p fakePage) fakePage {
			blob := bytes.Clone(p.blob)
			blob[int(page)%len(blob)] ^= 1 << (page % 8)
			return fakePage{p.generation, blob}
		},
		"short": func(d *fakeDonor, page uint64, p fakePage) fakePage {
			return fakePage{p.generation, p.blob[:len(p.blob)-1]}
		},
		"empty": func(d *fakeDonor, page uint64, p fakePage) fakePage { return fakePage{p.generation, nil} },
		"long": func(d *fakeDonor, page uint64, p fakePage) fakePage {
			return fakePage{p.generation, make([]byte, wire.MaxBlob)}
		},
	} {
		t.Run(name, func(t *testing.T) {
			config := testConfig("a", "b")
			config.Patience = 10 * time.Millisecond
			o := newOwner(t, config, newNetwork("a", "b"))
			o.write(0, 300, 1)
			o.awaitSent()
			for _, d := range o.network.donors {
				d.set(func() {
					d.pools[99] = map[uint64]fakePage{}
					for page, p := range d.pools[1] {
						d.pools[99][page] = p
					}
				})
			}
			o.write(0, 300, 2)
			o.awaitSent()
			for _, d := range o.network.donors {
				d.set(func() { d.alter = func(_ uint32, page uint64, p fakePage) fakePage { return alter(d, page, p) } })
			}
			failed := 0
			dst := make([]byte, backends.PageSize)
			for page, want := range o.written {
				// The host compares too; here the error is what is wanted.
				if err := o.host.Read(backends.Key{Export: 1, Page: page}, dst); err != nil {
					failed++
				} else if !bytes.Equal(dst, want) {
					t.Fatalf("page %d: other bytes", page)
				}
			}
			if int64(failed) < o.Remote().Pages {
				t.Errorf("%d loads failed of %d pages that donors altered", failed, o.Remote().Pages)
			}
			for _, d := range o.network.donors {
				d.set(func() { d.alter = nil; delete(d.pools, 99) })
			}
			o.check()
		})
	}
}

// TestStagingBound has donors that take nothing: memory stays within its limit, pages
// are refused, and none is lost.
func TestStagingBound(t *testing.T) {
	for _, how := range []string{"full", "down", "none", "silent"} {
		t.Run(how, func(t *testing.T) {
			config := testConfig("a", "b")
			config.Staging = 1 << 20
			o := newOwner(t, config, newNetwork("a", "b"))
			silence := make(chan struct{})
			for name, d := range o.network.donors {
				d.set(func() {
					switch how {
					case "full":
						d.full = true
					case "down":
						d.down = true
					case "silent":
						d.silent = silence
					}
				})
				if how == "none" {
					if err := o.RemoveDonor(name, true); err != nil {
						t.Fatal(err)
					}
				}
			}
			o.write(0, testPages/2, 1)
			stats := o.Stats()
			if stats.Refused[backends.RefusedFull] == 0 {
				t.Error("nothing was refused")
			}
			if stats.HeldBytes > stats.LimitBytes {
				t.Errorf("%d bytes held of %d", stats.HeldBytes, stats.LimitBytes)
			}
			if staged := o.Remote().Staged; staged > config.Staging {
				t.Errorf("%d bytes staged of %d", staged, config.Staging)
			}
			if how != "silent" { // or loads of what they have wait
				o.check()
			}
			for _, d := range o.network.donors {
				d.set(func() { d.full, d.down, d.silent = false, false, nil })
			}
			close(silence)
			if how != "none" {
				o.awaitSent()
				o.check()
			}
		})
	}
}

// TestListLies has a donor say that it has newer versions than it was ever given, while pages are
// landing there: nothing that it does have is flushed, as no one would look for that again soon.
func TestListLies(t *testing.T) {
	o := newOwner(t, testConfig("a", "b"), newNetwork("a", "b"))
	var land atomic.Bool // until then pages are sent, and stay in the air
	o.host.OnRehandle = func(key backends.Key) bool { return land.Load() || !o.flights.carry(key, math.MaxUint64) }
	o.write(0, 50, 1)
	a, b := o.network.donors["a"], o.network.donors["b"]
	sent := 0
	for _, page := range o.written {
		if _, same := samefilled.Of(page); !same {
			sent++
		}
	}
	await(t, "donors to have every page", func() bool { return a.count() == sent && b.count() == sent })
	lies := 0
	a.set(func() {
		a.lists = func(all []wire.Listed) {
			for i := range all {
				all[i].Generation = 1 << 60
			}
			lies += len(all)
		}
		a.down = true
	})
	await(t, "the donor to be down", func() bool { return o.Donors()[0].State != "up" })
	a.set(func() { a.down = false })
	// Until it has been compared twice: then the first time is over.
	told := func() int {
		a.mu.Lock()
		defer a.mu.Unlock()
		return lies
	}
	await(t, "lies to be told", func() bool { return told() >= sent })
	once := told()
	m := (*o.members.list.Load())[0]
	m.debt.Store(true)
	o.wakeKeeper()
	await(t, "lies to be told again", func() bool { return told() > once })
	a.set(func() { a.lists = nil })
	land.Store(true)
	o.awaitSent()
	if got := o.Remote().Pages; got != int64(sent) {
		t.Errorf("%d stubs of %d pages", got, sent)
	}
	if got := a.count(); got != sent {
		t.Errorf("the donor has %d pages left of %d", got, sent)
	}
	if lost := o.counts.orphans.Load(); lost != 0 {
		t.Errorf("%d pages flushed", lost)
	}
	o.check()
}

// TestStagedPagesLeave fills the staging area with pages of every size, whose chunks are all of the
// memory, while none can leave: as soon as they can, they do.
func TestStagedPagesLeave(t *testing.T) {
	config := testConfig("a", "b")
	config.Pages, config.Staging = 2048, MinStaging
	o := newOwner(t, config, newNetwork("a", "b"))
	var land atomic.Bool
	o.host.OnRehandle = func(backends.Key) bool { return land.Load() }
	var stored sync.WaitGroup
	for worker := range uint64(4) { // each may find the room that another one finds
		stored.Go(func() {
			random := rand.New(rand.NewPCG(worker, 1))
			for page := worker; page < testPages; page += 4 {
				data := make([]byte, backends.PageSize) // zeros behind what does not compress
				for i := range data[:64+page*61%4000] {
					data[i] = byte(random.Uint32())
				}
				if _, err := o.host.Write(backends.Key{Export: 1, Page: page}, data); err != nil {
					t.Error(err)
				}
			}
		})
	}
	stored.Wait()
	if refused := o.Stats().Refused[backends.RefusedFull]; refused == 0 {
		t.Error("nothing was refused")
	}
	if o.Remote().Pages != 0 {
		t.Fatal("pages have left")
	}
	land.Store(true)
	o.awaitSent()
	o.check()
	o.checkCopies(2)
}
