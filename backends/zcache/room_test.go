package zcache_test

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/backendtest"
	"github.com/tmemd/tmemd/backends/zcache"
)

// heavy returns a page that lz4 makes 2,700 to 3,500 bytes of.
func heavy(seed uint64) []byte {
	page := backendtest.Page(backendtest.Random, seed)
	clear(page[2800+seed%500:])
	return page
}

// TestMean stores pages above the mean limit: the first is taken, as there is no
// mean yet, and others as soon as light ones have brought the mean down.
func TestMean(t *testing.T) {
	c := newCache(t, 16<<20)
	defer closeCache(t, c)
	initExport(t, c)
	store := func(page uint64, data []byte, want backends.Refusal) (handle backends.Handle) {
		t.Helper()
		handle, refusal, err := c.Store(backends.Key{Export: 1, Page: page}, data)
		if err != nil || refusal != want {
			t.Fatalf("page %d: %v, %v, want %v", page, refusal, err, want)
		}
		return handle
	}
	first := store(0, heavy(0), backends.Accepted)
	store(1, heavy(1), backends.RefusedMean)
	store(2, backendtest.Page(backendtest.Text, 1), backends.Accepted) // below the limit itself
	light := store(3, backendtest.Page(backendtest.Repeated, 1), backends.Accepted)
	store(4, heavy(4), backends.Accepted)
	c.Invalidate(backends.Key{Export: 1, Page: 3}, light)
	store(5, heavy(5), backends.RefusedMean)
	c.Invalidate(backends.Key{Export: 1, Page: 0}, first)
	if stats := c.Stats(); stats.Refused[backends.RefusedMean] != 2 || stats.Refused[backends.RefusedPoor] != 0 {
		t.Errorf("%+v", stats.Refused)
	}
}

// TestHysteresis fills the pool and takes pages away one by one: nothing is
// accepted until a tenth of what was in use is gone, or at once with 100 %.
func TestHysteresis(t *testing.T) {
	for _, percent := range []int{90, 100} {
		t.Run(fmt.Sprint(percent), func(t *testing.T) {
			config := quiet(4 << 20)
			config.AcceptPercent = percent
			c := newWith(t, config)
			defer closeCache(t, c)
			initExport(t, c)
			page := backendtest.Page(backendtest.Structured, 1) // one size: every slot is as good as another
			var handles []backends.Handle
			for {
				handle, refusal, err := c.Store(backends.Key{Export: 1, Page: uint64(len(handles))}, page)
				if err != nil {
					t.Fatal(err)
				}
				if refusal != backends.Accepted {
					break
				}
				handles = append(handles, handle)
			}
			for n, handle := range handles {
				c.Invalidate(backends.Key{Export: 1, Page: uint64(n)}, handle)
				again, refusal, err := c.Store(backends.Key{Export: 1, Page: 1 << 19}, page)
				if err != nil {
					t.Fatal(err)
				}
				if gone := n + 1; (refusal == backends.Accepted) != (gone*100 >= len(handles)*(100-percent)) {
					t.Fatalf("with %d of %d pages gone: %v", gone, len(handles), refusal)
				}
				if refusal == backends.Accepted {
					c.Invalidate(backends.Key{Export: 1, Page: 1 << 19}, again)
					break
				}
			}
			if hits := c.Stats().Moved[backends.PoolFilled]; hits != uint64((100-percent)/10) {
				t.Errorf("the pool filled %d times", hits)
			}
		})
	}
}

// TestWriteback offers four times what fits, with some pages loaded over and
// over: every write succeeds, hot pages stay, and nothing is refused for want of
// room once eviction keeps up.
func TestWriteback(t *testing.T) {
	const pages, hot = 8192, 256
	h := newHosted(t, quiet(4<<20), pages)
	dst := make([]byte, backends.PageSize)
	for page := range uint64(pages) {
		h.write(page, backendtest.Page(backendtest.Structured, page))
		if err := h.Read(backends.Key{Export: 1, Page: page % hot}, dst); err != nil {
			t.Fatal(err)
		}
		if page%64 == 63 {
			time.Sleep(time.Millisecond) // a processor for the background
		}
	}
	h.await("room", func() bool {
		return h.write(pages-1, backendtest.Page(backendtest.Structured, 5)) == backends.Accepted
	})
	// The host counts first, and an eviction may be under way.
	h.await("the count of evicted pages", func() bool { return h.moved(backends.MovedEvicted) == h.Counts().Evicted.Load() })
	stats := h.cache.Stats()
	if evicted := stats.Moved[backends.MovedEvicted]; evicted < pages/4 {
		t.Errorf("%d pages were evicted", evicted)
	}
	if stats.Refused[backends.RefusedFull] > pages/2 || stats.HeldBytes > stats.LimitBytes {
		t.Errorf("%+v", stats)
	}
	stay := 0
	for page := range uint64(hot) {
		if _, held := h.Held(backends.Key{Export: 1, Page: page}); held {
			stay++
		}
	}
	t.Logf("%d evicted, %d refused, %d of %d hot pages stayed", stats.Moved[backends.MovedEvicted], stats.Refused[backends.RefusedFull], stay, hot)
	if stay < hot*3/4 {
		t.Errorf("%d of %d hot pages stayed", stay, hot)
	}
}

