package zcache_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/backendtest"
	"github.com/tmemd/tmemd/backends/zcache"
)

func TestEphemeral(t *testing.T) { backendtest.RunEphemeral(t, newBackend) }

// disk is the export of these tests; what it holds is what its number says.
const diskID = 9

type disk struct {
	*testing.T
	*zcache.Cache
	handles map[uint64]backends.Handle
	content backendtest.Content
}

func newDisk(t *testing.T, c *zcache.Cache) *disk {
	t.Helper()
	if err := c.Init(backends.Export{ID: diskID, Name: "disk", Pages: 1 << 20, Ephemeral: true}); err != nil {
		t.Fatal(err)
	}
	return &disk{T: t, Cache: c, handles: map[uint64]backends.Handle{}, content: backendtest.Structured}
}

// read is what cleancache does: a miss is offered. It says whether it was a hit.
func (d *disk) read(page uint64) bool {
	d.Helper()
	key, want, dst := backends.Key{Export: diskID, Page: page}, backendtest.Page(d.content, page), make([]byte, backends.PageSize)
	if handle, ok := d.handles[page]; ok {
		err := d.Load(key, handle, dst)
		if err == nil {
			if !bytes.Equal(dst, want) {
				d.Fatalf("page %d has other bytes", page)
			}
			return true
		}
		if !errors.Is(err, backends.ErrGone) {
			d.Fatal(err)
		}
		d.Invalidate(key, handle)
		delete(d.handles, page)
	}
	handle, refusal, err := d.Store(key, want)
	if err != nil {
		d.Fatal(err)
	}
	if refusal == backends.Accepted {
		d.handles[page] = handle
	}
	return false
}

// hits reads the pages and counts hits.
func (d *disk) hits(first, count uint64) (hits int) {
	d.Helper()
	for page := first; page < first+count; page++ {
		if d.read(page) {
			hits++
		}
	}
	return hits
}

func (d *disk) end() {
	d.Helper()
	for page, handle := range d.handles {
		d.Invalidate(backends.Key{Export: diskID, Page: page}, handle)
	}
	d.InvalidateArea(diskID)
	if s := d.Stats(); s.EphemeralPages != 0 {
		d.Errorf("at the end there are %d ephemeral pages", s.EphemeralPages)
	}
	closeCache(d.T, d.Cache)
}

// TestScan reads pages again and again, then a long row of others once, as a backup
// does: those that were in use are still there.
func TestScan(t *testing.T) {
	const hot = 3000 // about half of the pool
	d := newDisk(t, newCache(t, 10<<20))
	defer d.end()
	d.hits(0, hot)
	if got := d.hits(0, hot); got != hot {
		t.Fatalf("%d of %d pages are hits with room for all of them", got, hot)
	}
	d.hits(1<<18, 80000) // ten times the pool
	if got := d.hits(0, hot); got < hot*9/10 {
		t.Errorf("after a scan %d of %d pages that were in use are hits", got, hot)
	}
	if s := d.Stats(); s.Refused[backends.RefusedOnce] < 40000 {
		t.Errorf("%d pages were refused as offered once", s.Refused[backends.RefusedOnce])
	}
	// The use changes: what is read again gets in, at the cost of what is not.
	for range 6 {
		d.hits(1<<19, hot)
	}
	if got := d.hits(1<<19, hot); got < hot*9/10 {
		t.Errorf("%d of %d pages that are in use now are hits", got, hot)
	}
}

// TestEphemeralIncompressible: reading them again costs no less.
func TestEphemeralIncompressible(t *testing.T) {
	d := newDisk(t, newCache(t, 10<<20))
	defer d.end()
	d.content = backendtest.Random
	d.hits(0, 100)
	if got := d.hits(0, 100); got != 100 {
		t.Errorf("%d of 100 incompressible pages are hits", got)
	}
	if s := d.Stats(); s.Incompressible != 100 {
		t.Errorf("%d pages count as incompressible", s.Incompressible)
	}
}

