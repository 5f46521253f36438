package zcache_test

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/backendtest"
	"github.com/tmemd/tmemd/backends/pressure"
	"github.com/tmemd/tmemd/backends/zcache"
)

// shortOf is a host that is short of memory, or is not.
type shortOf struct{ memory atomic.Bool }

func (s *shortOf) Sample() (pressure.Sample, error) {
	sample := pressure.Sample{Total: 100, Available: 50}
	if s.memory.Load() {
		sample.Available = 1
	}
	return sample, nil
}

// TestSelfSizing squeezes a full pool to its floor and lets it grow back: pages
// are evicted, none is lost, and what is held follows the limit.
func TestSelfSizing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const pages = 6144
		host := &shortOf{}
		config := quiet(16 << 20)
		config.SelfSizing, config.Floor, config.Pressure = true, 4<<20, host
		h := newHosted(t, config, pages)
		for page := range uint64(pages) {
			h.write(page, backendtest.Page(backendtest.Structured, page))
		}
		time.Sleep(time.Minute)
		if got := h.cache.Stats(); got.LimitBytes != 16<<20 || got.MaxBytes != 16<<20 || got.HeldBytes < 10<<20 {
			t.Fatalf("with memory to spare: %+v", got)
		}
		host.memory.Store(true)
		time.Sleep(5 * time.Minute)
		got := h.cache.Stats()
		if got.LimitBytes != 4<<20 || got.MaxBytes != 16<<20 || got.HeldBytes > 4<<20 || got.HeldBytes < 2<<20 {
			t.Errorf("short of memory: %+v", got)
		}
		if shrunk := got.Moved[backends.PoolShrunk]; shrunk < 10 || got.Moved[backends.MovedEvicted] < 1000 || got.Moved[backends.PoolGrown] != 0 {
			t.Errorf("short of memory: %+v", got.Moved)
		}
		if resident := got.Memory[0].Resident; resident > 4<<20+4<<20/20 {
			t.Errorf("%d bytes are resident, limit %d", resident, got.LimitBytes)
		}
		h.check()

		// An operator's bounds count at once, below what the host would allow too.
		config = h.cache.Config()
		config.Limit, config.Floor = 8<<20, 6<<20
		if err := h.cache.Configure(config); err != nil || h.cache.Limit() != 6<<20 {
			t.Errorf("limit %d, %v", h.cache.Limit(), err)
		}
		host.memory.Store(false)
		time.Sleep(5 * time.Minute)
		if got := h.cache.Stats(); got.LimitBytes != 8<<20 || got.Moved[backends.PoolGrown] == 0 {
			t.Errorf("with memory to spare again: %+v", got)
		}

		// Turned off while it is small, it is what it was made.
		host.memory.Store(true)
		time.Sleep(time.Minute)
		if h.cache.Limit() == 8<<20 {
			t.Error("it did not shrink again")
		}
		config = h.cache.Config()
		config.SelfSizing = false
		if err := h.cache.Configure(config); err != nil || h.cache.Limit() != 8<<20 {
			t.Errorf("turned off: limit %d, %v", h.cache.Limit(), err)
		}
		time.Sleep(time.Minute)
		if h.cache.Limit() != 8<<20 {
			t.Error("turned off, it shrinks")
		}
	})
}

// TestKeepIncompressible stores pages that do not compress under both policies, in
// line and by way of the staging share.
func TestKeepIncompressible(t *testing.T) {
	const pages = 200
	config := quiet(16 << 20)
	config.KeepIncompressible, config.Staging = true, 512<<10
	h := newHosted(t, config, 2*pages)
	for page := range uint64(pages) {
		content := sneaky(page) // staged, and found out behind
		if page%2 == 0 {
			content = backendtest.Page(backendtest.Random, page)
		}
		if refusal := h.write(page, content); refusal != backends.Accepted {
			t.Fatalf("page %d: %v", page, refusal)
		}
	}
	h.await("all to be found incompressible", func() bool { return h.cache.Stats().Incompressible == pages })
	stats := h.cache.Stats()
	if h.codec(zcache.Raw).Pages != pages || stats.Moved[backends.MovedKeptRaw] != pages || stats.Moved[backends.MovedStaged] == 0 {
		t.Errorf("%+v", stats)
	}
	h.check()

	// They do not use up the staging share, and heavy pages are not refused for
	// their mean.
	staged := h.moved(backends.MovedStaged)
	for page := uint64(pages); page < 2*pages; page++ {
		if refusal := h.write(page, heavy(page)); refusal != backends.Accepted {
			t.Fatalf("page %d: %v", page, refusal)
		}
	}
	if h.moved(backends.MovedStaged) == staged {
		t.Error("nothing is staged beside incompressible pages")
	}

	config = h.cache.Config()
	config.KeepIncompressible = false
	if err := h.cache.Configure(config); err != nil {
		t.Fatal(err)
	}
	if refusal := h.write(0, backendtest.Page(backendtest.Random, 0)); refusal != backends.RefusedPoor {
		t.Errorf("refusing: %v", refusal)
	}
	for page := range uint64(pages) {
		h.Trim(backends.Key{Export: 1, Page: page})
	}
	if got := h.cache.Stats().Incompressible; got != 0 {
		t.Errorf("%d incompressible pages are left of none", got)
	}
}

// TestKeepNeedsHost: without anybody to evict to, incompressible pages are refused.
func TestKeepNeedsHost(t *testing.T) {
	config := quiet(4 << 20)
	config.KeepIncompressible = true
	c := newWith(t, config)
	defer closeCache(t, c)
	initExport(t, c)
	_, refusal, err := c.Store(backends.Key{Export: 1}, backendtest.Page(backendtest.Random, 1))
	if err != nil || refusal != backends.RefusedPoor {
		t.Errorf("%v, %v", refusal, err)
	}
}

// TestEvictionPauses: while evicted pages come straight back, eviction stops and
// new pages are refused; once they do not, it goes on. A limit that is lowered is
// kept in any case.
func TestEvictionPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const pages = 8192
		h := newHosted(t, quiet(2<<20), pages)
		next, back := uint64(0), true
		write := func(n uint64) (refused uint64) {
			for range n {
				if h.write(next%pages, backendtest.Page(backendtest.Structured, next)) != backends.Accepted {
					refused++
				}
				next++
				if back {
					h.Refaulted.Store(h.Counts().Evicted.Load())
				}
				time.Sleep(100 * time.Microsecond) // time for the background
			}
			return refused
		}
		if refused := write(pages); refused < pages/4 {
			t.Errorf("%d of %d pages were refused while pages came straight back", refused, pages)
		}
		got := h.cache.Stats().Moved
		if got[backends.EvictionPaused] == 0 || got[backends.MovedRefaulted] == 0 || got[backends.MovedEvicted] > pages/4 {
			t.Errorf("%+v", got)
		}
		before := h.moved(backends.MovedEvicted)
		time.Sleep(100 * time.Millisecond)
		if h.moved(backends.MovedEvicted) != before {
			t.Error("pages are evicted during the pause")
		}
		if err := h.cache.SetLimit(1 << 20); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
		if held := h.cache.Stats().HeldBytes; held > 1<<20 || h.moved(backends.MovedEvicted) == before {
			t.Errorf("%d bytes are held", held)
		}
		back = false
		time.Sleep(time.Minute)
		if refused := write(pages); refused > pages/100 {
			t.Errorf("%d of %d pages were refused after no page came back", refused, pages)
		}
	})
}