// TestEvictFails has a storage that errs: stores are refused and nothing is lost,
// and it goes on when storage works again.
func TestEvictFails(t *testing.T) {
	var log logged
	config := quiet(2 << 20)
	config.Log = slog.New(slog.NewTextHandler(&log, nil))
	c := newWith(t, config)
	defer closeCache(t, c)
	var works atomic.Bool
	h := &hosted{TB: t, cache: c, Host: &backendtest.Host{Backend: c, OnEvict: func() error {
		if works.Load() {
			return nil
		}
		return errors.New("no space left on device")
	}}}
	h.open(4096)
	for page := range uint64(4096) {
		h.write(page, backendtest.Page(backendtest.Structured, page))
	}
	h.await("the failure", func() bool { return h.moved(backends.EvictionFailed) > 0 })
	h.check()
	if log.count("no space left on device") == 0 || h.moved(backends.MovedEvicted) != 0 {
		t.Errorf("%d evicted, log:\n%s", h.moved(backends.MovedEvicted), log.text.String())
	}
	works.Store(true)
	h.await("room", func() bool { return h.write(7, backendtest.Page(backendtest.Structured, 7)) == backends.Accepted })
	h.check()
	h.Host.Close(1)
}

// TestResize follows the limit down and up with what the system counts.
func TestResize(t *testing.T) {
	config := quiet(16 << 20)
	h := newHosted(t, config, 4096)
	fill := func() {
		for page := range uint64(4096) {
			h.write(page, backendtest.Page(backendtest.Structured, page))
		}
	}
	fill()
	full := h.cache.Stats()
	for _, limit := range []int64{4 << 20, 1 << 20, 2 << 20} {
		if err := h.cache.SetLimit(limit); err != nil {
			t.Fatal(err)
		}
		h.await("memory to follow", func() bool { return h.cache.Stats().Memory[0].Resident <= limit })
		h.check()
		if stats := h.cache.Stats(); stats.LimitBytes != uint64(limit) || stats.HeldBytes > uint64(limit) {
			t.Errorf("with a limit of %d: %+v", limit, stats)
		}
	}
	if err := h.cache.SetLimit(16 << 20); err != nil {
		t.Fatal(err)
	}
	h.await("room for all", func() bool { fill(); return h.cache.Stats().Pages == full.Pages })
	h.check()
}

// TestShrinkWithoutHost lowers the limit with nobody to evict pages: nothing is
// lost, and stores are refused until enough pages were dropped.
func TestShrinkWithoutHost(t *testing.T) {
	c := newWith(t, zcache.Config{Limit: 8 << 20})
	defer closeCache(t, c)
	initExport(t, c)
	pages := fill(t, c, 0, 3000)
	if err := c.SetLimit(1 << 20); err != nil {
		t.Fatal(err)
	}
	loadAll(t, c, pages)
	key, page := backends.Key{Export: 1, Page: 1 << 19}, backendtest.Page(backendtest.Structured, 1)
	for n, s := range pages {
		if _, refusal, err := c.Store(key, page); refusal != backends.RefusedFull && c.Stats().HeldBytes > 2<<20 || err != nil {
			t.Fatalf("Store with %d pages left: %v, %v", len(pages)-n, refusal, err)
		}
		c.Invalidate(s.key, s.handle)
	}
	if handle, refusal, err := c.Store(key, page); refusal != backends.Accepted || err != nil {
		t.Fatalf("Store with no pages left: %v, %v", refusal, err)
	} else {
		c.Invalidate(key, handle)
	}
	if stats := c.Stats(); stats.HeldBytes > 1<<20 {
		t.Errorf("%+v", stats)
	}
}

