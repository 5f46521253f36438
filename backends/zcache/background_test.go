package zcache_test

import (
	"bytes"
	"errors"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/backendtest"
	"github.com/tmemd/tmemd/backends/zcache"
)

// hosted is a cache with a host and one export.
type hosted struct {
	testing.TB
	*backendtest.Host
	cache *zcache.Cache
}

func newHosted(t testing.TB, config zcache.Config, pages uint64) *hosted {
	t.Helper()
	h := &hosted{TB: t, cache: newWith(t, config)}
	h.Host = &backendtest.Host{Backend: h.cache}
	h.open(pages)
	t.Cleanup(func() {
		h.check()
		h.Host.Close(1)
		if stats := h.cache.Stats(); stats.Pages != 0 || stats.StoredBytes != 0 {
			t.Errorf("with no export open: %+v", stats)
		}
		closeCache(t, h.cache)
	})
	return h
}

func (h *hosted) open(pages uint64) {
	h.Helper()
	if err := h.Open(1, pages); err != nil {
		h.Fatal(err)
	}
}

func (h *hosted) write(page uint64, data []byte) backends.Refusal {
	h.Helper()
	refusal, err := h.Write(backends.Key{Export: 1, Page: page}, data)
	if err != nil {
		h.Fatal(err)
	}
	return refusal
}

func (h *hosted) check() {
	h.Helper()
	if err := h.Check(1); err != nil {
		h.Error(err)
	}
}

func (h *hosted) moved(m backends.Movement) uint64 { return h.cache.Stats().Moved[m] }

func (h *hosted) codec(codec zcache.Codec) backends.CodecStats {
	for _, c := range h.cache.Stats().Codecs {
		if c.Name == codec.String() {
			return c
		}
	}
	return backends.CodecStats{}
}

func (h *hosted) await(what string, done func() bool) {
	h.Helper()
	for deadline := time.Now().Add(30 * time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			h.Fatalf("still waiting for: %s; %+v", what, h.cache.Stats())
		}
	}
}

// awaitCompressed waits until nothing is staged any more but pages kept raw.
func (h *hosted) awaitCompressed(kept uint64) {
	h.Helper()
	h.await("staged pages to be compressed", func() bool { return h.codec(zcache.Raw).Pages == kept })
}

// sneaky returns a page that no codec makes small but that does not look random
// at first sight: half of it is, where nobody looks.
func sneaky(seed uint64) []byte {
	page := backendtest.Page(backendtest.Random, seed)
	for at := 0; at < len(page); at += backends.PageSize / 32 {
		copy(page[at:], "swapswap")
	}
	return page
}

// quiet is a configuration without what a test does not ask for.
func quiet(limit int64) zcache.Config {
	return zcache.Config{Limit: limit, Staging: -1, Cold: -1, Scrub: -1}
}

func TestCompressBehind(t *testing.T) {
	config := quiet(64 << 20)
	config.Staging = 8 << 20
	h := newHosted(t, config, 4096)
	for page := range uint64(4096) {
		h.write(page, backendtest.Mixed(page))
	}
	h.check()
	h.awaitCompressed(0)
	h.check()
	stats := h.cache.Stats()
	staged, behind := stats.Moved[backends.MovedStaged], stats.Moved[backends.MovedBehind]
	if staged < 1000 || behind != staged || stats.Moved[backends.MovedKeptRaw] != 0 {
		t.Errorf("%d pages staged, %d compressed behind; %+v", staged, behind, stats)
	}
	if stats.Refused[backends.RefusedPoor] == 0 || stats.SameFilledPages == 0 {
		t.Errorf("random pages were not refused, or same-filled pages staged: %+v", stats)
	}
	if stats.Codecs[0].Pages != stats.Pages-stats.SameFilledPages || stats.Codecs[0].Bytes != stats.StoredBytes {
		t.Errorf("codecs %+v of %+v", stats.Codecs, stats)
	}
}

