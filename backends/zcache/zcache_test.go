package zcache_test

import (
	"bytes"
	"testing"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/backendtest"
	"github.com/tmemd/tmemd/backends/zcache"
)

func newCache(t *testing.T, limit int64) *zcache.Cache {
	t.Helper()
	c, err := zcache.New(zcache.Config{Limit: limit})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func newBackend(t *testing.T) backends.Backend { return newCache(t, 10<<20) }

func TestConformance(t *testing.T) { backendtest.Run(t, newBackend) }

func TestAllocations(t *testing.T) { backendtest.RunAllocations(t, newBackend) }

// warmBytes is what an empty arena may keep for reuse.
const warmBytes = 1 << 20

type stored struct {
	key    backends.Key
	handle backends.Handle
	page   []byte
}

// fill stores pages of mixed content under export 1, with page numbers from
// first on, and returns those that were accepted.
func fill(t testing.TB, c *zcache.Cache, first, count uint64) (pages []stored) {
	t.Helper()
	for n := first; n < first+count; n++ {
		s := stored{key: backends.Key{Export: 1, Page: n}, page: backendtest.Mixed(n)}
		handle, refusal, err := c.Store(s.key, s.page)
		if err != nil {
			t.Fatal(err)
		}
		if refusal == backends.Accepted {
			s.handle = handle
			pages = append(pages, s)
		}
	}
	return pages
}

func initExport(t testing.TB, c *zcache.Cache) {
	t.Helper()
	if err := c.Init(backends.Export{ID: 1, Name: "swap", Pages: 1 << 20}); err != nil {
		t.Fatal(err)
	}
}

func closeCache(t testing.TB, c *zcache.Cache) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

func TestNewFails(t *testing.T) {
	for _, limit := range []int64{-1, 0, 65_535, 1 << 60} {
		if c, err := zcache.New(zcache.Config{Limit: limit}); err == nil {
			c.Close()
			t.Errorf("New with a limit of %d bytes succeeded", limit)
		}
	}
}

func TestOutOfRange(t *testing.T) {
	c := newCache(t, 1<<20)
	defer closeCache(t, c)
	if err := c.Init(backends.Export{ID: 1, Pages: backends.MaxPages + 1}); err == nil {
		t.Error("Init of an export with too many pages succeeded")
	}
	initExport(t, c)
	if _, _, err := c.Store(backends.Key{Export: 1, Page: backends.MaxPages}, backendtest.Mixed(1)); err == nil {
		t.Error("Store of a page number out of range succeeded")
	}
	for _, length := range []int{0, 512, 8192} {
		if _, _, err := c.Store(backends.Key{Export: 1}, make([]byte, length)); err == nil {
			t.Errorf("Store of %d bytes succeeded", length)
		}
	}
	handle, _, err := c.Store(backends.Key{Export: 1}, backendtest.Page(backendtest.Text, 1))
	if err != nil {
		t.Fatal(err)
	}
	for _, length := range []int{0, 512, 8192} {
		if err := c.Load(backends.Key{Export: 1}, handle, make([]byte, length)); err == nil {
			t.Errorf("Load into %d bytes succeeded", length)
		}
	}
}

// TestAdmission stores pages with more and more random bytes in them, and
// expects a clean cut where lz4 needs more than 7/8 of a page.
func TestAdmission(t *testing.T) {
	c := newCache(t, 16<<20)
	defer closeCache(t, c)
	initExport(t, c)
	refusedBefore := false
	for length := 0; length <= backends.PageSize; length += 64 {
		page := backendtest.Page(backendtest.Random, 1)
		copy(page[length:], bytes.Repeat([]byte("swap"), backends.PageSize/4))
		before := c.Stats().StoredBytes
		_, refusal, err := c.Store(backends.Key{Export: 1, Page: uint64(length)}, page)
		if err != nil {
			t.Fatal(err)
		}
		switch size := c.Stats().StoredBytes - before; {
		case refusal == backends.RefusedPoor && length < 3500:
			t.Errorf("%d random bytes: refused", length)
		case refusal == backends.Accepted && (refusedBefore || size > 3584 || int(size) < length-64):
			t.Errorf("%d random bytes: accepted with %d bytes", length, size)
		}
		refusedBefore = refusal == backends.RefusedPoor
	}
	if !refusedBefore {
		t.Error("a random page was accepted")
	}
}

// TestFull fills a small cache, and expects that it refuses from then on, loses
// nothing, and still takes what costs no memory.
func TestFull(t *testing.T) {
	const limit = 2<<20 + 12345
	c := newCache(t, limit)
	defer closeCache(t, c)
	initExport(t, c)
	pages := fill(t, c, 0, 4000)
	stats := c.Stats()
	if stats.Refused[backends.RefusedFull] == 0 || stats.LimitBytes != limit || stats.HeldBytes > limit {
		t.Fatalf("after far more pages than fit: %+v", stats)
	}
	if resident := stats.Memory[0].Resident; resident > limit {
		t.Errorf("%d bytes resident with a limit of %d", resident, limit)
	}
	if _, refusal, _ := c.Store(backends.Key{Export: 1, Page: 5000}, backendtest.Page(backendtest.SameFilled, 5)); refusal != backends.Accepted {
		t.Errorf("a same-filled page was refused by a full cache: %v", refusal)
	}
	loadAll(t, c, pages)
}

func loadAll(t testing.TB, c *zcache.Cache, pages []stored) {
	t.Helper()
	dst := make([]byte, backends.PageSize)
	for _, s := range pages {
		if err := c.Load(s.key, s.handle, dst); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(dst, s.page) {
			t.Fatalf("Load(%v) gave other bytes", s.key)
		}
	}
}

// TestMemoryReturns checks what the system counts as pages go, and at Close.
func TestMemoryReturns(t *testing.T) {
	c := newCache(t, 64<<20)
	initExport(t, c)
	for round := range uint64(2) {
		pages := fill(t, c, round<<16, 3000)
		full := c.Stats()
		if full.Memory[0].Resident < int64(full.StoredBytes) || full.Memory[0].Resident > int64(full.HeldBytes) {
			t.Errorf("%d bytes resident, %d stored, %d held", full.Memory[0].Resident, full.StoredBytes, full.HeldBytes)
		}
		loadAll(t, c, pages)
		for _, s := range pages {
			c.Invalidate(s.key, s.handle)
		}
		empty := c.Stats()
		if empty.Pages != 0 || empty.StoredBytes != 0 || empty.SameFilledPages != 0 {
			t.Errorf("after all was invalidated: %+v", empty)
		}
		if empty.HeldBytes > warmBytes || empty.Memory[0].Resident > warmBytes {
			t.Errorf("after all was invalidated %d bytes are held, %d resident", empty.HeldBytes, empty.Memory[0].Resident)
		}
	}
	c.InvalidateArea(1)
	closeCache(t, c)
	stats := c.Stats()
	if usage := stats.Memory[0]; stats.HeldBytes != 0 || usage.Mapped != 0 || usage.Resident != 0 || usage.Purpose != "zcache arena" {
		t.Errorf("after Close: %+v", stats)
	}
}

// TestStoreAfterClose is not in the contract; it must not fault all the same.
func TestStoreAfterClose(t *testing.T) {
	c := newCache(t, 1<<20)
	initExport(t, c)
	pages := fill(t, c, 2, 8)
	closeCache(t, c)
	if _, refusal, err := c.Store(backends.Key{Export: 1}, backendtest.Mixed(1)); refusal != backends.RefusedUnmanaged || err != nil {
		t.Errorf("Store after Close: %v, %v", refusal, err)
	}
	dst := make([]byte, backends.PageSize)
	for _, s := range pages {
		if err := c.Load(s.key, s.handle, dst); err == nil && !bytes.Equal(dst, s.page) {
			t.Errorf("Load(%v) after Close gave other bytes", s.key)
		}
		c.Invalidate(s.key, s.handle)
	}
}
