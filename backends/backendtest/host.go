package backendtest

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"sync"
	"sync/atomic"

	"github.com/tmemd/tmemd/backends"
)

// Host is what calls a backend, and what the backend may turn to: a small
// frontswap, with a lock and an owner for each page, over storage that is a Go
// map. It checks what it reads against what was written.
//
// Its locks are taken as frontswap takes them, so that a backend which deadlocks
// there does so here: Rehandle tries and never waits; Evict waits for pages, and
// for an export that is being closed; Close of an export waits for Evict.
type Host struct {
	Backend backends.Backend // set before the first call, and not changed

	// OnEvict is called first thing in Evict; its error is the result. May be nil.
	OnEvict func() error
	// OnRehandle is called first thing in Rehandle, which returns false if it
	// does. May be nil.
	OnRehandle func(backends.Key) bool
	// Refaulted is what Refaults returns.
	Refaulted atomic.Uint64
	// Owes is what Owed returns.
	Owes atomic.Bool

	areas sync.Map   // export → *hostArea
	evict sync.Mutex // one Evict at a time; others get an error, as in frontswap
	hand  uint64     // where Evict goes on; guarded by evict
	seed  maphash.Seed
	once  sync.Once

	counts HostCounts // atomic
}

// HostCounts says what a backend asked of a [Host].
type HostCounts struct {
	Rehandled, Contended, Evictions, Evicted atomic.Uint64
}

var _ backends.Host = (*Host)(nil)

type hostArea struct {
	life  sync.RWMutex // held by Close; read-held while pages are walked or rehandled
	pages []hostPage
}

// hostPage is a page: in the backend, in storage, or nowhere.
type hostPage struct {
	mu         sync.RWMutex
	written    bool            // guarded by mu
	held       bool            // by the backend; guarded by mu
	handle     backends.Handle // guarded by mu
	storage    []byte          // guarded by mu
	hash       uint64          // of what was written; guarded by mu
	referenced atomic.Bool     // read since it was written, or since Evict's hand passed
}

// Counts returns the counters.
func (h *Host) Counts() *HostCounts { return &h.counts }

// Open initialises an export of so many pages, with h as its host.
func (h *Host) Open(export uint32, pages uint64) error {
	h.once.Do(func() { h.seed = maphash.MakeSeed() })
	h.areas.Store(export, &hostArea{pages: make([]hostPage, pages)})
	return h.Backend.Init(backends.Export{ID: export, Name: "swap", Pages: pages, Host: h})
}

// Adopted makes a page one that the backend has under the handle, after its Adopt.
func (h *Host) Adopted(key backends.Key, handle backends.Handle, page []byte) {
	p := &h.area(key.Export).pages[key.Page]
	p.mu.Lock()
	defer p.mu.Unlock()
	p.written, p.held, p.handle, p.hash = true, true, handle, maphash.Bytes(h.seed, page)
}

// Close drops every page of an export and lets it go. No other call for it is
// under way but the backend's own.
func (h *Host) Close(export uint32) {
	a := h.area(export)
	a.life.Lock()
	defer a.life.Unlock()
	for page := range a.pages {
		h.Trim(backends.Key{Export: export, Page: uint64(page)})
	}
	h.Backend.InvalidateArea(export)
	h.areas.Delete(export)
}

// Clear drops every page of an export.
func (h *Host) Clear(export uint32) {
	for page := range h.area(export).pages {
		h.Trim(backends.Key{Export: export, Page: uint64(page)})
	}
}

func (h *Host) area(export uint32) *hostArea {
	found, ok := h.areas.Load(export)
	if !ok {
		return nil
	}
	return found.(*hostArea)
}

// Write stores the page, in the backend if it takes it, else in storage.
func (h *Host) Write(key backends.Key, data []byte) (backends.Refusal, error) {
	p := &h.area(key.Export).pages[key.Page]
	p.mu.Lock()
	defer p.mu.Unlock()
	handle, refusal, err := h.Backend.Store(key, data)
	if err != nil {
		return refusal, err
	}
	h.dropLocked(key, p)
	p.written, p.hash = true, maphash.Bytes(h.seed, data)
	if refusal == backends.Accepted {
		p.held, p.handle = true, handle
		p.referenced.Store(false)
		return refusal, nil
	}
	p.storage = append(p.storage, data...)
	return refusal, nil
}