// TestStagingShare keeps the host from giving pages new handles: the share fills,
// and no further.
func TestStagingShare(t *testing.T) {
	config := quiet(16 << 20)
	config.Staging = 100 * backends.PageSize
	c := newWith(t, config)
	var open atomic.Bool
	h := &hosted{TB: t, cache: c, Host: &backendtest.Host{Backend: c, OnRehandle: func(backends.Key) bool { return open.Load() }}}
	h.open(1000)
	for page := range uint64(1000) {
		if refusal := h.write(page, backendtest.Page(backendtest.Structured, page)); refusal != backends.Accepted {
			t.Fatalf("page %d: %v", page, refusal)
		}
	}
	h.check()
	if raw, inline := h.codec(zcache.Raw).Pages, h.moved(backends.MovedInline); raw != 100 || inline != 900 {
		t.Errorf("%d pages raw, %d compressed in line, want 100 and 900", raw, inline)
	}
	open.Store(true)
	h.awaitCompressed(0)
	h.check()
	// Close while pages are staged and cannot leave.
	open.Store(false)
	for page := range uint64(50) {
		h.write(page, backendtest.Page(backendtest.Text, page))
	}
	h.Host.Close(1)
	closeCache(t, c)
}

// TestKeptRaw stages pages that turn out not to compress.
func TestKeptRaw(t *testing.T) {
	config := quiet(16 << 20)
	config.Staging = 100 * backends.PageSize
	h := newHosted(t, config, 1000)
	for page := range uint64(60) {
		if refusal := h.write(page, sneaky(page)); refusal != backends.Accepted {
			t.Fatalf("page %d: %v", page, refusal)
		}
	}
	h.await("pages to be found out", func() bool { return h.moved(backends.MovedKeptRaw) == 60 })
	h.check()
	if raw := h.codec(zcache.Raw); raw.Pages != 60 || raw.Bytes != 60*backends.PageSize {
		t.Errorf("kept raw: %+v", raw)
	}
	for page := uint64(60); page < 1000; page++ {
		h.write(page, backendtest.Page(backendtest.Structured, page))
	}
	h.awaitCompressed(60)
	for page := range uint64(60) {
		h.Trim(backends.Key{Export: 1, Page: page})
	}
	h.awaitCompressed(0)
}

// TestNotStaged: without a host, and with a share of nothing, every page is
// compressed in line.
func TestNotStaged(t *testing.T) {
	c := newCache(t, 16<<20)
	defer closeCache(t, c)
	initExport(t, c)
	fill(t, c, 0, 500)
	h := newHosted(t, quiet(16<<20), 500)
	for page := range uint64(500) {
		h.write(page, backendtest.Mixed(page))
	}
	for _, stats := range []backends.Stats{c.Stats(), h.cache.Stats()} {
		if stats.Moved != [backends.Movements]uint64{} || stats.Codecs[1].Pages != 0 {
			t.Errorf("%+v", stats)
		}
	}
}

func TestRecompress(t *testing.T) {
	config := quiet(64 << 20)
	config.Cold, config.ColdPercent = 40*time.Millisecond, 100
	h := newHosted(t, config, 2048)
	for page := range uint64(2048) {
		h.write(page, backendtest.Mixed(page))
	}
	before := h.cache.Stats()
	compressed := before.Pages - before.SameFilledPages
	h.await("cold pages to be recompressed", func() bool {
		return h.moved(backends.MovedCold)+h.moved(backends.MovedColdPoor) == compressed
	})
	h.check()
	after := h.cache.Stats()
	if zstd := h.codec(zcache.Zstd).Pages; zstd != after.Moved[backends.MovedCold] || zstd < compressed/2 {
		t.Errorf("%d pages are zstd, %d were recompressed, of %d", zstd, after.Moved[backends.MovedCold], compressed)
	}
	if after.StoredBytes >= before.StoredBytes*9/10 || after.Pages != before.Pages {
		t.Errorf("%d bytes after recompression, %d before", after.StoredBytes, before.StoredBytes)
	}
	// What gained nothing is left alone, and what is zstd already is too.
	time.Sleep(4 * config.Cold)
	if got := h.cache.Stats().Moved; got != after.Moved {
		t.Errorf("moved again: %v, before %v", got, after.Moved)
	}
}

// TestHotPagesStay loads some pages again and again: they are not recompressed.
func TestHotPagesStay(t *testing.T) {
	config := quiet(64 << 20)
	config.Cold, config.ColdPercent = 300*time.Millisecond, 100
	h := newHosted(t, config, 400)
	for page := range uint64(400) {
		h.write(page, backendtest.Page(backendtest.Structured, page))
	}
	dst := make([]byte, backends.PageSize)
	h.await("the others to be recompressed", func() bool {
		for page := range uint64(100) {
			if err := h.Read(backends.Key{Export: 1, Page: page}, dst); err != nil {
				t.Fatal(err)
			}
		}
		return h.codec(zcache.Zstd).Pages >= 300
	})
	if hot := h.codec(zcache.LZ4).Pages; hot < 90 {
		t.Errorf("%d of 100 pages in use are still lz4", hot)
	}
}

