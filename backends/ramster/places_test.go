package ramster

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/backendtest"
	"github.com/tmemd/tmemd/backends/ramster/wire"
)

// What becomes of pages that are on their way when donors come and go.

// patientConfig is for tests in which a donor is silent and nothing is to follow from
// that.
func patientConfig() Config {
	config := wireConfig()
	config.Deadline = 5 * time.Second
	return config
}

// awaitCompared waits until the keeper has nothing to compare: until it has looked
// around twice since it was told to.
func (w *world) awaitCompared() {
	w.Helper()
	w.await("donors to be compared with", func() (bool, string) {
		for _, m := range *w.cache.members.list.Load() {
			if m.debt.Load() {
				return false, m.Name
			}
		}
		return true, ""
	})
	for range 2 { // the second one is taken when it is through with what it had begun
		w.cache.keeper <- struct{}{}
	}
}

// TestPlaceTakenAnew: a page has reached one donor and not the other one yet, the first one
// leaves, and another one gets its place in the ledger. What the first one answered says
// nothing of that one.
func TestPlaceTakenAnew(t *testing.T) {
	t.Parallel()
	w := newWorld(t, patientConfig(), 200, "a", "b")
	w.addHost("c")
	w.awaitCompared() // the keeper is not to be waiting for who is silent
	place := w.cache.ledger.find(w.donors["a"].donor.Party())
	w.donors["b"].set(&weather{away: true})
	w.write(1)
	w.await("pages at one donor", func() (bool, string) { return w.donors["a"].count() > 100, "" })
	if err := w.cache.RemoveDonor("a", false); err != nil {
		t.Fatal(err)
	}
	w.await("it to leave", func() (bool, string) { return len(w.cache.Donors()) == 1, "" })
	if err := w.cache.AddDonor(Donor{"c", "c"}); err != nil {
		t.Fatal(err)
	}
	w.await("another one in its place", func() (bool, string) {
		return w.cache.ledger.find(w.donors["c"].donor.Party()) == place, fmt.Sprint(place)
	})
	w.donors["b"].set(&weather{})
	w.settle(2)
	if missing := w.cache.Donors()[1].Missing; missing != 0 {
		t.Errorf("%d pages were believed to be where they are not", missing)
	}
	if err := w.host.Check(1); err != nil {
		t.Error(err)
	}
	w.end()
}

// TestDeadInFlight: a donor dies for good with pages on their way to it. They leave the
// staging area by way of the others.
func TestDeadInFlight(t *testing.T) {
	t.Parallel()
	w := newWorld(t, wireConfig(), 400, "a", "b", "c")
	a := w.donors["a"]
	a.set(&weather{away: true})
	w.write(1)
	a.kill(false)
	w.await("pages to have left", func() (bool, string) {
		r := w.cache.Remote()
		return r.Staged == 0 && w.donors["b"].count() == r.Pages && w.donors["c"].count() == r.Pages, fmt.Sprintf("%+v", r)
	})
	if err := w.host.Check(1); err != nil {
		t.Error(err)
	}
	w.end()
}

// TestTakenBack removes a donor, in both ways, and takes it back before it has left:
// what was given up stays given up, and nothing is left over there.
func TestTakenBack(t *testing.T) {
	for _, now := range []bool{false, true} {
		t.Run(fmt.Sprint("now ", now), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, patientConfig(), 200, "a", "b") // no third one: it cannot leave at once
			w.write(1)
			w.settle(2)
			evict := make(chan struct{})
			w.host.OnEvict = func() error { <-evict; return errors.New("not now") }
			was := w.donors["a"].count()
			if err := w.cache.RemoveDonor("a", now); err != nil {
				t.Fatal(err)
			}
			if err := w.cache.AddDonor(Donor{"a", "a"}); err != nil {
				t.Fatal(err)
			}
			close(evict)
			w.write(2)
			w.settle(2)
			if is := w.donors["a"].count(); is < was/2 {
				t.Errorf("the donor has %d pages, and had %d", is, was)
			}
			if err := w.host.Check(1); err != nil {
				t.Error(err)
			}
			w.end()
		})
	}
}

