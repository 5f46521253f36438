package ramster

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/arena"
	"github.com/tmemd/tmemd/backends/backendtest"
)

// atDonors is the pages that are nowhere but at donors.
func (w *world) atDonors() map[uint64]bool {
	pages := map[uint64]bool{}
	for page := range w.pages {
		if handle, held := w.host.Held(key(page)); held {
			if o, ok := w.cache.arena.Get(arena.Ref(handle)); ok {
				if _, remote := decodeStub(o); remote {
					pages[page] = true
				}
			}
		}
	}
	return pages
}

// TestAllLost has every donor start again without its memory: exactly the pages that were
// nowhere else fail, and are counted.
func TestAllLost(t *testing.T) {
	for copies := int64(1); copies <= 3; copies++ {
		t.Run(fmt.Sprint(copies, " copies"), func(t *testing.T) {
			t.Parallel()
			config := wireConfig()
			config.Copies = int(copies)
			w := newWorld(t, config, 600, "a", "b", "c")
			w.write(1)
			w.settle(copies)
			for _, h := range w.donors {
				h.set(&weather{away: true})
			}
			for page := range w.pages / 4 { // these are here only
				if _, err := w.host.Write(key(page*4), backendtest.Mixed(page|1<<40)); err != nil {
					t.Fatal(err)
				}
			}
			for _, h := range w.donors {
				h.kill(false)
			}
			lost := w.atDonors()
			for _, h := range w.donors {
				h.start(false)
				h.set(&weather{})
			}
			w.awaitUp()
			w.await("lost pages to be counted", func() (bool, string) {
				n := w.cache.Remote().Lost
				return n == int64(len(lost)), fmt.Sprintf("%d lost, %d counted", len(lost), n)
			})
			dst := make([]byte, backends.PageSize)
			for page := range w.pages {
				err := w.host.Read(key(page), dst)
				if lost[page] != (err != nil) || err != nil && strings.Contains(err.Error(), "B8:") {
					t.Errorf("page %d, lost %v: %v", page, lost[page], err)
				}
			}
			for page := range lost { // half of them are written anew
				if page%2 == 0 {
					w.host.Trim(key(page))
				} else if _, err := w.host.Write(key(page), backendtest.Mixed(page|1<<41)); err != nil {
					t.Fatal(err)
				}
			}
			w.settle(copies)
			w.await("no page to be lost", func() (bool, string) { n := w.cache.Remote().Lost; return n == 0, fmt.Sprint(n) })
			if err := w.host.Check(1); err != nil {
				t.Error(err)
			}
			w.end()
		})
	}
}

// TestWireStagingBound has donors that are slow, dead, gone or full, behind the real
// session: memory stays within its limits, and no page is lost or refused an answer.
func TestWireStagingBound(t *testing.T) {
	for name, begin := range map[string]func(*host) (end func()){
		"silent": func(h *host) func() { h.set(&weather{away: true}); return func() { h.set(&weather{}) } },
		"gone":   func(h *host) func() { h.kill(true); return func() { h.start(true) } },
		"full":   func(h *host) func() { return h.grant(4096) },
		"slow": func(h *host) func() {
			h.set(&weather{every: 1}) // each message is late, or later
			return func() { h.set(&weather{}) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := wireConfig()
			config.Staging = MinStaging
			w := newWorld(t, config, 2400, "a", "b")
			var ends []func()
			claimed := map[string]int64{}
			for _, u := range w.cache.Stats().Memory {
				claimed[u.Purpose] += u.Mapped
			}
			for _, h := range w.donors {
				ends = append(ends, begin(h))
			}
			data := make([]byte, backends.PageSize)
			for page := range w.pages {
				backendtest.FillMixed(data, page)
				if _, err := w.host.Write(key(page), data); err != nil {
					t.Fatal(err)
				}
				if page%100 != 0 {
					continue
				}
				stats := w.cache.Stats()
				if staged := w.cache.Remote().Staged; stats.HeldBytes > stats.LimitBytes || staged > config.Staging {
					t.Errorf("%d bytes held of %d, %d staged of %d", stats.HeldBytes, stats.LimitBytes, staged, config.Staging)
				}
				for _, d := range w.cache.Donors() {
					if d.Session.Waiting > 1<<20 {
						t.Errorf("%d requests wait for donor %s", d.Session.Waiting, d.Name)
					}
				}
			}
			stats := w.cache.Stats()
			if stats.Refused[backends.RefusedFull] == 0 {
				t.Error("nothing was refused")
			}
			now := map[string]int64{}
			for _, u := range stats.Memory {
				now[u.Purpose] += u.Mapped
			}
			for purpose, mapped := range now {
				if purpose != arenaPurpose && purpose != indexPurpose && mapped != claimed[purpose] {
					t.Errorf("%s: %d bytes, and at first %d", purpose, mapped, claimed[purpose])
				}
			}
			for _, end := range ends {
				end()
			}
			w.settle(2)
			if err := w.host.Check(1); err != nil {
				t.Error(err)
			}
			w.end()
		})
	}
}

