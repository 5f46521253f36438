//go:build memory

package memory

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/pagelock"
	"github.com/tmemd/tmemd/backends/sharedmem"
	"github.com/tmemd/tmemd/backends/zcache"
	"github.com/tmemd/tmemd/deploy/corpus"
	"github.com/tmemd/tmemd/frontswap"
	"github.com/tmemd/tmemd/tier"
)

const (
	pageSize = backends.PageSize
	rounds   = 10 // in which every page is overwritten once, in random order

	// The promises.
	mostLZ4   = 1.00 // of zram's memory
	mostCold  = 0.75 // of that after recompression
	mostWaste = 0.05 // of what is held

	// patience is how long the background may take to come to rest.
	patience = 3 * time.Minute
)

// TestMemory fills both with the same pages, overwrites them, and has tmemd
// recompress what is cold.
func TestMemory(t *testing.T) {
	mib, err := strconv.ParseInt(cmp.Or(os.Getenv("MIB"), "64"), 10, 32)
	must(t, err)
	pages, err := corpus.Sample(t.Context(), corpus.Options{Bytes: mib << 20, Seed: uint64(time.Now().UnixNano())})
	must(t, err)
	c := &comparison{t: t, pages: pages, content: make([]int, pages.Pages())}
	c.zram = openZram(t, pages.Pages())
	c.open()
	total := pages.Total()
	t.Logf("%d pages of real processes, lz4 alone %.3f; per page, in bytes:", total.Pages, total.Ratio())
	for _, s := range pages.Sources() {
		t.Logf("  %-16s %6d pages, lz4 %.2f %s", s.Name, s.Pages, s.Ratio(), s.Skipped)
	}
	t.Logf("%-24s %8s %8s %8s %8s %8s %8s %8s", "", "zram", "tmemd", "ratio", "stored", "arena", "map+locks", "waste")

	for i := range c.content {
		c.put(i, i)
	}
	filled := c.report("filled, lz4")
	random := rand.New(rand.NewPCG(1, 2))
	for range rounds {
		for _, i := range random.Perm(len(c.content)) {
			c.put(i, random.IntN(len(c.content)))
		}
	}
	must(t, c.zram.compact())
	churned := c.report("overwritten 10 times")
	config := c.cache.Config()
	config.Cold, config.ColdPercent = time.Millisecond, 100
	must(t, c.cache.Configure(config))
	cold := c.report("recompressed, zstd")
	t.Logf("fixed: %d bytes of Go heap, most of it untouched", c.fixed)

	for name, ratio := range map[string]float64{"filled": filled.ratio(), "overwritten": churned.ratio()} {
		if ratio > mostLZ4 {
			t.Errorf("%s: %.3f of zram's memory, want %.2f at most", name, ratio, mostLZ4)
		}
	}
	if cold.ratio() > mostCold {
		t.Errorf("recompressed: %.3f of zram's memory, want %.2f at most", cold.ratio(), mostCold)
	}
	// Of recompressed pages, which are smaller, the same bytes are a larger part.
	for name, waste := range map[string]float64{"filled": filled.waste(), "overwritten": churned.waste()} {
		if waste > mostWaste {
			t.Errorf("%s: %.3f of what is held is waste, want %.2f at most", name, waste, mostWaste)
		}
	}
}

// comparison is a zram device and an export of tmemd with the same content.
type comparison struct {
	t       *testing.T
	pages   *corpus.Corpus
	content []int // page of the corpus in each page
	zram    *zram
	device  *tier.Device
	cache   *zcache.Cache
	fixed   uint64
}