// TestEphemeralLimit lowers the limit: what is held above it goes at once, and comes
// from ephemeral pages.
func TestEphemeralLimit(t *testing.T) {
	c := newCache(t, 10<<20)
	d := newDisk(t, c)
	defer d.end()
	initExport(t, c)
	swap := fill(t, c, 0, 500)
	d.hits(0, 20000)
	if err := c.SetLimit(2 << 20); err != nil {
		t.Fatal(err)
	}
	if s := c.Stats(); s.HeldBytes > 2<<20 || s.Moved[backends.MovedDropped] == 0 {
		t.Errorf("%d bytes are held at a limit of %d, %d pages were dropped", s.HeldBytes, 2<<20, s.Moved[backends.MovedDropped])
	}
	swap = append(swap, fill(t, c, 1000, 50)...)
	if n := c.Stats().Refused[backends.RefusedFull]; n != 0 {
		t.Errorf("%d pages were refused as full beside ephemeral ones", n)
	}
	if n := loadDamaged(t, c, swap); n != 0 {
		t.Errorf("%d pages of swap are damaged", n)
	}
	for _, s := range swap {
		c.Invalidate(s.key, s.handle)
	}
	c.InvalidateArea(1)
}

// TestEphemeralDamage: a copy that does not prove right is not handed out.
func TestEphemeralDamage(t *testing.T) {
	d := newDisk(t, newCache(t, 10<<20))
	defer d.end()
	d.hits(0, 1)
	f := arenaFile(t)
	size, err := f.Seek(0, 2)
	if err != nil {
		t.Fatal(err)
	}
	raw := make([]byte, 64<<10)
	at := int64(-1)
	for offset := int64(0); offset < size && at < 0; offset += int64(len(raw)) {
		n, _ := f.ReadAt(raw, offset)
		if i := bytes.IndexFunc(raw[:n], func(r rune) bool { return r != 0 }); i >= 0 {
			at = offset + int64(i)
		}
	}
	if at < 0 {
		t.Fatal("nothing is in the arena")
	}
	flip(t, f, at+200, 0x10) // behind the header
	err = d.Load(backends.Key{Export: diskID}, d.handles[0], make([]byte, backends.PageSize))
	if !errors.Is(err, backends.ErrCorrupt) || d.Stats().CorruptLoads != 1 {
		t.Errorf("Load of a damaged page: %v, %d counted", err, d.Stats().CorruptLoads)
	}
}

// TestEphemeralDoNotSurvive: a process that takes over finds swap, and room.
func TestEphemeralDoNotSurvive(t *testing.T) {
	s := newSurvivor(t, zcache.Config{Limit: 10 << 20})
	c := s.open(t, zcache.New)
	initExport(t, c)
	swap := fill(t, c, 0, 300)
	d := newDisk(t, c)
	d.hits(0, 1000)
	c = s.reopen(t, c)
	for page, handle := range d.handles {
		if c.Adopt(backends.Key{Export: diskID, Page: page}, handle) {
			t.Fatalf("B27: ephemeral page %d was adopted", page)
		}
	}
	for _, p := range swap {
		if !c.Adopt(p.key, p.handle) {
			t.Fatalf("page %d of swap was not adopted", p.key.Page)
		}
	}
	if n := c.Orphans(); n != 0 {
		t.Errorf("B27: %d orphans counted", n)
	}
	if n, err := c.Adopted(); n != 0 || err != nil {
		t.Errorf("B27: %d orphans freed: %v", n, err)
	}
	if stats := c.Stats(); stats.EphemeralPages != 0 || stats.Pages != uint64(len(swap)) {
		t.Errorf("there are %d pages, %d of them ephemeral, want %d", stats.Pages, stats.EphemeralPages, len(swap))
	}
	initExport(t, c)
	if n := loadDamaged(t, c, swap); n != 0 {
		t.Errorf("%d pages of swap are damaged", n)
	}
	for _, p := range swap {
		c.Invalidate(p.key, p.handle)
	}
	c.InvalidateArea(1)
	closeCache(t, c)
	if err := s.now.Close(); err != nil {
		t.Fatal(err)
	}
}
