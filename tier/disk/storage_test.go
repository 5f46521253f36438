package disk

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"

	"github.com/tmemd/tmemd/tier"
)

// volatile is storage that forgets on a power cut what was not synced: every write since
// the last Sync is then there, or not, or in part, page by page. It also watches that no
// two operations on a page are under way of which one changes it.
type volatile struct {
	onRead  func(first uint64)       // called in the middle of a read, when its bytes are taken; may be nil
	onWrite func(first uint64) error // called before a write takes effect; may be nil
	noPunch bool

	mu      sync.Mutex
	now     []byte            // guarded by mu
	medium  []byte            // guarded by mu
	pending map[uint64][]byte // pages changed since the last Sync: guarded by mu
	space   map[uint64]bool   // pages that were written and not punched; guarded by mu
	flushed map[uint64]bool   // space, on the medium; guarded by mu
	readers map[uint64]int    // guarded by mu
	writing map[uint64]bool   // guarded by mu
	misuse  []error           // guarded by mu
	reads   int               // requests; guarded by mu
	syncs   int               // guarded by mu
	closed  bool              // guarded by mu
}

var _ tier.Storage = (*volatile)(nil)

func newVolatile(pages int) *volatile {
	return &volatile{
		now: make([]byte, pages*pageSize), medium: make([]byte, pages*pageSize),
		space: map[uint64]bool{}, flushed: map[uint64]bool{},
		pending: map[uint64][]byte{}, readers: map[uint64]int{}, writing: map[uint64]bool{},
	}
}

func (s *volatile) Pages() uint64 { return uint64(len(s.now) / pageSize) }

func (s *volatile) Resize(uint64) (bool, error) { return false, errors.ErrUnsupported }

func (s *volatile) enter(first uint64, n int, change bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for page := first; page < first+uint64(n); page++ {
		if s.writing[page] || change && s.readers[page] > 0 || s.closed {
			s.misuse = append(s.misuse, fmt.Errorf("page %d is being written: %v, read: %d, changing: %v, closed: %v",
				page, s.writing[page], s.readers[page], change, s.closed))
		}
		if change {
			s.writing[page] = true
		} else {
			s.readers[page]++
		}
	}
}

func (s *volatile) leave(first uint64, n int, change bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for page := first; page < first+uint64(n); page++ {
		if change {
			delete(s.writing, page)
		} else {
			s.readers[page]--
		}
	}
}

func (s *volatile) ReadPages(first uint64, p []byte) error {
	n := len(p) / pageSize
	s.enter(first, n, false)
	defer s.leave(first, n, false)
	s.mu.Lock()
	s.reads++
	copy(p, s.now[first*pageSize:])
	s.mu.Unlock()
	if s.onRead != nil {
		s.onRead(first)
	}
	return nil
}

func (s *volatile) WritePages(first uint64, p []byte) error {
	n := len(p) / pageSize
	s.enter(first, n, true)
	defer s.leave(first, n, true)
	if s.onWrite != nil {
		if err := s.onWrite(first); err != nil {
			return err
		}
	}
	s.change(first, n, p)
	return nil
}

func (s *volatile) PunchPages(first, n uint64) error {
	if s.noPunch {
		return tier.ErrNoPunch
	}
	s.enter(first, int(n), true)
	defer s.leave(first, int(n), true)
	s.change(first, int(n), make([]byte, n*pageSize))
	s.mu.Lock()
	defer s.mu.Unlock()
	for page := first; page < first+n; page++ {
		delete(s.space, page)
	}
	return nil
}

// Allocated implements [Image].
func (s *volatile) Allocated(page uint64) (first, last uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for first = page; first < s.Pages() && !s.space[first]; {
		first++
	}
	for last = first; last < s.Pages() && s.space[last]; {
		last++
	}
	return first, last, nil
}

func (s *volatile) change(first uint64, n int, p []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	copy(s.now[first*pageSize:], p)
	for page := first; page < first+uint64(n); page++ {
		s.pending[page] = s.now[page*pageSize:][:pageSize]
		s.space[page] = true
	}
}

func (s *volatile) Sync() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	copy(s.medium, s.now)
	clear(s.pending)
	s.flushed = maps.Clone(s.space)
	s.syncs++
	return nil
}

func (s *volatile) Stats() tier.StorageStats { return tier.StorageStats{Path: "volatile"} }

func (s *volatile) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return nil
}

// powerCut returns storage with what is on the medium afterwards: of each page that was
// changed since the last sync, some sectors are new and some old.
func (s *volatile) powerCut(random *rand.Rand) *volatile {
	s.mu.Lock()
	defer s.mu.Unlock()
	after := newVolatile(len(s.now) / pageSize)
	copy(after.now, s.medium)
	after.space = maps.Clone(s.flushed)
	for page, data := range s.pending {
		if random.IntN(4) == 0 {
			continue // not at all
		}
		after.space[page] = true
		for sector := 0; sector < pageSize; sector += 512 {
			if random.IntN(2) == 0 {
				copy(after.now[int(page)*pageSize+sector:], data[sector:sector+512])
			}
		}
	}
	copy(after.medium, after.now)
	after.flushed = maps.Clone(after.space)
	return after
}

// restart returns storage as it is for another process of the same boot.
func (s *volatile) restart() *volatile {
	s.mu.Lock()
	defer s.mu.Unlock()
	after := newVolatile(len(s.now) / pageSize)
	copy(after.now, s.now)
	copy(after.medium, s.medium)
	after.space, after.flushed = maps.Clone(s.space), maps.Clone(s.flushed)
	for page := range s.pending {
		after.pending[page] = after.now[page*pageSize:][:pageSize]
	}
	return after
}

func (s *volatile) misused() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Join(s.misuse...)
}

func (s *volatile) readRequests() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reads
}
