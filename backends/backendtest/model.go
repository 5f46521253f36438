package backendtest

import (
	"bytes"
	"errors"
	"testing"

	"pgregory.net/rapid"

	"github.com/tmemd/tmemd/backends"
)

// testModel does random things in random order and compares with a plain map.
func testModel(t *testing.T, newBackend New) {
	rapid.Check(t, func(rt *rapid.T) {
		m := &model{b: newBackend(t), open: make(map[uint32]bool)}
		rt.Repeat(map[string]func(*rapid.T){
			"init":           m.init,
			"invalidateArea": m.invalidateArea,
			"store":          m.store,
			"load":           m.load,
			"loadWrong":      m.loadWrong,
			"invalidate":     m.invalidate,
			"":               m.check,
		})
		m.close(rt)
	})
}

type model struct {
	b       backends.Backend
	open    map[uint32]bool
	pages   []live
	refused [backends.Refusals]uint64
	corrupt uint64
}

func (m *model) export(rt *rapid.T) uint32 { return rapid.SampledFrom(exports[:]).Draw(rt, "export") }

func (m *model) init(rt *rapid.T) {
	id := m.export(rt)
	err := m.b.Init(backends.Export{ID: id, Name: "swap", Pages: 64})
	if (err == nil) == m.open[id] {
		rt.Fatalf("B2: Init(%d), initialised before: %v: %v", id, m.open[id], err)
	}
	m.open[id] = true
}

func (m *model) invalidateArea(rt *rapid.T) {
	id := m.export(rt)
	if !m.open[id] {
		rt.Skip("not initialised")
	}
	kept := m.pages[:0]
	for _, l := range m.pages {
		if l.key.Export != id {
			kept = append(kept, l)
			continue
		}
		m.b.Invalidate(l.key, l.handle)
	}
	m.pages = kept
	m.b.InvalidateArea(id)
	delete(m.open, id)
}

func (m *model) store(rt *rapid.T) {
	key := backends.Key{Export: m.export(rt), Page: rapid.Uint64Range(0, 63).Draw(rt, "page")}
	content := Content(rapid.IntRange(0, int(Contents)-1).Draw(rt, "content"))
	page := Page(content, rapid.Uint64Range(0, 1<<20).Draw(rt, "seed"))
	handle, refusal, err := m.b.Store(key, page)
	if err != nil {
		rt.Fatalf("Store(%v): %v", key, err)
	}
	if (refusal == backends.RefusedUnmanaged) == m.open[key.Export] {
		rt.Fatalf("B1: Store(%v), initialised: %v: %v", key, m.open[key.Export], refusal)
	}
	m.refused[refusal]++
	if refusal == backends.Accepted {
		m.pages = append(m.pages, live{key, handle, page})
	}
}

// pick draws one of the pages held.
func (m *model) pick(rt *rapid.T) int {
	if len(m.pages) == 0 {
		rt.Skip("no pages")
	}
	return rapid.IntRange(0, len(m.pages)-1).Draw(rt, "which")
}

func (m *model) load(rt *rapid.T) {
	l := m.pages[m.pick(rt)]
	dst := make([]byte, backends.PageSize)
	if err := m.b.Load(l.key, l.handle, dst); err != nil {
		rt.Fatalf("B7: Load(%v): %v", l.key, err)
	}
	if !bytes.Equal(dst, l.page) {
		rt.Fatalf("B8: Load(%v) gave other bytes", l.key)
	}
}

// loadWrong loads with another key than the page's. A handle that is the data
// may by chance fit the key (B9), and then gives that data.
func (m *model) loadWrong(rt *rapid.T) {
	l := m.pages[m.pick(rt)]
	key := backends.Key{Export: m.export(rt), Page: rapid.Uint64Range(0, 63).Draw(rt, "page")}
	if key == l.key {
		rt.Skip("the right key")
	}
	dst := make([]byte, backends.PageSize)
	err := m.b.Load(key, l.handle, dst)
	switch {
	case errors.Is(err, backends.ErrCorrupt):
		m.corrupt++
	case err != nil || !isFilled(l.page) || !bytes.Equal(dst, l.page):
		rt.Fatalf("B9: Load(%v) of the handle of %v: %v", key, l.key, err)
	}
}

func isFilled(page []byte) bool { return bytes.Equal(page[4:], page[:len(page)-4]) }

func (m *model) invalidate(rt *rapid.T) {
	i := m.pick(rt)
	m.b.Invalidate(m.pages[i].key, m.pages[i].handle)
	m.pages[i] = m.pages[len(m.pages)-1]
	m.pages = m.pages[:len(m.pages)-1]
}

func (m *model) check(rt *rapid.T) {
	stats := m.b.Stats()
	if stats.Pages != uint64(len(m.pages)) || len(m.pages) == 0 && stats.StoredBytes != 0 {
		rt.Fatalf("B3: Stats shows %d pages and %d bytes, want %d pages", stats.Pages, stats.StoredBytes, len(m.pages))
	}
	if stats.Refused != m.refused || stats.CorruptLoads != m.corrupt {
		rt.Fatalf("B6: Stats counts %v and %d corrupt loads, want %v and %d", stats.Refused, stats.CorruptLoads, m.refused, m.corrupt)
	}
	checkUsed(rt.Fatalf, m.b, exports[:]...)
	if stats.LimitBytes != 0 && stats.HeldBytes > stats.LimitBytes {
		rt.Fatalf("B19: %d bytes held, more than the limit of %d", stats.HeldBytes, stats.LimitBytes)
	}
}

func (m *model) close(rt *rapid.T) {
	dst := make([]byte, backends.PageSize)
	for _, l := range m.pages {
		if err := m.b.Load(l.key, l.handle, dst); err != nil || !bytes.Equal(dst, l.page) {
			rt.Fatalf("B8: Load(%v) gave other bytes or failed: %v", l.key, err)
		}
		m.b.Invalidate(l.key, l.handle)
	}
	m.pages = nil
	m.check(rt)
	for id := range m.open {
		m.b.InvalidateArea(id)
	}
	if err := m.b.Close(); err != nil {
		rt.Fatalf("Close: %v", err)
	}
}