// Read loads the page, from where it is, and checks it. A page that was never
// written is not read.
func (h *Host) Read(key backends.Key, dst []byte) error {
	p := &h.area(key.Export).pages[key.Page]
	p.mu.RLock()
	defer p.mu.RUnlock()
	if !p.written {
		return nil
	}
	if !p.held {
		copy(dst, p.storage)
	} else if err := h.Backend.Load(key, p.handle, dst); err != nil {
		return err
	}
	p.referenced.Store(true)
	if maphash.Bytes(h.seed, dst) != p.hash {
		return fmt.Errorf("B8: page %d of export %d is not what was written", key.Page, key.Export)
	}
	return nil
}

// Trim drops the page.
func (h *Host) Trim(key backends.Key) {
	p := &h.area(key.Export).pages[key.Page]
	p.mu.Lock()
	defer p.mu.Unlock()
	h.dropLocked(key, p)
	p.written = false
}

func (h *Host) dropLocked(key backends.Key, p *hostPage) {
	if p.held {
		h.Backend.Invalidate(key, p.handle)
	}
	p.held, p.handle, p.storage = false, 0, p.storage[:0]
}

// Held says whether the backend has the page, and under which handle.
func (h *Host) Held(key backends.Key) (backends.Handle, bool) {
	p := &h.area(key.Export).pages[key.Page]
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.handle, p.held
}

// Check reads every page of the export.
func (h *Host) Check(export uint32) error {
	dst := make([]byte, backends.PageSize)
	for page := range h.area(export).pages {
		if err := h.Read(backends.Key{Export: export, Page: uint64(page)}, dst); err != nil {
			return err
		}
	}
	return nil
}

// Rehandle implements [backends.Host].
func (h *Host) Rehandle(key backends.Key, old backends.Handle, next func() (backends.Handle, bool)) bool {
	if h.OnRehandle != nil && !h.OnRehandle(key) {
		return false
	}
	a := h.area(key.Export)
	if a == nil || key.Page >= uint64(len(a.pages)) || !a.life.TryRLock() {
		return false
	}
	defer a.life.RUnlock()
	p := &a.pages[key.Page]
	if !p.mu.TryLock() {
		h.counts.Contended.Add(1)
		return false
	}
	defer p.mu.Unlock()
	if !p.held || p.handle != old {
		return false
	}
	handle, ok := next()
	if !ok {
		return false
	}
	p.handle = handle
	h.counts.Rehandled.Add(1)
	return true
}

var errEvictBusy = errors.New("pages are being evicted already")

// Evict implements [backends.Host]: a clock over all pages.
func (h *Host) Evict(ctx context.Context, n uint64) (moved uint64, err error) {
	h.counts.Evictions.Add(1)
	if h.OnEvict != nil {
		if err := h.OnEvict(); err != nil {
			return 0, err
		}
	}
	if !h.evict.TryLock() {
		return 0, errEvictBusy
	}
	defer h.evict.Unlock()
	h.areas.Range(func(export, area any) bool {
		var got uint64
		got, err = h.evictArea(ctx, export.(uint32), area.(*hostArea), n-moved)
		moved += got
		return err == nil && moved < n
	})
	h.counts.Evicted.Add(moved)
	return moved, err
}

// Refaults implements [backends.Host].
func (h *Host) Refaults() uint64 { return h.Refaulted.Load() }

// Owed implements [backends.Host].
func (h *Host) Owed() bool { return h.Owes.Load() }

func (h *Host) evictArea(ctx context.Context, export uint32, a *hostArea, n uint64) (moved uint64, err error) {
	a.life.RLock()
	defer a.life.RUnlock()
	for range 3 * len(a.pages) {
		if moved == n || ctx.Err() != nil {
			break
		}
		h.hand = (h.hand + 1) % uint64(len(a.pages))
		ok, err := h.evictPage(backends.Key{Export: export, Page: h.hand}, &a.pages[h.hand])
		if err != nil {
			return moved, err
		}
		if ok {
			moved++
		}
	}
	return moved, ctx.Err()
}

func (h *Host) evictPage(key backends.Key, p *hostPage) (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.held || p.referenced.Swap(false) {
		return false, nil
	}
	data := make([]byte, backends.PageSize)
	if err := h.Backend.Load(key, p.handle, data); err != nil {
		return false, err
	}
	h.dropLocked(key, p)
	p.storage = data
	return true, nil
}