// open makes an export as tmemd does, whose cache has room for everything.
func (c *comparison) open() {
	t, log := c.t, slog.New(slog.DiscardHandler)
	before := heap()
	size := int64(len(c.content)) * pageSize
	storage, err := tier.OpenFile(filepath.Join(t.TempDir(), "storage"), size)
	must(t, err)
	swap := frontswap.New(log)
	c.device, err = tier.Open(tier.Config{Name: "swap", ID: 1, Storage: storage, Empty: true, Frontswap: swap, Log: log})
	must(t, err)
	t.Cleanup(func() { must(t, c.device.Close()) })
	c.cache, err = zcache.New(zcache.Config{Limit: 2*size + 64<<20, KeepIncompressible: true, Cold: -1, Scrub: -1})
	must(t, err)
	must(t, swap.Register("zcache", c.cache))
	t.Cleanup(func() {
		must(t, c.device.Trim(0, size))
		_, err := swap.Unregister(context.Background(), "zcache")
		must(t, err)
	})
	c.fixed = heap() - before
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// put writes a page of the corpus to both.
func (c *comparison) put(page, content int) {
	c.content[page] = content
	must(c.t, c.zram.write(page, c.pages.Page(content)))
	_, err := c.device.WriteAt(c.pages.Page(content), int64(page)*pageSize)
	must(c.t, err)
}

// figures are bytes for each page.
type figures struct{ zram, arena, bookkeeping, stored, held float64 }

func (f figures) tmemd() float64 { return f.arena + f.bookkeeping }
func (f figures) ratio() float64 { return f.tmemd() / f.zram }
func (f figures) waste() float64 { return (f.held - f.stored) / f.held }

// report waits until nothing changes any more, compares all pages, and measures.
func (c *comparison) report(phase string) figures {
	t := c.t
	t.Helper()
	c.settle()
	got := make([]byte, pageSize)
	for page, content := range c.content {
		must(t, c.zram.check(page, c.pages.Page(content)))
		if _, err := c.device.ReadAt(got, int64(page)*pageSize); err != nil || !bytes.Equal(got, c.pages.Page(content)) {
			t.Fatalf("tmemd: page %d is not what was written: %v", page, err)
		}
	}
	theirs, err := c.zram.memory()
	must(t, err)
	n := float64(len(c.content))
	stats, area := c.cache.Stats(), c.device.Stats().Area
	if area.Backends["zcache"] != int64(len(c.content)) || theirs.original != int64(len(c.content))*pageSize {
		t.Fatalf("not all pages are in memory: %d of tmemd's, %d bytes of zram's", area.Backends["zcache"], theirs.original)
	}
	f := figures{
		zram:        float64(theirs.used)/n + zramTableEntry,
		arena:       float64(resident(stats.Memory)) / n,
		bookkeeping: float64(area.Memory.Resident+pagelock.Bytes(uint64(len(c.content)))) / n,
		stored:      float64(stats.StoredBytes) / n,
		held:        float64(stats.HeldBytes) / n,
	}
	t.Logf("%-24s %8.1f %8.1f %8.3f %8.1f %8.1f %8.1f %7.2f%%", phase, f.zram, f.tmemd(), f.ratio(), f.stored, f.arena, f.bookkeeping, 100*f.waste())
	for _, codec := range stats.Codecs {
		t.Logf("    %-6s %6d pages, %8.1f bytes each", codec.Name, codec.Pages, float64(codec.Bytes)/float64(max(1, codec.Pages)))
	}
	t.Logf("    zram   %6d pages raw, %.1f bytes compressed for each page", theirs.huge, float64(theirs.compressed)/n)
	return f
}

func resident(regions []sharedmem.Usage) (bytes int64) {
	for _, u := range regions {
		bytes += u.Resident
	}
	return bytes
}

// settle waits until the cache has done what it does behind: nothing moved for two
// of its rounds.
func (c *comparison) settle() {
	c.t.Helper()
	deadline := time.Now().Add(patience)
	for last, same := "", 0; same < 5; time.Sleep(500 * time.Millisecond) {
		stats := c.cache.Stats()
		now := fmt.Sprint(stats.Moved, stats.HeldBytes, stats.StoredBytes)
		if same++; now != last {
			last, same = now, 0
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("the cache does not come to rest: %+v", stats)
		}
	}
}
