package backendtest

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"sync"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/packed"
)

// Map is the reference backend: a Go map and a mutex. The zero value is ready.
//
// It serves two sorts of tests. It shows that the conformance suite describes
// something that can be built; and it stands in for a real backend in tests of
// its callers, where the fields make it refuse, fail, lie or wait on demand.
// It also watches its caller, see [Map.Misuse]. Pages of ephemeral exports it
// forgets when it is told to, and when it is full.
//
// The exported fields are set before the first call and not changed afterwards.
// The functions may be nil. They are called without a lock held, from the
// goroutine of the caller, at once for different pages; one that waits keeps
// its caller waiting.
type Map struct {
	Name   string // what Kind returns; "map" if empty
	Remote bool   // Local returns the opposite
	Limit  int    // pages held at most; 0 means no limit

	// OnInit is called first thing; its error is the result.
	OnInit func(backends.Export) error
	// OnStore is called first thing; a refusal or an error is the result.
	OnStore func(key backends.Key, data []byte) (backends.Refusal, error)
	// OnLoad is called with the right page in dst. It may alter it, to make a
	// backend that lies; an error is the result.
	OnLoad func(key backends.Key, handle backends.Handle, dst []byte) error
	// OnInvalidate is called first thing.
	OnInvalidate func(key backends.Key, handle backends.Handle)
	// OnInvalidateArea is called first thing.
	OnInvalidateArea func(export uint32)
	// OnClose is called first thing. Its error is the result, and all else
	// happens nevertheless.
	OnClose func() error

	mu      sync.Mutex
	pages   map[backends.Handle]mapPage // guarded by mu
	exports map[uint32]*mapExport       // guarded by mu
	calls   map[backends.Key]int        // calls under way: loads, or -1 for another; guarded by mu
	made    uint64                      // handles made so far; guarded by mu
	refused [backends.Refusals]uint64   // guarded by mu
	corrupt uint64                      // guarded by mu
	closed  bool                        // guarded by mu
	misuse  []error                     // guarded by mu

	unpacker *packed.Decoder // guarded by mu
}

var _ backends.Backend = (*Map)(nil)

type mapExport struct {
	ephemeral bool
	live      int                              // pages
	handles   map[backends.Key]backends.Handle // of an ephemeral one: what the caller has
}

// exportLocked returns the export, or one that holds nothing.
func (m *Map) exportLocked(id uint32) *mapExport {
	if export := m.exports[id]; export != nil {
		return export
	}
	return &mapExport{}
}

type mapPage struct {
	key  backends.Key
	data []byte
}

// Kind returns Name.
func (m *Map) Kind() string {
	if m.Name == "" {
		return "map"
	}
	return m.Name
}

// Local returns the opposite of Remote.
func (m *Map) Local() bool { return !m.Remote }

// Adopt returns false: the zero value has nothing from an earlier process.
func (m *Map) Adopt(backends.Key, backends.Handle) bool { return false }

// Adopted returns nothing.
func (m *Map) Adopted() (uint64, error) { return 0, nil }