// TestNoGarbage: in the steady state neither stores nor loads allocate, nor what
// sends pages behind them. Read-ahead allocates once for each run of up to 64 pages.
func TestNoGarbage(t *testing.T) {
	config := wireConfig()
	config.Deadline = 10 * time.Second
	w := newWorld(t, config, 512, "a", "b")
	for _, h := range w.donors { // the test's own messages are garbage
		h.direct.Store(true)
		h.cut()
	}
	w.await("sessions without the test between them", func() (bool, string) {
		for _, d := range w.cache.Donors() {
			if d.Session.Sessions < 2 {
				return false, d.Name
			}
		}
		return true, ""
	})
	pages := make([][]byte, 64)
	for i := range pages {
		pages[i] = backendtest.Page(backendtest.Structured, uint64(i))
	}
	w.write(1)
	w.settle(2)
	n := uint64(0)
	d := newDisk(w, w.cache, int(w.pages))
	for range 2 { // what is made once
		d.fill(w)
		for page := range d.pages {
			d.write(page)
		}
	}
	dst := make([]byte, backends.PageSize)
	if got := testing.AllocsPerRun(500, func() {
		key := d.key(int(n * 37 % w.pages))
		handle, refusal, err := w.cache.Store(key, pages[n%64])
		for ; err == nil && refusal == backends.RefusedBusy; handle, refusal, err = w.cache.Store(key, pages[n%64]) {
		}
		if err != nil || refusal != backends.Accepted {
			t.Fatalf("%v, %v", refusal, err)
		}
		if err := w.cache.Load(key, handle, dst); err != nil {
			t.Fatal(err)
		}
		w.cache.Invalidate(key, handle)
		n++
	}); got != 0 {
		t.Errorf("a cached page of a disk, on its way, allocates %v times", got)
	}
	d.fill(w)
	w.settleCached()
	if got := testing.AllocsPerRun(500, func() {
		page := int(n * 37 % w.pages)
		n++
		if err := w.cache.Load(d.key(page), d.pages[page].handle, dst); err != nil {
			t.Fatal(err)
		}
	}); got != 0 {
		t.Errorf("a load of a cached page of a disk allocates %v times", got)
	}
	d.close()
	if got := testing.AllocsPerRun(500, func() {
		if _, err := w.host.Write(key(n*37%w.pages), pages[n%64]); err != nil {
			t.Fatal(err)
		}
		n++
	}); got != 0 {
		t.Errorf("a store, and what sends it, allocates %v times", got)
	}
	w.settle(2)
	handles := make([]backends.Handle, w.pages)
	remote := w.atDonors()
	for page := range w.pages {
		handles[page], _ = w.host.Held(key(page))
	}
	for name, step := range map[string]uint64{"anywhere": 37, "in sequence": 1} {
		before := w.cache.Remote().AheadHits
		if got := testing.AllocsPerRun(500, func() {
			page := n * step % w.pages
			n++
			if !remote[page] {
				return
			}
			if err := w.cache.Load(key(page), handles[page], dst); err != nil {
				t.Fatal(err)
			}
		}); got != 0 {
			t.Errorf("a load, %s, allocates %v times", name, got)
		}
		// Pages anywhere may follow each other by chance.
		if step == 1 && w.cache.Remote().AheadHits == before {
			t.Errorf("%s: nothing was read ahead", name)
		}
	}
	w.end()
}
