package zcache_test

import (
	"runtime"
	"slices"
	"strings"
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

// Compressing behind makes no garbage: what is counted is all that storing pages and compressing
// them allocates. What else the cache does meanwhile, and how often the test looks at its
// counters, follows from how long this takes.
func TestBehindDoesNotAllocate(t *testing.T) {
	const pages = 512
	config := quiet(64 << 20)
	config.Staging = 16 << 20
	h := newHosted(t, config, pages)
	content := make([][]byte, pages)
	for i := range content {
		content[i] = backendtest.Page(backendtest.Structured, uint64(i))
	}
	round := func() {
		before := h.moved(backends.MovedBehind)
		for i, data := range content {
			if refusal := h.write(uint64(i), data); refusal != backends.Accepted {
				t.Fatalf("page %d: %v", i, refusal)
			}
		}
		h.await("pages to be compressed", func() bool { return h.moved(backends.MovedBehind) >= before+pages })
	}
	defer func(rate int) { runtime.MemProfileRate = rate }(runtime.MemProfileRate)
	runtime.MemProfileRate = 1
	round() // the map of the host, the queue and the arena's chunks
	const rounds = 5
	before := allocations(".(*background).behind", ".(*Cache).Store")
	for range rounds {
		round()
	}
	for i, data := range content[:200] { // one by one: each makes the worker pause
		moved := h.moved(backends.MovedBehind)
		h.write(uint64(i), data)
		h.await("the page to be compressed", func() bool { return h.moved(backends.MovedBehind) > moved })
	}
	if n := allocations(".(*background).behind", ".(*Cache).Store") - before; n > pages/2 {
		t.Errorf("%v allocations for %d pages", n, rounds*pages)
	}
}

// allocations counts those that were made in functions whose names end so, and in what they
// call, since runtime.MemProfileRate is 1.
func allocations(in ...string) (n int64) {
	runtime.GC() // the profile is that of two cycles ago
	runtime.GC()
	var records []runtime.MemProfileRecord
	for size, ok := runtime.MemProfile(nil, true); !ok; size, ok = runtime.MemProfile(records, true) {
		records = make([]runtime.MemProfileRecord, size+100)
	}
	for _, r := range records {
		for frames, more := runtime.CallersFrames(r.Stack()), true; more; {
			var f runtime.Frame
			f, more = frames.Next()
			if slices.ContainsFunc(in, func(name string) bool { return strings.HasSuffix(f.Function, name) }) {
				n += r.AllocObjects
				break
			}
		}
	}
	return n
}

func TestRecompress(t *testing.T) {
	h := newHosted(t, quiet(64<<20), 2048)
	for page := range uint64(2048) {
		h.write(page, backendtest.Mixed(page))
	}
	// Only now, so that none was recompressed before, however long the writes took.
	before := h.cache.Stats()
	compressed := before.Pages - before.SameFilledPages
	config := h.cache.Config()
	config.Cold, config.ColdPercent = 40*time.Millisecond, 100
	if err := h.cache.Configure(config); err != nil {
		t.Fatal(err)
	}
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
	got := h.cache.Stats().Moved
	for _, m := range []backends.Movement{backends.MovedCold, backends.MovedColdPoor, backends.MovedBehind} {
		if got[m] != after.Moved[m] {
			t.Errorf("moved again: %v %d times, before %d", m, got[m], after.Moved[m])
		}
	}
}

// TestHotPagesStay loads some pages again and again: they are not recompressed.
func TestHotPagesStay(t *testing.T) {
	config := quiet(64 << 20)
	config.Cold, config.ColdPercent = time.Second, 100
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