// Init makes the export known.
func (m *Map) Init(export backends.Export) error {
	if m.OnInit != nil {
		if err := m.OnInit(export); err != nil {
			return err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return m.misuseLocked("Init of export %d after Close", export.ID)
	}
	if _, ok := m.exports[export.ID]; ok {
		return fmt.Errorf("init export %d: it is initialised already", export.ID)
	}
	if m.exports == nil {
		m.exports = make(map[uint32]*mapExport)
	}
	m.exports[export.ID] = &mapExport{ephemeral: export.Ephemeral, handles: map[backends.Key]backends.Handle{}}
	return nil
}

// Store keeps a copy of data.
func (m *Map) Store(key backends.Key, data []byte) (backends.Handle, backends.Refusal, error) {
	m.enter("Store", key, -1)
	defer m.leave(key, -1)
	if len(data) != backends.PageSize || key.Page >= backends.MaxPages {
		m.mu.Lock()
		defer m.mu.Unlock()
		return 0, backends.Accepted, m.misuseLocked("Store of page %d with %d bytes", key.Page, len(data))
	}
	if m.OnStore != nil {
		refusal, err := m.OnStore(key, data)
		if err != nil {
			return 0, backends.Accepted, err
		}
		if refusal != backends.Accepted {
			return 0, m.refuse(refusal), nil
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	export, ok := m.exports[key.Export]
	if !ok {
		return 0, m.refuseLocked(backends.RefusedUnmanaged), nil
	}
	if old, ok := export.handles[key]; ok {
		return 0, backends.Accepted, m.misuseLocked("Store of page %d of ephemeral export %d, whose handle %#x was not invalidated",
			key.Page, key.Export, uint64(old))
	}
	if m.Limit > 0 && len(m.pages) >= m.Limit {
		m.dropLocked(1, func(backends.Key) bool { return true })
	}
	if m.Limit > 0 && len(m.pages) >= m.Limit {
		return 0, m.refuseLocked(backends.RefusedFull), nil
	}
	if m.pages == nil {
		m.pages = make(map[backends.Handle]mapPage)
	}
	handle := m.newHandleLocked()
	m.pages[handle] = mapPage{key: key, data: bytes.Clone(data)}
	export.live++
	if export.ephemeral {
		export.handles[key] = handle
	}
	m.refused[backends.Accepted]++
	return handle, backends.Accepted, nil
}

// newHandleLocked returns a handle that was never used before. Multiplying by
// an odd number spreads them over all HandleBits bits, so that a caller which
// drops one is found out; the first handle is 0, which is as good as any.
func (m *Map) newHandleLocked() backends.Handle {
	handle := backends.Handle(m.made * 0x9e3779b97f4a7c15 % (1 << backends.HandleBits))
	m.made++
	return handle
}

// Load copies the page to dst.
func (m *Map) Load(key backends.Key, handle backends.Handle, dst []byte) error {
	m.enter("Load", key, 1)
	defer m.leave(key, 1)
	if err := m.load(key, handle, dst); err != nil {
		return err
	}
	if m.OnLoad == nil {
		return nil
	}
	err := m.OnLoad(key, handle, dst)
	if errors.Is(err, backends.ErrCorrupt) {
		m.mu.Lock()
		m.corrupt++
		m.mu.Unlock()
	}
	return err
}

func (m *Map) load(key backends.Key, handle backends.Handle, dst []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	page, ok := m.pages[handle]
	if (!ok || page.key != key) && m.exportLocked(key.Export).ephemeral {
		return backends.ErrGone
	}
	if !ok || page.key != key || len(dst) != backends.PageSize {
		m.corrupt++
		return fmt.Errorf("load page %d of export %d: no such page under handle %#x: %w",
			key.Page, key.Export, uint64(handle), backends.ErrCorrupt)
	}
	copy(dst, page.data)
	return nil
}

// Invalidate forgets the page.
func (m *Map) Invalidate(key backends.Key, handle backends.Handle) {
	m.enter("Invalidate", key, -1)
	defer m.leave(key, -1)
	if m.OnInvalidate != nil {
		m.OnInvalidate(key, handle)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	export := m.exportLocked(key.Export)
	if known, ok := export.handles[key]; ok && known == handle {
		delete(export.handles, key)
		if _, ok := m.pages[handle]; !ok {
			return // forgotten before
		}
	}
	if page, ok := m.pages[handle]; !ok || page.key != key {
		m.misuseLocked("Invalidate of page %d of export %d under handle %#x, which is not live",
			key.Page, key.Export, uint64(handle))
		return
	}
	delete(m.pages, handle)
	export.live--
}

// Drop forgets those pages of ephemeral exports that which says, as if for want of
// room, and returns how many.
func (m *Map) Drop(which func(backends.Key) bool) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.dropLocked(len(m.pages), which)
}

func (m *Map) dropLocked(most int, which func(backends.Key) bool) (dropped int) {
	for handle, page := range m.pages {
		if dropped == most {
			break
		}
		export := m.exportLocked(page.key.Export)
		if export.ephemeral && which(page.key) {
			delete(m.pages, handle)
			export.live--
			dropped++
		}
	}
	return dropped
}

// InvalidateArea forgets the export.
func (m *Map) InvalidateArea(export uint32) {
	if m.OnInvalidateArea != nil {
		m.OnInvalidateArea(export)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	known := m.exports[export]
	if known == nil {
		known = &mapExport{live: -1}
	}
	if known.live != 0 || len(known.handles) != 0 || m.closed {
		m.misuseLocked("InvalidateArea of export %d (pages: %d, or -1 if it is unknown; handles of forgotten pages: %d; closed: %v)",
			export, known.live, len(known.handles), m.closed)
	}
	for key := range m.calls {
		if key.Export == export {
			m.misuseLocked("InvalidateArea of export %d during a call for its page %d", export, key.Page)
		}
	}
	delete(m.exports, export)
}

// Used counts each page as PageSize bytes.
func (m *Map) Used(export uint32) uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.exportLocked(export)
	if e.ephemeral {
		return 0
	}
	return uint64(e.live) * backends.PageSize
}

// Room is what Limit leaves.
func (m *Map) Room() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.Limit == 0 {
		return math.MaxUint64
	}
	taken := len(m.pages)
	for _, e := range m.exports {
		if e.ephemeral {
			taken -= e.live
		}
	}
	return uint64(max(m.Limit-taken, 0)) * backends.PageSize
}

// Stats counts each page as PageSize bytes.
func (m *Map) Stats() backends.Stats {
	m.mu.Lock()
	defer m.mu.Unlock()
	held := uint64(len(m.pages)) * backends.PageSize
	ephemeral := 0
	for _, export := range m.exports {
		if export.ephemeral {
			ephemeral += export.live
		}
	}
	return backends.Stats{
		Pages:          uint64(len(m.pages)),
		EphemeralPages: uint64(ephemeral),
		StoredBytes:    held,
		HeldBytes:      held,
		LimitBytes:     uint64(m.Limit) * backends.PageSize,
		Refused:        m.refused,
		CorruptLoads:   m.corrupt,
	}
}

// Close forgets everything.
func (m *Map) Close() error {
	var err error
	if m.OnClose != nil {
		err = m.OnClose()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed || len(m.pages) > 0 || len(m.exports) > 0 || len(m.calls) > 0 {
		m.misuseLocked("Close with %d pages, %d exports and %d calls left (closed before: %v)",
			len(m.pages), len(m.exports), len(m.calls), m.closed)
	}
	m.closed = true
	m.pages, m.exports = nil, nil
	return err
}

// Misuse reports what the caller did that the contract forbids: overlapping
// calls for a page, a dead handle invalidated, an export or the backend let go
// with pages in it, calls after Close. Nil means that nothing was found.
func (m *Map) Misuse() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return errors.Join(m.misuse...)
}

// Keys returns the keys of all pages held, in no order. A key appears as often
// as it has live handles.
func (m *Map) Keys() []backends.Key {
	m.mu.Lock()
	defer m.mu.Unlock()
	keys := make([]backends.Key, 0, len(m.pages))
	for _, page := range m.pages {
		keys = append(keys, page.key)
	}
	return keys
}

// enter notes a call for the key; loads is 1 for a Load and -1 for any other,
// which must be alone. Loads of ephemeral pages disturb nobody (B25).
func (m *Map) enter(call string, key backends.Key, loads int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.calls == nil {
		m.calls = make(map[backends.Key]int)
	}
	if loads > 0 && m.exportLocked(key.Export).ephemeral && !m.closed {
		return
	}
	if under := m.calls[key]; m.closed || under < 0 || under > 0 && loads < 0 {
		m.misuseLocked("%s of page %d of export %d during another call for it, or after Close",
			call, key.Page, key.Export)
	}
	m.calls[key] += loads
}

func (m *Map) leave(key backends.Key, loads int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if loads > 0 && m.exportLocked(key.Export).ephemeral {
		return
	}
	if m.calls[key] -= loads; m.calls[key] == 0 {
		delete(m.calls, key)
	}
}

func (m *Map) refuse(refusal backends.Refusal) backends.Refusal {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.refuseLocked(refusal)
}

func (m *Map) refuseLocked(refusal backends.Refusal) backends.Refusal {
	m.refused[refusal]++
	return refusal
}

func (m *Map) misuseLocked(format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	if len(m.misuse) < 10 { // the first few tell the story
		m.misuse = append(m.misuse, err)
	}
	return err
}
