package zcache_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/backendtest"
	"github.com/tmemd/tmemd/backends/zcache"
)

// eventually waits for what the background does.
func eventually(t *testing.T, c *zcache.Cache, is func(backends.Stats) bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(c.Stats()); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it does not come to that: %+v", c.Stats())
		}
	}
}

// TestDedupRecompresses: contents are recompressed when they are cold, once for all who share them, and are
// still there for another process.
func TestDedupRecompresses(t *testing.T) {
	config := calm()
	config.Cold, config.ColdPercent = 50*time.Millisecond, 100
	s := newSurvivor(t, config)
	c := s.open(t, zcache.New)
	h := &backendtest.Host{Backend: dedup{c, oneDomain}}
	const pages = 60
	openAlike(t, h, pages, 1, 2)
	before := settled(t, c)
	eventually(t, c, func(stats backends.Stats) bool { return stats.Moved[backends.MovedCold] >= 5 })
	stats := c.Stats()
	if stats.SharedPages != 2*pages || stats.SharedContents > 10 || stats.StoredBytes >= before.StoredBytes {
		t.Errorf("after recompression: %+v, before %+v", stats, before)
	}
	for _, id := range []uint32{1, 2} {
		if err := h.Check(id); err != nil {
			t.Error(err)
		}
	}
	// Half of the pages go on.
	c = s.reopen(t, c)
	dst := make([]byte, backends.PageSize)
	for page := range uint64(pages) {
		key := backends.Key{Export: 1, Page: page}
		handle, _ := h.Held(key)
		if !c.Adopt(key, handle) || c.Load(key, handle, dst) != nil {
			t.Fatalf("page %d was not adopted", page)
		}
	}
	if orphans, err := c.Adopted(); err != nil || orphans < pages {
		t.Errorf("%d orphans, %v", orphans, err)
	}
	if stats := c.Stats(); stats.Pages != pages || stats.SharedPages != pages || stats.SharedContents > 5 {
		t.Errorf("after another process: %+v", stats)
	}
	initExport(t, c)
	for page := range uint64(pages) {
		key := backends.Key{Export: 1, Page: page}
		handle, _ := h.Held(key)
		if err := c.Load(key, handle, dst); err != nil {
			t.Error(err)
		}
		c.Invalidate(key, handle)
	}
	if stats := c.Stats(); stats.Pages != 0 || stats.StoredBytes != 0 || stats.SharedContents != 0 || stats.HeldBytes > warmBytes {
		t.Errorf("at the end: %+v", stats)
	}
	if err := errors.Join(c.Close(), s.now.Close()); err != nil {
		t.Error(err)
	}
}

// TestDedupInline: pages that were compressed in line are found to be alike when they are cold.
func TestDedupInline(t *testing.T) {
	config := calm()
	config.Staging, config.Cold, config.ColdPercent = -1, 10*time.Millisecond, 100
	c := newWith(t, config)
	h := &backendtest.Host{Backend: dedup{c, oneDomain}}
	const pages = 60
	openAlike(t, h, pages, 1, 2)
	if staged := c.Stats().Moved[backends.MovedStaged]; staged != 0 {
		t.Fatalf("%d pages were staged", staged)
	}
	eventually(t, c, func(stats backends.Stats) bool { return stats.SharedPages == 2*pages && stats.SharedContents <= 10 })
	for _, id := range []uint32{1, 2} {
		if err := h.Check(id); err != nil {
			t.Error(err)
		}
		h.Close(id)
	}
	if stats := c.Stats(); stats.Pages != 0 || stats.StoredBytes != 0 || stats.SharedContents != 0 {
		t.Errorf("at the end: %+v", stats)
	}
	closeCache(t, c)
}