// logged keeps what is logged.
type logged struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), text)
}

// TestScrub damages the arena from below and expects each page that is hit to be
// counted and logged once, in every encoding.
func TestScrub(t *testing.T) {
	for _, codec := range []zcache.Codec{zcache.LZ4, zcache.Raw, zcache.Zstd} {
		t.Run(codec.String(), func(t *testing.T) {
			var log logged
			config := quiet(8 << 20)
			config.Scrub, config.Log = 20*time.Millisecond, slog.New(slog.NewTextHandler(&log, nil))
			if codec == zcache.Raw {
				config.Staging = 4 << 20
			} else {
				config.Codec = codec
			}
			c := newWith(t, config)
			defer closeCache(t, c)
			h := &hosted{TB: t, cache: c, Host: &backendtest.Host{Backend: c, OnRehandle: func(backends.Key) bool { return false }}}
			h.open(100)
			for page := range uint64(100) {
				h.write(page, backendtest.Page(backendtest.Text, page))
			}
			if got := h.codec(codec).Pages; got != 100 {
				t.Fatalf("%d pages are %v", got, codec)
			}
			h.await("two rounds", func() bool { return h.moved(backends.ScrubbedPage) > 200 })
			if bad := h.moved(backends.ScrubbedCorrupt); bad != 0 {
				t.Fatalf("%d pages found damaged before the damage", bad)
			}
			f := arenaFile(t)
			for page := range uint64(10) {
				handle, _ := h.Held(backends.Key{Export: 1, Page: page})
				flip(t, f, int64(handle)*32+16+int64(page)*100, 4)
			}
			scrubbed := h.moved(backends.ScrubbedPage)
			h.await("the damage to be found", func() bool { return h.moved(backends.ScrubbedCorrupt) == 10 })
			h.await("two more rounds", func() bool { return h.moved(backends.ScrubbedPage) > scrubbed+200 })
			if bad, lines := h.moved(backends.ScrubbedCorrupt), log.count("a stored page is damaged"); bad != 10 || lines != 10 {
				t.Errorf("%d pages counted, %d logged, want 10", bad, lines)
			}
			for page := range uint64(100) {
				err := h.Read(backends.Key{Export: 1, Page: page}, make([]byte, backends.PageSize))
				if errors.Is(err, backends.ErrCorrupt) != (page < 10) {
					t.Errorf("Read of page %d: %v", page, err)
				}
			}
			h.Host.Close(1)
		})
	}
}

// TestFlipsInEveryCodec flips bits of pages in every encoding; TestBitFlips does
// so for lz4 and headers.
func TestFlipsInEveryCodec(t *testing.T) {
	for _, codec := range []zcache.Codec{zcache.Raw, zcache.Zstd} {
		t.Run(codec.String(), func(t *testing.T) {
			config := quiet(8 << 20)
			if codec == zcache.Raw {
				config.Staging = 4 << 20
			} else {
				config.Codec = codec
			}
			c := newWith(t, config)
			defer closeCache(t, c)
			host := &backendtest.Host{Backend: c, OnRehandle: func(backends.Key) bool { return false }}
			if err := c.Init(backends.Export{ID: 1, Pages: 100, Host: host}); err != nil {
				t.Fatal(err)
			}
			var pages []stored
			for n := range uint64(40) {
				s := stored{key: backends.Key{Export: 1, Page: n}, page: backendtest.Page(backendtest.Structured, n)}
				handle, _, err := c.Store(s.key, s.page)
				if err != nil {
					t.Fatal(err)
				}
				s.handle = handle
				pages = append(pages, s)
			}
			f := arenaFile(t)
			random := rand.New(rand.NewPCG(3, 5))
			hits := uint64(0)
			for range 2000 {
				s := pages[random.IntN(len(pages))]
				at, mask := int64(s.handle)*32+random.Int64N(1000), byte(1)<<random.IntN(8)
				flip(t, f, at, mask)
				hits += loadDamaged(t, c, []stored{s})
				flip(t, f, at, mask)
			}
			if hits < 1500 {
				t.Errorf("%d of 2000 flipped bits were found out", hits)
			}
			loadAll(t, c, pages)
			for _, s := range pages {
				c.Invalidate(s.key, s.handle)
			}
			c.InvalidateArea(1)
		})
	}
}

