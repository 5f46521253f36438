package pageindex

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/tmemd/tmemd/backends/sharedmem"
)

const (
	// NodeSize is the unit in which memory is taken, in bytes.
	NodeSize = 4096

	fanBits = 9
	fan     = 1 << fanBits // words in a node

	// warmNodes is how many free nodes keep their memory, 1 MiB: it spares a system
	// call and the first touch where pages come and go.
	warmNodes = 256
	stripes   = 256
	maxNodes  = 1<<32 - 2 // names of nodes + 1 have 32 bits
)

// node is the bookkeeping for one node.
type node struct {
	next  uint32 // in the list of free nodes, + 1; guarded by space.mu
	count uint32 // words that are not 0, in a leaf; guarded by its stripe
}

// Space is memory for tables. All methods may be called from any goroutine.
type Space struct {
	region *sharedmem.Region
	list   *sharedmem.Region // holds nodes
	words  []uint64          // the region's
	nodes  []node            // one for each node of the region
	tables atomic.Uint64
	used   atomic.Int64 // nodes of tables
	held   atomic.Int64 // nodes that may have memory
	locks  [stripes]stripe

	mu    sync.Mutex
	limit int64  // nodes; guarded by mu
	warm  uint32 // first free node with memory + 1; guarded by mu
	warms int    // guarded by mu
	cold  uint32 // first free node that was given back + 1; guarded by mu
	bump  int    // nodes from here on were never taken; guarded by mu
	keep  bool   // free nodes keep their memory; guarded by mu
}

// stripe is a lock in a cache line of its own.
type stripe struct {
	sync.Mutex
	_ [56]byte
}

// NewSpace makes room for at most limit bytes of nodes. SetLimit may raise that up to
// capacity, which costs address space only; the bookkeeping is 1/512 of what was ever
// in use. purpose is for [sharedmem.Usage].
func NewSpace(purpose string, limit, capacity int64) (*Space, error) {
	nodes := capacity / NodeSize
	if limit < NodeSize || limit > capacity || nodes > maxNodes {
		return nil, fmt.Errorf("make the %s: limit of %d bytes is outside %d to the capacity of %d, or that above %d",
			purpose, limit, NodeSize, capacity, int64(maxNodes)*NodeSize)
	}
	region, err := sharedmem.NewFile(purpose, nodes*NodeSize)
	if err != nil {
		return nil, err
	}
	size := (nodes*int64(unsafe.Sizeof(node{})) + NodeSize - 1) / NodeSize * NodeSize
	list, err := sharedmem.NewFile("list of nodes of the "+purpose, size)
	if err != nil {
		return nil, errors.Join(err, region.Close())
	}
	return &Space{
		region: region,
		list:   list,
		words:  unsafe.Slice((*uint64)(unsafe.Pointer(&region.Bytes()[0])), nodes*fan),
		nodes:  unsafe.Slice((*node)(unsafe.Pointer(&list.Bytes()[0])), nodes),
		limit:  limit / NodeSize,
	}, nil
}

// SetLimit changes the limit, at most to the capacity. Below what is in use it takes
// nothing away: no node is added until tables gave enough back.
func (s *Space) SetLimit(limit int64) error {
	if limit < NodeSize || limit/NodeSize > int64(len(s.nodes)) {
		return fmt.Errorf("limit of %d bytes is outside %d to %d", limit, NodeSize, len(s.nodes)*NodeSize)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limit = limit / NodeSize
	return nil
}

// Touch takes the memory of all nodes below the limit now, and keeps it; see
// [sharedmem.Region.Touch].
func (s *Space) Touch() error {
	s.mu.Lock()
	limit := s.limit
	s.keep = true
	s.mu.Unlock()
	return errors.Join(s.region.Touch(0, limit*NodeSize), s.list.Touch(0, int64(len(s.list.Bytes()))))
}

// Bytes is the memory of nodes, without a lock; see P4.
func (s *Space) Bytes() int64 { return s.held.Load() * NodeSize }

// Used is the memory of nodes that tables have.
func (s *Space) Used() int64 { return s.used.Load() * NodeSize }

// Usage reports the region of the nodes and that of the bookkeeping. It may be called
// after Close.
func (s *Space) Usage() [2]sharedmem.Usage {
	return [2]sharedmem.Usage{s.region.Usage(), s.list.Usage()}
}

// Close gives all memory back. No table may be used from then on.
func (s *Space) Close() error {
	s.used.Store(0)
	s.held.Store(0)
	return errors.Join(s.region.Close(), s.list.Close())
}

// take hands out a node, all zeros.
func (s *Space) take() (n uint32, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.used.Load() >= s.limit:
		return 0, false
	case s.warm != 0:
		n = s.warm - 1
		s.warm = s.nodes[n].next
		s.warms--
	case s.cold != 0:
		n = s.cold - 1
		s.cold = s.nodes[n].next
		s.held.Add(1)
	case s.bump < len(s.nodes):
		n = uint32(s.bump)
		s.bump++
		s.held.Add(1)
	default:
		return 0, false
	}
	s.used.Add(1)
	s.nodes[n].count = 0
	return n, true
}

// give takes back a node that is all zeros.
func (s *Space) give(n uint32) {
	s.used.Add(-1)
	if s.giveWarm(n, warmNodes) {
		return
	}
	if s.region.Punch(int64(n)*NodeSize, NodeSize) != nil {
		s.giveWarm(n, len(s.nodes)) // the memory is still ours
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held.Add(-1)
	s.nodes[n].next = s.cold
	s.cold = n + 1
}

func (s *Space) giveWarm(n uint32, most int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.warms >= most && !s.keep {
		return false
	}
	s.nodes[n].next = s.warm
	s.warm = n + 1
	s.warms++
	return true
}

// word is the place of a node's word.
func (s *Space) word(n uint32, i uint64) *uint64 { return &s.words[uint64(n)*fan+i] }

// wipe makes a node all zeros.
func (s *Space) wipe(n uint32) { clear(s.words[uint64(n)*fan:][:fan]) }
