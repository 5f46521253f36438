package tier

import (
	"container/list"
	"context"
	"encoding/binary"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/backendtest"
	"github.com/tmemd/tmemd/backends/zcache"
)

// countingStorage counts the pages that are read from it. Its reads take time, as a
// disk's, which is when the background gets a processor.
type countingStorage struct {
	*memoryStorage
	read atomic.Uint64
}

func (c *countingStorage) ReadPages(first uint64, p []byte) error {
	if c.read.Add(uint64(len(p)/pageSize))%16 == 0 {
		time.Sleep(100 * time.Microsecond)
	}
	return c.memoryStorage.ReadPages(first, p)
}

// swapper uses a device as a kernel does its swap: a page is read when somebody
// needs it, and written anew some time after that. It checks what it reads.
type swapper struct {
	t       *testing.T
	device  *Device
	cache   *zcache.Cache
	storage *countingStorage
	limit   int64    // bytes of the cache
	patient bool     // lets the background make room before each write, within reason
	version []uint64 // of each page
	page    []byte
	due     []uint64 // pages that are in the client's memory, the oldest first

	trace []uint64 // pages read
	hits  []bool   // whether a read was served from memory
	held  []uint64 // pages in memory, now and then
}

// structuredBytes is what a structured page takes in the cache.
const structuredBytes = 2200

// clientPages is how many pages the client keeps before they are written again.
const clientPages = 32

// newSwapper makes a device of so many pages whose cache has room for about one
// of four, and writes every page once.
func newSwapper(t *testing.T, pages uint64) *swapper {
	s := &swapper{
		t: t, storage: &countingStorage{memoryStorage: newMemoryStorage(pages)},
		version: make([]uint64, pages), page: make([]byte, pageSize),
	}
	f := newFrontswap()
	s.device = openDevice(t, s.storage, f)
	var err error
	s.limit = int64(pages) * structuredBytes / 4
	s.cache, err = zcache.New(zcache.Config{Limit: s.limit, Cold: -1, Scrub: -1})
	if err != nil {
		t.Fatal(err)
	}
	register(t, f, "zcache", s.cache)
	t.Cleanup(func() {
		s.mustBeWhole()
		if _, err := f.Unregister(context.Background(), "zcache"); err != nil {
			t.Error(err)
		}
	})
	for page := range pages {
		s.write(page)
	}
	return s
}

// fill makes the content of a page in a version.
func (s *swapper) fill(page uint64) {
	backendtest.Fill(s.page, backendtest.Structured, page+s.version[page]<<32)
	binary.LittleEndian.PutUint64(s.page, page)
	binary.LittleEndian.PutUint64(s.page[8:], s.version[page])
}

func (s *swapper) write(page uint64) {
	// The question is which pages are evicted, not whether the background of a busy
	// machine keeps up with a client that does nothing else.
	for tries := 0; s.patient && tries < 100 && int64(s.cache.Stats().HeldBytes) > s.limit/100*96; tries++ {
		time.Sleep(200 * time.Microsecond)
	}
	s.version[page]++
	s.fill(page)
	mustWrite(s.t, s.device, s.page, int64(page)*pageSize)
	if page%32 == 31 {
		time.Sleep(50 * time.Microsecond) // a processor for the background
	}
}

// use reads a page, and writes the one that was read clientPages ago.
func (s *swapper) use(page uint64) {
	for _, d := range s.due {
		if d == page {
			return // the client has it
		}
	}
	before := s.storage.read.Load()
	got := mustRead(s.t, s.device, pageSize, int64(page)*pageSize)
	if binary.LittleEndian.Uint64(got) != page || binary.LittleEndian.Uint64(got[8:]) != s.version[page] {
		s.t.Fatalf("page %d is not what was written", page)
	}
	s.trace = append(s.trace, page)
	s.hits = append(s.hits, s.storage.read.Load() == before)
	if len(s.trace)%64 == 0 {
		s.held = append(s.held, s.cache.Stats().Pages)
	}
	if s.due = append(s.due, page); len(s.due) > clientPages {
		s.write(s.due[0])
		s.due = s.due[1:]
	}
}

