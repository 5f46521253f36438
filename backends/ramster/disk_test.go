package ramster

import (
	"bytes"
	"errors"
	"sync"
	"testing"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/backendtest"
)

const diskID = 9

// disk is what cleancache is to a backend, over storage that is a number for each page.
type disk struct {
	testing.TB
	backends.Backend
	pages []diskPage
}

type diskPage struct {
	mu      sync.Mutex
	content uint64 // seed of what storage has
	handle  backends.Handle
	cached  bool
}

func newDisk(t testing.TB, b backends.Backend, pages int) *disk {
	t.Helper()
	d := &disk{TB: t, pages: make([]diskPage, pages)}
	d.open(b)
	return d
}

func (d *disk) open(b backends.Backend) {
	d.Helper()
	d.Backend = b
	if err := b.Init(backends.Export{ID: diskID, Name: "disk", Pages: uint64(len(d.pages)), Ephemeral: true}); err != nil {
		d.Fatal(err)
	}
}

func (d *disk) key(page int) backends.Key { return backends.Key{Export: diskID, Page: uint64(page)} }

// read says whether the page was cached; one that was not is offered.
func (d *disk) read(page int) (hit bool) {
	p := &d.pages[page]
	p.mu.Lock()
	defer p.mu.Unlock()
	want, dst := backendtest.Mixed(uint64(page)<<32|p.content), make([]byte, backends.PageSize)
	if p.cached {
		err := d.Load(d.key(page), p.handle, dst)
		if err == nil && !bytes.Equal(dst, want) {
			d.Errorf("page %d: other bytes", page)
		}
		if err == nil {
			return true
		}
		if !errors.Is(err, backends.ErrGone) {
			d.Errorf("page %d: %v, want a hit or ErrGone", page, err)
		}
		d.forgetLocked(page)
	}
	handle, refusal, err := d.Store(d.key(page), want)
	if err != nil {
		d.Errorf("page %d: %v", page, err)
	}
	p.handle, p.cached = handle, err == nil && refusal == backends.Accepted
	return false
}

func (d *disk) forgetLocked(page int) {
	if p := &d.pages[page]; p.cached {
		d.Invalidate(d.key(page), p.handle)
		p.cached = false
	}
}

func (d *disk) write(page int) {
	p := &d.pages[page]
	p.mu.Lock()
	defer p.mu.Unlock()
	d.forgetLocked(page)
	p.content++
}

// readAll reads all pages and counts hits.
func (d *disk) readAll() (hits int) {
	for page := range d.pages {
		if d.read(page) {
			hits++
		}
	}
	return hits
}

func (d *disk) close() {
	for page := range d.pages {
		d.pages[page].mu.Lock()
		d.forgetLocked(page)
		d.pages[page].mu.Unlock()
	}
	d.InvalidateArea(diskID)
}

// fill reads pages until all are cached, as it takes more than one round while flights are
// under way.
func (d *disk) fill(t testing.TB) {
	t.Helper()
	await(t, "all pages to be cached", func() bool { return d.readAll() == len(d.pages) })
}

// cachedAt is how many ephemeral pages the donor has.
func (h *host) cachedAt() (pages int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.donor != nil {
		for _, c := range h.donor.Stats().Clients {
			pages += c.Ephemeral
		}
	}
	return pages
}

// settleCached waits until donors have the ephemeral pages that there are stubs of, and no others.
func (w *world) settleCached() {
	w.Helper()
	w.awaitUp()
	w.await("cached pages to settle", func() (bool, string) {
		for _, d := range w.cache.Donors() {
			if there := w.donors[d.Name].cachedAt(); there != d.Cached {
				return false, w.describe()
			}
		}
		return w.cache.Remote().Cached == int64(w.cache.Stats().EphemeralPages)-w.cache.cached.same.Load(), "stubs"
	})
}