// TestConfigure changes each setting, and expects nonsense to change nothing.
func TestConfigure(t *testing.T) {
	c := newWith(t, zcache.Config{Limit: 4 << 20, Capacity: 8 << 20})
	defer closeCache(t, c)
	was := c.Config()
	for name, change := range map[string]func(*zcache.Config){
		"limit of nothing":   func(c *zcache.Config) { c.Limit = 0 },
		"beyond capacity":    func(c *zcache.Config) { c.Limit = 8<<20 + 1 },
		"another capacity":   func(c *zcache.Config) { c.Capacity = 16 << 20 },
		"another log":        func(c *zcache.Config) { c.Log = slog.New(slog.DiscardHandler) },
		"raw":                func(c *zcache.Config) { c.Codec = zcache.Raw },
		"no such codec":      func(c *zcache.Config) { c.Codec = 77 },
		"accept at 101 %":    func(c *zcache.Config) { c.AcceptPercent = 101 },
		"less than nothing":  func(c *zcache.Config) { c.ColdPercent = -1 },
		"more than there is": func(c *zcache.Config) { c.ColdPercent = 101 },
	} {
		config := was
		change(&config)
		if c.Configure(config) == nil || c.Config() != was {
			t.Errorf("%s: accepted, or %+v", name, c.Config())
		}
	}
	if err := errors.Join(c.SetLimit(8<<20), c.SetCodec(zcache.Zstd)); err != nil {
		t.Fatal(err)
	}
	if got := c.Config(); got.Limit != 8<<20 || got.Codec != zcache.Zstd || got.AcceptPercent != 90 {
		t.Errorf("%+v", got)
	}
	initExport(t, c)
	pages := fill(t, c, 0, 200)
	if err := c.SetCodec(zcache.LZ4); err != nil {
		t.Fatal(err)
	}
	pages = append(pages, fill(t, c, 200, 200)...)
	loadAll(t, c, pages) // each by the codec that it was written with
	stats := c.Stats()
	if lz4, zstd := stats.Codecs[0].Pages, stats.Codecs[2].Pages; lz4 < 50 || zstd < 50 {
		t.Errorf("%+v", stats.Codecs)
	}
	for _, s := range pages {
		c.Invalidate(s.key, s.handle)
	}
	for _, codec := range c.Stats().Codecs {
		if codec.Pages != 0 || codec.Bytes != 0 {
			t.Errorf("with nothing left: %+v", codec)
		}
	}
}

// TestAllocationsOfEveryCodec is RunAllocations for stores that are staged, and
// that use zstd.
func TestAllocationsOfEveryCodec(t *testing.T) {
	for _, codec := range []zcache.Codec{zcache.Raw, zcache.Zstd} {
		t.Run(codec.String(), func(t *testing.T) {
			config := quiet(64 << 20)
			if codec == zcache.Raw {
				config.Staging = 16 << 20
			} else {
				config.Codec = codec
			}
			c := newWith(t, config)
			defer closeCache(t, c)
			export := backends.Export{ID: 1, Pages: 1 << 20}
			if codec == zcache.Raw {
				// Background work would count too: it gets no further than the host.
				blocked := make(chan struct{})
				defer close(blocked)
				export.Host = &backendtest.Host{Backend: c, OnRehandle: func(backends.Key) bool { <-blocked; return false }}
			}
			if err := c.Init(export); err != nil {
				t.Fatal(err)
			}
			page, dst := backendtest.Page(backendtest.Structured, 1), make([]byte, backends.PageSize)
			number := uint64(0)
			cycle := func() {
				key := backends.Key{Export: 1, Page: number}
				number++
				handle, refusal, err := c.Store(key, page)
				if refusal != backends.Accepted || err != nil {
					t.Fatal(refusal, err)
				}
				if err := c.Load(key, handle, dst); err != nil {
					t.Fatal(err)
				}
				c.Invalidate(key, handle)
			}
			for range 500 { // the library's own buffers
				cycle()
			}
			if got := testing.AllocsPerRun(500, cycle); got != 0 {
				t.Errorf("B18: Store, Load and Invalidate of a %v page allocate %v times", codec, got)
			}
			if !bytes.Equal(page, dst) {
				t.Error("Load gave other bytes")
			}
		})
	}
}