// rate is the share of hits from the given read on, and what an exact LRU with as
// many pages has.
func (s *swapper) rate(from int) (ours, lru float64) {
	n := 0
	for _, hit := range s.hits[from:] {
		if hit {
			n++
		}
	}
	total := float64(len(s.trace) - from)
	return float64(n) / total, float64(exactLRU(s.trace, s.meanHeld(), from)) / total
}

func (s *swapper) meanHeld() int {
	total := uint64(0)
	for _, pages := range s.held {
		total += pages
	}
	return int(total) / len(s.held)
}

// exactLRU counts the hits from one read on of a cache that keeps the pages used
// last.
func exactLRU(trace []uint64, capacity, from int) (hits int) {
	order, at := list.New(), map[uint64]*list.Element{}
	for i, page := range trace {
		if e, ok := at[page]; ok {
			order.MoveToFront(e)
			if i >= from {
				hits++
			}
			continue
		}
		at[page] = order.PushFront(page)
		if order.Len() > capacity {
			delete(at, order.Remove(order.Back()).(uint64))
		}
	}
	return hits
}

// mustBeWhole reads every page.
func (s *swapper) mustBeWhole() {
	for page := range s.version {
		got := mustRead(s.t, s.device, pageSize, int64(page)*pageSize)
		if s.fill(uint64(page)); string(got) != string(s.page) {
			s.t.Errorf("page %d is not what was written", page)
		}
	}
}

func (s *swapper) report(name string, ours, lru float64) {
	s.t.Helper()
	stats := s.cache.Stats()
	s.t.Logf("%s: %.3f of %d reads from memory, exact LRU of %d pages %.3f; refused %d, evicted %d, refaulted %d, pauses %d",
		name, ours, len(s.trace), s.meanHeld(), lru, stats.Refused[backends.RefusedFull],
		stats.Moved[backends.MovedEvicted], stats.Moved[backends.MovedRefaulted], stats.Moved[backends.EvictionPaused])
}

// TestHotPagesStay: of a skewed pattern over four times what fits, memory serves at
// least nine tenths of the reads that an exact LRU of as many pages would.
func TestHotPagesStay(t *testing.T) {
	const pages, reads = 6144, 18000
	s := newSwapper(t, pages)
	s.patient = true
	random := rand.New(rand.NewPCG(1, 1))
	places := random.Perm(pages) // hot pages are all over the device
	zipf := rand.NewZipf(random, 1.1, 16, pages-1)
	for range reads {
		s.use(uint64(places[zipf.Uint64()]))
	}
	ours, lru := s.rate(len(s.trace) / 4)
	s.report("zipf", ours, lru)
	if ours < 0.9*lru {
		t.Errorf("%.3f of the reads were served from memory, want at least 0.9 of %.3f", ours, lru)
	}
	if lru < 0.2 || lru > 0.98 {
		t.Errorf("an exact LRU has %.3f: the pattern says nothing", lru)
	}
}

// TestCycleDoesNotThrash goes around and around over a little more than what fits:
// an LRU evicts each page just before it is needed. Here evicting pauses, and what
// is in memory serves its share.
func TestCycleDoesNotThrash(t *testing.T) {
	const pages = 4096
	s := newSwapper(t, pages)
	cycle := s.cache.Stats().Pages * 13 / 10
	for range 12 {
		for page := range cycle {
			s.use(page)
		}
	}
	ours, lru := s.rate(len(s.trace) / 4)
	s.report("cycle", ours, lru)
	if ours < 0.4 || lru > 0.1 {
		t.Errorf("%.3f of the reads were served from memory, want at least 0.4; LRU %.3f", ours, lru)
	}
	if s.cache.Stats().Moved[backends.EvictionPaused] == 0 {
		t.Error("evicting did not pause")
	}
}
