package ramster

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/ramster/peer"
	"github.com/tmemd/tmemd/backends/ramster/wire"
	"github.com/tmemd/tmemd/backends/sharedmem"
)

// network is donors in this process, by address. They keep what they are given as
// PROTOCOL.md says, and do what a test has them do to answers.
type network struct {
	mu     sync.Mutex
	donors map[string]*fakeDonor
}

func newNetwork(addresses ...string) *network {
	n := &network{donors: map[string]*fakeDonor{}}
	for _, address := range addresses {
		d := &fakeDonor{pools: map[uint32]map[uint64]fakePage{}}
		_, _ = rand.Read(d.party.Identity[:])
		_, _ = rand.Read(d.party.Epoch[:])
		n.donors[address] = d
	}
	return n
}

func (n *network) connect(_ *Cache, m *member) (session, error) {
	n.mu.Lock()
	d := n.donors[m.Address]
	n.mu.Unlock()
	if d == nil {
		return nil, errors.New("no such donor")
	}
	s := &fakeSession{donor: d, member: m, pools: map[uint32]bool{}, wake: make(chan struct{}, 1)}
	s.state.Store(uint32(peer.Connecting))
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.work.Go(s.run)
	d.mu.Lock()
	d.session = s
	d.mu.Unlock()
	return s, nil
}

type fakePage struct {
	generation uint64
	blob       []byte
}

// fakeDonor is a donor.
type fakeDonor struct {
	mu      sync.Mutex
	party   wire.Party
	pools   map[uint32]map[uint64]fakePage
	session *fakeSession
	down    bool
	full    bool
	mute    bool // it does not say which pages it has
	room    wire.Room
	// alter is what a hostile donor answers instead of a page. May be nil.
	alter func(pool uint32, page uint64, p fakePage) fakePage
	slow  time.Duration
	// silent, unless it is nil, is closed when the donor answers again.
	silent chan struct{}
	// lists is what a hostile donor does to a list before it answers with it. May be nil.
	lists func([]wire.Listed)
}

// set changes the donor with its lock held, and has its session notice.
func (d *fakeDonor) set(change func()) {
	d.mu.Lock()
	change()
	s := d.session
	d.mu.Unlock()
	if s != nil {
		s.nudge()
	}
}

// forget is a restart without its memory.
func (d *fakeDonor) forget() {
	_, _ = rand.Read(d.party.Epoch[:])
	d.pools = map[uint32]map[uint64]fakePage{}
}

func (d *fakeDonor) count() (pages int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, pool := range d.pools {
		pages += len(pool)
	}
	return pages
}

// fakeSession is a session with it: mutations and fetches are answered by a goroutine of
// its own, in order, while the donor is not down.
type fakeSession struct {
	donor  *fakeDonor
	member *member
	state  atomic.Uint32
	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup
	wake   chan struct{} // there is something to do

	mu        sync.Mutex
	pools     map[uint32]bool
	mutations []func(up bool) // guarded by mu
	fetches   []func(up bool) // guarded by mu
	epoch     wire.Party      // of the session that stands
}

const fakeBacklog = 256

func (s *fakeSession) run() {
	for s.ctx.Err() == nil {
		s.donor.mu.Lock()
		down, party, slow, silent := s.donor.down, s.donor.party, s.donor.slow, s.donor.silent
		s.donor.mu.Unlock()
		up := peer.State(s.state.Load()) == peer.Up
		if up && (down || party != s.epoch) {
			s.state.Store(uint32(peer.Open))
			s.answer(&s.fetches, false)
			s.member.Down(errors.New("down"))
			up = false
		}
		if !up && !down {
			if s.member.Up(party) == nil {
				s.epoch = party
				s.donor.mu.Lock()
				s.mu.Lock()
				for pool := range s.pools {
					if s.donor.pools[pool] == nil {
						s.donor.pools[pool] = map[uint64]fakePage{}
					}
				}
				s.mu.Unlock()
				s.donor.mu.Unlock()
				s.state.Store(uint32(peer.Up))
				up = true
				s.member.Changed()
			}
		}
		if slow > 0 {
			time.Sleep(slow)
		}
		if silent != nil {
			select {
			case <-silent:
			case <-s.ctx.Done():
			}
		}
		idle := true
		if up {
			idle = !s.answer(&s.fetches, true)
			idle = !s.answer(&s.mutations, true) && idle
		}
		if idle {
			select {
			case <-s.wake:
			case <-s.ctx.Done():
			case <-time.After(time.Millisecond):
			}
		}
	}
	s.state.Store(uint32(peer.Closed))
	s.answer(&s.fetches, false)
	s.answer(&s.mutations, false)
}

func (s *fakeSession) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *fakeSession) answer(queue *[]func(bool), up bool) bool {
	s.mu.Lock()
	all := *queue
	*queue = nil
	s.mu.Unlock()
	for _, f := range all {
		f(up)
	}
	return len(all) > 0
}

func (s *fakeSession) mutate(f func(up bool)) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if peer.State(s.state.Load()) == peer.Closed || len(s.mutations) >= fakeBacklog {
		return false
	}
	s.mutations = append(s.mutations, f)
	s.nudge()
	return true
}