// TestNameTakenAnew: pages are written again and again while their first version is on its
// way, so that a later version has the name which that one had here. What lands then is not
// it (R5).
func TestNameTakenAnew(t *testing.T) {
	t.Parallel()
	w := newWorld(t, patientConfig(), 64, "a", "b")
	for _, h := range w.donors {
		h.set(&weather{away: true})
	}
	names := map[uint64]backends.Handle{}
	put := func(page, version uint64) {
		if _, err := w.host.Write(key(page), backendtest.Page(backendtest.Structured, version<<32|page)); err != nil {
			t.Fatal(err)
		}
	}
	for page := range w.pages {
		put(page, 1)
		names[page], _ = w.host.Held(key(page))
	}
	w.await("pages to be on their way", func() (bool, string) {
		for _, d := range w.cache.Donors() {
			if d.Session.Waiting < int(w.pages) {
				return false, fmt.Sprint(d.Session.Waiting)
			}
		}
		return true, ""
	})
	same := 0
	for page := range w.pages {
		for version := uint64(2); version < 8; version++ {
			put(page, version)
			if name, _ := w.host.Held(key(page)); name == names[page] {
				same++
				break
			}
		}
	}
	if same == 0 {
		t.Fatal("no page has the name of its first version again")
	}
	for _, h := range w.donors {
		h.set(&weather{})
	}
	w.settle(2)
	if err := w.host.Check(1); err != nil {
		t.Error(err)
	}
	w.end()
}

// TestTrimmedInFlight: pages are dropped while they are on their way. Donors do not keep them.
func TestTrimmedInFlight(t *testing.T) {
	t.Parallel()
	w := newWorld(t, patientConfig(), 64, "a", "b")
	for _, h := range w.donors {
		h.set(&weather{away: true})
	}
	w.write(1)
	w.await("pages to be on their way", func() (bool, string) {
		waiting := w.cache.Donors()[0].Session.Waiting
		return waiting > 40, fmt.Sprint(waiting)
	})
	for page := range w.pages {
		w.host.Trim(key(page))
	}
	for _, h := range w.donors {
		h.set(&weather{})
	}
	w.await("donors to have had them", func() (bool, string) {
		for _, d := range w.cache.Donors() {
			if d.Session.Puts[wire.OK] == 0 || d.Session.Waiting > 0 {
				return false, d.Name
			}
		}
		return true, ""
	})
	w.settle(2)
	if pages := w.cache.Remote().Pages; pages != 0 {
		t.Errorf("%d pages are left", pages)
	}
	w.end()
}

// TestLiarAndLate: of two donors one lies, and the other one is late: the load waits for
// the truth.
func TestLiarAndLate(t *testing.T) {
	t.Parallel()
	w := newWorld(t, wireConfig(), 100, "a", "b")
	w.write(1)
	w.settle(2)
	w.donors["a"].set(&weather{alter: func(_ wire.Request, f *frame) ([]frame, bool) {
		if f.reply.Operation == wire.Get && len(f.payload) > 0 {
			f.payload[0] ^= 1
		}
		return nil, true
	}})
	w.donors["b"].set(&weather{away: true})
	loaded := make(chan error, 1)
	go func() { loaded <- w.host.Check(1) }()
	w.await("lies and waiting", func() (bool, string) {
		return w.cache.Donors()[0].Rejected > 2 && w.cache.Remote().LoadsWaited > 0, ""
	})
	w.donors["b"].set(&weather{})
	if err := <-loaded; err != nil {
		t.Error(err)
	}
	w.donors["a"].set(&weather{})
	w.settle(2)
	w.end()
}

// TestSecondExport: after a restart an export is opened when donors are there long since.
// What they have of it that nobody names goes all the same.
func TestSecondExport(t *testing.T) {
	t.Parallel()
	w := newWorld(t, wireConfig(), 100, "a", "b")
	s := &survivors{world: w}
	if err := w.host.Open(2, 100); err != nil {
		t.Fatal(err)
	}
	second := func(page uint64) backends.Key { return backends.Key{Export: 2, Page: page} }
	data := make([]byte, backends.PageSize)
	for page := range uint64(100) {
		backendtest.FillMixed(data, page)
		if _, err := w.host.Write(second(page), data); err != nil {
			t.Fatal(err)
		}
	}
	w.settle(2)
	before := w.donors["a"].count()
	held := map[uint64]backends.Handle{}
	s.die()
	for page := range uint64(100) {
		if handle, ok := w.host.Held(second(page)); ok {
			held[page] = handle
		}
	}
	s.open()
	for page := range uint64(20) {
		if !w.cache.Adopt(second(page), held[page]) {
			t.Fatalf("page %d was not adopted", page)
		}
	}
	if _, err := w.cache.Adopted(); err != nil {
		t.Fatal(err)
	}
	w.host = &backendtest.Host{Backend: w.cache}
	if err := w.host.Open(1, w.pages); err != nil {
		t.Fatal(err)
	}
	w.awaitUp()
	w.awaitCompared()
	if is := w.donors["a"].count(); is != before {
		t.Fatalf("the donor has %d pages, and had %d: not what this is about", is, before)
	}
	if err := w.host.Open(2, 100); err != nil {
		t.Fatal(err)
	}
	for page := range uint64(20) {
		backendtest.FillMixed(data, page)
		w.host.Adopted(second(page), held[page], data)
	}
	w.settle(2)
	if err := w.host.Check(2); err != nil {
		t.Error(err)
	}
	w.host.Close(2)
	w.end()
}