// TestCompaction overwrites 64 MiB of pages three times in random order with
// others, and expects that at most 5 % of what is held is not data, by what the
// system counts too.
func TestCompaction(t *testing.T) {
	const pages = 16_384
	h := newHosted(t, quiet(256<<20), pages)
	random := rand.New(rand.NewPCG(1, 9))
	data := make([]byte, backends.PageSize)
	for n := range uint64(4 * pages) {
		page := n
		if n >= pages {
			page = random.Uint64N(pages)
		}
		// Of every size, so that chunks of all classes are full of holes.
		backendtest.Fill(data, backendtest.Random, n)
		clear(data[random.IntN(2500):])
		h.write(page, data)
	}
	waste := func(stats backends.Stats) float64 {
		return 100 * float64(stats.HeldBytes-stats.StoredBytes) / float64(stats.HeldBytes)
	}
	// In one snapshot: while pages still move, its figures are not of one instant.
	var stats backends.Stats
	h.await("compaction", func() bool {
		stats = h.cache.Stats()
		resident := stats.Memory[0].Resident
		return waste(stats) <= 5 && resident <= int64(stats.HeldBytes) && resident >= int64(stats.HeldBytes)*98/100
	})
	t.Logf("%.1f %% of %d bytes held for %d pages are not data; %d pages were moved", waste(stats), stats.HeldBytes, stats.Pages, stats.Moved[backends.MovedCompacted])
}

// TestEverythingAtOnce writes, reads and trims from several goroutines while the
// limit moves, the codec and all other settings change, pages are staged,
// compressed behind, recompressed, compacted, evicted and scrubbed, and the
// export is closed and opened.
func TestEverythingAtOnce(t *testing.T) {
	const pages, workers, lives = 4096, 4, 3
	h := newHosted(t, restless(8<<20), pages)
	var moved [backends.Movements]uint64
	for life := range uint64(lives) {
		if life > 0 {
			h.Host.Close(1)
			h.open(pages)
		}
		stop := make(chan struct{})
		var changes sync.WaitGroup
		changes.Go(func() { changeEverything(h, stop) })
		errs := make(chan error, workers)
		for n := range uint64(workers) {
			go func() { errs <- workOn(h, n*pages/workers, pages/workers, life<<8|n) }()
		}
		for range workers {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		close(stop)
		changes.Wait()
		h.check()
	}
	moved = h.cache.Stats().Moved
	for m, n := range moved {
		switch m := backends.Movement(m); m {
		case backends.EvictionFailed, backends.ScrubbedCorrupt:
			if n != 0 {
				t.Errorf("%v: %d", m, n)
			}
		case backends.MovedStaged, backends.MovedBehind, backends.MovedCold, backends.MovedEvicted, backends.ScrubbedPage:
			if n == 0 {
				t.Errorf("no page was ever %v: %v", m, moved)
			}
		}
	}
}

func changeEverything(h *hosted, stop chan struct{}) {
	random := rand.New(rand.NewPCG(5, 5))
	for {
		select {
		case <-stop:
			return
		case <-time.After(5 * time.Millisecond):
		}
		config := restless(1<<20 + random.Int64N(8<<20))
		old := h.cache.Config()
		config.Capacity, config.Log = old.Capacity, old.Log
		config.SelfSizing, config.KeepIncompressible = random.IntN(2) == 0, random.IntN(2) == 0
		config.Codec = []zcache.Codec{zcache.LZ4, zcache.Zstd}[random.IntN(4)/3]
		config.AcceptPercent = 50 + random.IntN(51)
		if random.IntN(4) == 0 {
			config.Staging = -1
		}
		if err := h.cache.Configure(config); err != nil {
			h.Error(err)
		}
	}
}

// workOn does random things to count pages from first on, and checks each load.
func workOn(h *hosted, first, count, seed uint64) error {
	random := rand.New(rand.NewPCG(seed, 6))
	data, dst := make([]byte, backends.PageSize), make([]byte, backends.PageSize)
	for step := range uint64(6000) {
		key := backends.Key{Export: 1, Page: first + random.Uint64N(count)}
		switch random.IntN(8) {
		case 0, 1, 2, 3:
			backendtest.FillMixed(data, seed<<32|step)
			if _, err := h.Write(key, data); err != nil {
				return err
			}
		case 4, 5, 6:
			if err := h.Read(key, dst); err != nil {
				return err
			}
		case 7:
			h.Trim(key)
		}
		if step%100 == 0 {
			time.Sleep(time.Millisecond)
		}
	}
	return nil
}