func (s *fakeSession) OpenPool(pool uint32, _ bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pools[pool] = true
	s.mutations = append(s.mutations, func(up bool) {
		s.donor.mu.Lock()
		defer s.donor.mu.Unlock()
		if up && s.donor.pools[pool] == nil {
			s.donor.pools[pool] = map[uint64]fakePage{}
		}
	})
	s.nudge()
	return true
}

func (s *fakeSession) Destroy(pool uint32) bool {
	s.mu.Lock()
	delete(s.pools, pool)
	s.mu.Unlock()
	return s.mutate(func(up bool) {
		s.donor.mu.Lock()
		defer s.donor.mu.Unlock()
		if up {
			delete(s.donor.pools, pool)
		}
	})
}

func (s *fakeSession) Put(pool uint32, page, generation uint64, blob []byte, done peer.Completion) bool {
	if peer.State(s.state.Load()) != peer.Up {
		return false
	}
	blob = bytes.Clone(blob)
	return s.mutate(func(up bool) {
		status, err := wire.OK, error(nil)
		s.donor.mu.Lock()
		pages := s.donor.pools[pool]
		switch old, there := pages[page]; {
		case !up:
			err = peer.ErrClosed
		case pages == nil:
			status = wire.Gone
		case there && old.generation > generation:
			status = wire.Stale
		case s.donor.full:
			delete(pages, page)
			status = wire.Full
		default:
			pages[page] = fakePage{generation, blob}
		}
		s.donor.mu.Unlock()
		done.Done(status, err)
	})
}

func (s *fakeSession) Flush(pool uint32, page uint64, count int, generation uint64) bool {
	return s.mutate(func(up bool) {
		s.donor.mu.Lock()
		defer s.donor.mu.Unlock()
		for n := page; up && n < page+uint64(count); n++ {
			if p, there := s.donor.pools[pool][n]; there && p.generation <= generation {
				delete(s.donor.pools[pool], n)
			}
		}
	})
}

func (s *fakeSession) Fetch(pool uint32, first uint64, count int, sink peer.Sink) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if peer.State(s.state.Load()) != peer.Up {
		return peer.ErrDown
	}
	s.fetches = append(s.fetches, func(up bool) {
		if !up {
			sink.Ended(peer.ErrDown)
			return
		}
		for page := first; page < first+uint64(count); page++ {
			s.donor.mu.Lock()
			p, there := s.donor.pools[pool][page]
			if there && s.donor.alter != nil {
				p = s.donor.alter(pool, page, p)
			}
			s.donor.mu.Unlock()
			if there {
				sink.Page(page, p.generation, p.blob)
			}
		}
		sink.Ended(nil)
	})
	s.nudge()
	return nil
}

func (s *fakeSession) List(ctx context.Context, pool uint32, from uint64, into []wire.Listed) (n int, next uint64, err error) {
	if peer.State(s.state.Load()) != peer.Up {
		return 0, 0, peer.ErrDown
	}
	s.donor.mu.Lock()
	defer s.donor.mu.Unlock()
	if s.donor.mute {
		return 0, 0, peer.ErrDown
	}
	var all []wire.Listed
	for page, p := range s.donor.pools[pool] {
		if page >= from {
			all = append(all, wire.Listed{Page: page, Generation: p.generation})
		}
	}
	slices.SortFunc(all, func(a, b wire.Listed) int { return int(int64(a.Page) - int64(b.Page)) })
	if s.donor.lists != nil {
		s.donor.lists(all)
	}
	if n = copy(into, all); n == len(all) {
		return n, wire.MaxPages, ctx.Err()
	}
	return n, all[n].Page, ctx.Err()
}

func (s *fakeSession) Room() wire.Room {
	s.donor.mu.Lock()
	defer s.donor.mu.Unlock()
	if s.donor.room != (wire.Room{}) {
		return s.donor.room
	}
	return wire.Room{Quota: 1 << 30, Free: 1 << 30}
}

func (s *fakeSession) State() peer.State { return peer.State(s.state.Load()) }

func (s *fakeSession) Stats() peer.Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	stats := peer.Stats{Waiting: len(s.mutations), Memory: sharedmem.Usage{Purpose: "nothing", Mapped: 1}}
	if s.State() == peer.Closed {
		stats.Memory.Mapped = 0
	}
	return stats
}

// Abandon ends what waits as if it had not been answered.
func (s *fakeSession) Abandon() { s.answer(&s.mutations, false) }

func (s *fakeSession) Close() error {
	s.cancel()
	s.work.Wait()
	return nil
}

// testConfig has short times: what waits for donors that are gone should not wait long.
func testConfig(donors ...string) Config {
	config := Config{
		Pages: 1 << 16, Staging: 4 << 20, Patience: 5 * time.Second, Lost: 50 * time.Millisecond, Rate: 1 << 30,
		Dial: func(context.Context, string) (net.Conn, error) { return nil, errors.New("not in this test") },
	}
	for _, name := range donors {
		config.Donors = append(config.Donors, Donor{Name: name, Address: name})
	}
	return config
}

// newTest makes a cache with donors in this process, all with two copies.
func newTest(t testing.TB, config Config, n *network) *Cache {
	t.Helper()
	c, err := create(config, n.connect)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// await waits until something holds; a test that waits in vain fails.
func await(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(90 * time.Second); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for: %s", what)
		}
	}
}

var _ backends.Backend = (*Cache)(nil)