// TestDedupCompacts: contents are moved out of chunks that hold few, and those who share them do not notice.
func TestDedupCompacts(t *testing.T) {
	config := calm()
	config.Limit, config.Capacity = 32<<20, 32<<20
	c := newWith(t, config)
	h := &backendtest.Host{Backend: dedup{c, oneDomain}}
	const pages = 4000 // of each of the two exports, and of contents
	for id := range uint32(2) {
		if err := h.Open(id, pages); err != nil {
			t.Fatal(err)
		}
		for page := range uint64(pages) {
			if _, err := h.Write(backends.Key{Export: id, Page: page}, backendtest.Page(backendtest.Structured, page)); err != nil {
				t.Fatal(err)
			}
			if page%1000 == 0 {
				settled(t, c) // what is compressed in line is not looked up
			}
		}
	}
	before := settled(t, c)
	if before.SharedContents < pages*9/10 {
		t.Fatalf("not enough is shared: %+v", before)
	}
	for page := range uint64(pages) {
		if page%10 != 0 {
			h.Trim(backends.Key{Export: 0, Page: page})
			h.Trim(backends.Key{Export: 1, Page: page})
		}
	}
	eventually(t, c, func(stats backends.Stats) bool { return stats.HeldBytes < before.HeldBytes/4 })
	for id := range uint32(2) {
		if err := h.Check(id); err != nil {
			t.Error(err)
		}
		h.Close(id)
	}
	if stats := c.Stats(); stats.Pages != 0 || stats.StoredBytes != 0 || stats.SharedContents != 0 || stats.HeldBytes > warmBytes {
		t.Errorf("at the end: %+v", stats)
	}
	closeCache(t, c)
}

// TestDedupConcurrently: workers on pages of few contents, with everything in the background at work, and an export of
// another client that comes and goes.
func TestDedupConcurrently(t *testing.T) {
	c := newWith(t, restless(2<<20))
	h := &backendtest.Host{Backend: dedup{c, func(id uint32) uint32 { return 1 + id/2 }}}
	const pages = 256
	for id := range uint32(2) {
		if err := h.Open(id, pages); err != nil {
			t.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	for w := range uint32(4) {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(uint64(w), 3))
			dst := make([]byte, backends.PageSize)
			for range 3000 {
				key := backends.Key{Export: w / 2, Page: uint64(w%2)*pages/2 + random.Uint64N(pages/2)}
				var err error
				switch random.IntN(6) {
				case 0, 1:
					_, err = h.Write(key, alike(random.Uint64()))
				case 2:
					h.Trim(key)
				default:
					err = h.Read(key, dst)
				}
				if err != nil {
					t.Errorf("worker %d: %v", w, err)
					return
				}
			}
		})
	}
	wg.Go(func() {
		for range 10 {
			openAlike(t, h, 64, 2)
			if err := h.Check(2); err != nil {
				t.Error(err)
			}
			h.Close(2)
		}
	})
	wg.Wait()
	if stats := c.Stats(); stats.Moved[backends.MovedShared] == 0 {
		t.Errorf("nothing was shared: %+v", stats)
	}
	for id := range uint32(2) {
		if err := h.Check(id); err != nil {
			t.Error(err)
		}
		h.Clear(id)
		if used := c.Used(id); used != 0 {
			t.Errorf("B32: %d bytes charged for no pages", used)
		}
		h.Close(id)
	}
	if stats := c.Stats(); stats.Pages != 0 || stats.StoredBytes != 0 || stats.SharedContents != 0 || stats.HeldBytes > warmBytes {
		t.Errorf("at the end: %+v", stats)
	}
	closeCache(t, c)
}

// TestDedupDestroyedIsOverwritten: what exports of a client shared is not in the memory when the last of them
// is gone, and still served before.
func TestDedupDestroyedIsOverwritten(t *testing.T) {
	c := newWith(t, restless(8<<20))
	h := &backendtest.Host{Backend: dedup{c, func(id uint32) uint32 { return 1 + id/2 }}}
	const pages = 300
	for id := range uint32(3) {
		if err := h.Open(id, pages); err != nil {
			t.Fatal(err)
		}
		for page := range uint64(pages) {
			owner := []string{"alice", "alice", "bob"}[id]
			if _, err := h.Write(backends.Key{Export: id, Page: page}, secret(owner, page%20)); err != nil {
				t.Fatal(err)
			}
		}
	}
	eventually(t, c, func(stats backends.Stats) bool { return stats.SharedPages > pages })
	f := arenaFile(t)
	memory := func(owner string) bool { return contains(t, f, owner) }
	h.Close(0)
	if err := h.Check(1); err != nil || !memory("alice") {
		t.Errorf("what is left of the client is not served: %v", err)
	}
	h.Close(1)
	if memory("alice") {
		t.Error("pages of a client that is gone are in the memory")
	}
	if err := h.Check(2); err != nil || !memory("bob") {
		t.Errorf("another client's pages are not served: %v", err)
	}
	h.Close(2)
	closeCache(t, c)
}

func contains(t *testing.T, f *os.File, text string) bool {
	t.Helper()
	all, err := io.ReadAll(io.NewSectionReader(f, 0, 8<<20))
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Contains(all, []byte(text))
}
