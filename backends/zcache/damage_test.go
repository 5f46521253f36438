package zcache_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/arena"
	"github.com/tmemd/tmemd/backends/zcache"
)

// arenaFile opens the memory file of the one cache that there is, as a fault in
// the hardware would reach it: from below.
func arenaFile(t *testing.T) *os.File {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, entry := range entries {
		path := "/proc/self/fd/" + entry.Name()
		if target, err := os.Readlink(path); err == nil && strings.Contains(target, "tmemd zcache arena") {
			found = append(found, path)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d arenas are open, want 1", len(found))
	}
	f, err := os.OpenFile(found[0], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func flip(t *testing.T, f *os.File, at int64, mask byte) {
	t.Helper()
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= mask
	if _, err := f.WriteAt(b[:], at); err != nil {
		t.Fatal(err)
	}
}

// loadDamaged loads all pages and returns how many are corrupt. Anything but the
// right bytes or ErrCorrupt is an error (Z1).
func loadDamaged(t *testing.T, c *zcache.Cache, pages []stored) (corrupt uint64) {
	t.Helper()
	dst := make([]byte, backends.PageSize)
	before := c.Stats().CorruptLoads
	for _, s := range pages {
		err := c.Load(s.key, s.handle, dst)
		switch {
		case errors.Is(err, backends.ErrCorrupt):
			corrupt++
		case err != nil:
			t.Fatalf("Load(%v): %v", s.key, err)
		case !bytes.Equal(dst, s.page):
			t.Fatalf("Z1: Load(%v) gave other bytes", s.key)
		}
	}
	if got := c.Stats().CorruptLoads - before; got != corrupt {
		t.Fatalf("%d corrupt loads, %d counted", corrupt, got)
	}
	return corrupt
}

// inUse is how many bytes at the front of the memory file hold pages: chunks are
// taken from the front, and the tests free few.
func inUse(c *zcache.Cache) int64 { return int64(c.Stats().HeldBytes) }

// TestBitFlips flips one bit at a time, anywhere in the arena, and puts it back.
func TestBitFlips(t *testing.T) {
	c := newCache(t, 8<<20)
	defer closeCache(t, c)
	initExport(t, c)
	pages := fill(t, c, 0, 40)
	var objects []int64 // addresses of those pages that are not same-filled
	for _, s := range pages {
		if at := int64(s.handle) * arena.RefUnit; at < inUse(c) {
			objects = append(objects, at)
		}
	}
	f := arenaFile(t)
	random := rand.New(rand.NewPCG(1, 5))
	hits := uint64(0)
	for n := range 3000 {
		at := random.Int64N(inUse(c))
		if n%2 == 0 { // the header of a page, or what is first in its data
			at = objects[random.IntN(len(objects))] + random.Int64N(64)
		}
		mask := byte(1) << random.IntN(8)
		flip(t, f, at, mask)
		corrupt := loadDamaged(t, c, pages)
		if corrupt > 1 {
			t.Fatalf("one flipped bit damaged %d pages", corrupt)
		}
		hits += corrupt
		flip(t, f, at, mask)
	}
	if hits < 100 {
		t.Errorf("only %d of 3000 flipped bits were found out", hits)
	}
	if loadDamaged(t, c, pages) != 0 {
		t.Error("pages are corrupt with all bits put back")
	}
}

// TestBurstsOfDamage lets damage pile up while pages come and go, bits and whole
// blocks of it, and expects that the cache goes on with what it has.
func TestBurstsOfDamage(t *testing.T) {
	c := newCache(t, 4<<20)
	defer closeCache(t, c)
	initExport(t, c)
	f := arenaFile(t)
	random := rand.New(rand.NewPCG(2, 5))
	var pages []stored
	next, hits := uint64(0), uint64(0)
	block := make([]byte, 256)
	for range 150 {
		pages = append(pages, fill(t, c, next, 12)...)
		next += 12
		for range 6 {
			if len(pages) > 0 {
				i := random.IntN(len(pages))
				c.Invalidate(pages[i].key, pages[i].handle)
				pages[i] = pages[len(pages)-1]
				pages = pages[:len(pages)-1]
			}
		}
		for range 4 {
			flip(t, f, random.Int64N(inUse(c)), byte(1+random.IntN(255)))
		}
		for i := range block {
			block[i] = byte(random.Uint64())
		}
		if _, err := f.WriteAt(block, random.Int64N(inUse(c)-int64(len(block)))); err != nil {
			t.Fatal(err)
		}
		hits += loadDamaged(t, c, pages)
	}
	if hits == 0 {
		t.Error("no damage was found out")
	}
	for _, s := range pages {
		c.Invalidate(s.key, s.handle)
	}
	if stats := c.Stats(); stats.HeldBytes > stats.LimitBytes {
		t.Errorf("%d bytes held, limit %d", stats.HeldBytes, stats.LimitBytes)
	}
	fresh := fill(t, c, 1<<20, 12)
	if len(fresh) == 0 {
		t.Error("no page is accepted after the damage")
	}
	loadAll(t, c, fresh)
}

// TestZeroedAndSwapped damages the arena as software would: a page of it zeroed,
// and two objects exchanged.
func TestZeroedAndSwapped(t *testing.T) {
	c := newCache(t, 8<<20)
	defer closeCache(t, c)
	initExport(t, c)
	pages := fill(t, c, 0, 200)
	f := arenaFile(t)
	size := inUse(c)
	whole := make([]byte, size)
	if _, err := f.ReadAt(whole, 0); err != nil {
		t.Fatal(err)
	}
	restore := func() {
		t.Helper()
		if _, err := f.WriteAt(whole, 0); err != nil {
			t.Fatal(err)
		}
	}
	hits := uint64(0)
	for at := int64(0); at < size; at += backends.PageSize {
		if _, err := f.WriteAt(make([]byte, backends.PageSize), at); err != nil {
			t.Fatal(err)
		}
		hits += loadDamaged(t, c, pages)
		restore()
		other := (at + 3*backends.PageSize) % size
		if _, err := f.WriteAt(whole[other:other+backends.PageSize], at); err != nil {
			t.Fatal(err)
		}
		hits += loadDamaged(t, c, pages)
		restore()
	}
	if hits == 0 {
		t.Error("no damage was found out")
	}
	if loadDamaged(t, c, pages) != 0 {
		t.Error("pages are corrupt with all bytes put back")
	}
}

// TestDamagedHandles flips the bits of handles, as damage to the page map does.
func TestDamagedHandles(t *testing.T) {
	c := newCache(t, 8<<20)
	defer closeCache(t, c)
	initExport(t, c)
	pages := fill(t, c, 0, 500)
	hits, loads := uint64(0), uint64(0)
	for bit := range backends.HandleBits {
		wrong := make([]stored, len(pages))
		for i, s := range pages {
			s.handle ^= 1 << bit
			wrong[i] = s
		}
		hits += loadDamaged(t, c, wrong)
		loads += uint64(len(wrong))
	}
	if hits != loads {
		t.Errorf("%d of %d damaged handles were found out", hits, loads)
	}
}
