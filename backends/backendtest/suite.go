package backendtest

import (
	"bytes"
	"errors"
	"testing"

	"github.com/tmemd/tmemd/backends"
)

// New makes the backend under test, empty and with no export initialised.
type New func(t *testing.T) backends.Backend

// Run tests a backend against the rules of package backends.
func Run(t *testing.T, newBackend New) {
	for _, test := range []struct {
		name string
		run  func(*subject)
	}{
		{"LifeCycle", testLifeCycle},
		{"InitFails", testInitFails},
		{"Unmanaged", testUnmanaged},
		{"Close", testClose},
		{"RoundTrip", testRoundTrip},
		{"NotRetained", testNotRetained},
		{"DuplicateKeys", testDuplicateKeys},
		{"EqualPages", testEqualPages},
		{"WrongKey", testWrongKey},
		{"WrongHandle", testWrongHandle},
		{"Handles", testHandles},
		{"Packed", testPacked},
		{"PackedDamage", testPackedDamage},
		{"Refusals", testRefusals},
		{"Limit", testLimit},
		{"Accounting", testAccounting},
		{"Used", testUsed},
		{"Room", testLeft},
		{"Concurrency", testConcurrency},
		{"ConcurrentExports", testConcurrentExports},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(newSubject(t, newBackend)) })
	}
	t.Run("AdoptNothing", func(t *testing.T) { testAdoptNothing(newSubject(t, newBackend), newSubject(t, newBackend)) })
	t.Run("Model", func(t *testing.T) { testModel(t, newBackend) })
}

// subject is a backend under test.
type subject struct {
	*testing.T
	backends.Backend
	open   []uint32 // exports to let go at the end
	closed bool
}

// exports are the numbers that the suite uses; most tests initialise them all.
// They differ in one bit, in all bytes and in size.
var exports = [...]uint32{0, 1, 0x80000001, 0xfffffffe}

func newSubject(t *testing.T, newBackend New) *subject {
	s := &subject{T: t, Backend: newBackend(t)}
	t.Cleanup(func() {
		if s.closed {
			return
		}
		s.letGo()
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

// initAll initialises all exports.
func (s *subject) initAll() {
	s.Helper()
	for _, id := range exports {
		s.mustInit(id)
	}
}

func (s *subject) mustInit(id uint32) {
	s.Helper()
	if err := s.Init(backends.Export{ID: id, Name: "swap", Pages: 1 << 24}); err != nil {
		s.Fatalf("Init(%d): %v", id, err)
	}
	s.open = append(s.open, id)
}

// letGo invalidates the areas of all exports that are open.
func (s *subject) letGo() {
	for _, id := range s.open {
		s.InvalidateArea(id)
	}
	s.open = nil
}

// live is a page that the backend holds.
type live struct {
	key    backends.Key
	handle backends.Handle
	page   []byte
}

// store stores the page; ok is false if it was refused.
func (s *subject) store(key backends.Key, page []byte) (l live, ok bool) {
	s.Helper()
	handle, refusal, err := s.Store(key, page)
	if err != nil {
		s.Fatalf("Store(%v): %v", key, err)
	}
	if refusal >= backends.Refusals {
		s.Fatalf("Store(%v): refusal %d is not one", key, refusal)
	}
	if refusal == backends.Accepted && handle >= 1<<backends.HandleBits {
		s.Fatalf("B11: Store(%v): handle %#x has more than %d bits", key, uint64(handle), backends.HandleBits)
	}
	return live{key, handle, page}, refusal == backends.Accepted
}

// mustStore stores a page of the sort. The contract lets a backend refuse, so
// it tries several seeds from the given one on; a backend that takes none of
// them leaves nothing to test.
func (s *subject) mustStore(key backends.Key, content Content, seed uint64) live {
	s.Helper()
	for try := range uint64(16) {
		if l, ok := s.store(key, Page(content, seed+try<<32)); ok {
			return l
		}
	}
	s.Fatalf("Store(%v): %v pages are always refused", key, content)
	return live{}
}

// check loads the page into a buffer full of other bytes, with a guard on both
// sides, and compares.
func (s *subject) check(l live) {
	s.Helper()
	const guard = 64
	buffer := bytes.Repeat([]byte{0xa5}, guard+backends.PageSize+guard)
	dst := buffer[guard : guard+backends.PageSize]
	if err := s.Load(l.key, l.handle, dst); err != nil {
		s.Fatalf("B7: Load(%v, %#x): %v", l.key, uint64(l.handle), err)
	}
	if !bytes.Equal(dst, l.page) {
		s.Fatalf("B8: Load(%v, %#x) gave other bytes, from byte %d on", l.key, uint64(l.handle), firstDifference(dst, l.page))
	}
	if !isGuard(buffer[:guard]) || !isGuard(buffer[guard+backends.PageSize:]) {
		s.Fatalf("B7: Load(%v, %#x) wrote outside dst", l.key, uint64(l.handle))
	}
}

// checkCorrupt expects that the handle does not load under the key.
func (s *subject) checkCorrupt(rule string, key backends.Key, handle backends.Handle) {
	s.Helper()
	before := s.Stats().CorruptLoads
	dst := make([]byte, backends.PageSize)
	err := s.Load(key, handle, dst)
	if !errors.Is(err, backends.ErrCorrupt) {
		s.Fatalf("%s: Load(%v, %#x): %v, want ErrCorrupt", rule, key, uint64(handle), err)
	}
	if got := s.Stats().CorruptLoads - before; got != 1 {
		s.Fatalf("%s: one corrupt load counted as %d", rule, got)
	}
}

func (s *subject) invalidate(l live) { s.Invalidate(l.key, l.handle) }

// checkPages expects that the backend counts so many pages.
func (s *subject) checkPages(want int) {
	s.Helper()
	stats := s.Stats()
	if stats.Pages != uint64(want) {
		s.Fatalf("B3: Stats counts %d pages, want %d", stats.Pages, want)
	}
	if stats.SameFilledPages > stats.Pages {
		s.Fatalf("B14: %d same-filled pages of %d", stats.SameFilledPages, stats.Pages)
	}
	if want == 0 && stats.StoredBytes != 0 {
		s.Fatalf("B3: %d stored bytes for no pages", stats.StoredBytes)
	}
	if stats.LimitBytes != 0 && stats.HeldBytes > stats.LimitBytes {
		s.Fatalf("B19: %d bytes held, more than the limit of %d", stats.HeldBytes, stats.LimitBytes)
	}
}

func isGuard(b []byte) bool { return len(bytes.Trim(b, "\xa5")) == 0 }

func firstDifference(a, b []byte) int {
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return -1
}
