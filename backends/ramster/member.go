package ramster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/ramster/peer"
	"github.com/tmemd/tmemd/backends/ramster/wire"
)

// session is the connection to one donor, which comes and goes by itself.
// [peer.Peer] is one; tests have another.
type session interface {
	OpenPool(pool uint32, ephemeral bool) bool
	Put(pool uint32, page, generation uint64, blob []byte, done peer.Completion) bool
	Flush(pool uint32, page uint64, count int, generation uint64) bool
	Destroy(pool uint32) bool
	Fetch(pool uint32, first uint64, count int, sink peer.Sink) error
	List(ctx context.Context, pool uint32, from uint64, into []wire.Listed) (n int, next uint64, err error)
	Room() wire.Room
	State() peer.State
	Stats() peer.Stats
	Abandon()
	Close() error
}

// member is a donor that the operator named.
type member struct {
	Donor   // immutable
	cache   *Cache
	session session // immutable once the member is in the list

	place   atomic.Uint32          // in the ledger, of the donor that answers now; 0 if none that may be used
	leaving atomic.Bool            // the operator removed it: it gets no more, and what it has moves away
	fullTo  atomic.Int64           // it gets nothing until then, in Unix nanoseconds
	downAt  atomic.Int64           // since when it is out of reach, in Unix nanoseconds; 0 if it is not
	debt    atomic.Bool            // what it has and what it should have may differ
	refusal atomic.Pointer[string] // why it may not be used; nil if it may

	compared time.Time // when the keeper last began to compare; the keeper's

	doomedMu sync.Mutex
	doomed   []uint32 // pools that it could not be told yet to destroy; guarded by doomedMu

	flying   atomic.Int64  // ephemeral pages on their way to it
	cachedTo atomic.Int64  // it gets no ephemeral ones until then, in Unix nanoseconds
	rejected atomic.Uint64 // answers that were not the page that we had sealed
	missing  atomic.Uint64 // pages that it should have had and had not
}

// members is the list of donors, and what places in stubs mean now.
type members struct {
	mu   sync.Mutex                // held to change what follows
	list atomic.Pointer[[]*member] // replaced, not changed

	at     [placeCount]atomic.Pointer[member] // who answers for a place; nil if nobody does
	states [placeCount]atomic.Uint32          // placeState, as in the ledger
	stubs  [placeCount]atomic.Int64           // how many stubs name the place
	turns  [placeCount]atomic.Uint32          // how often the place was let go: what is under way to it then is not the next donor's
}

// ErrKnown is what AddDonor returns for a name or an address that is taken, and
// ErrUnknown what RemoveDonor returns for a name that is not.
var (
	ErrKnown   = errors.New("there is such a donor already")
	ErrUnknown = errors.New("there is no such donor")
)

// AddDonor makes a donor one of those that pages are sent to. It is connected to
// in the background, for as long as it is in the list; one that is leaving is taken back.
func (c *Cache) AddDonor(d Donor) error { return c.addDonor(d, false) }

// addDonor is AddDonor; or the donor is leaving from the start, for the pages that it has.
func (c *Cache) addDonor(d Donor, leaving bool) error {
	if d.Name == "" || len(d.Name) > MaxName || d.Address == "" || len(d.Address) > MaxAddress {
		return fmt.Errorf("add donor %q: a name has 1 to %d bytes, an address 1 to %d", d.Name, MaxName, MaxAddress)
	}
	c.members.mu.Lock()
	defer c.members.mu.Unlock()
	list := *c.members.list.Load()
	for _, m := range list {
		if m.Donor == d && m.leaving.Load() {
			return c.takeBack(m)
		}
		if m.Name == d.Name || m.Address == d.Address {
			return fmt.Errorf("add donor %s at %s: %s is at %s: %w", d.Name, d.Address, m.Name, m.Address, ErrKnown)
		}
	}
	m := &member{Donor: d, cache: c}
	m.leaving.Store(leaving)
	m.downAt.Store(time.Now().UnixNano())
	// Its goroutines may call Up before this returns; Up waits for mu.
	s, err := c.connect(m)
	if err != nil {
		return fmt.Errorf("add donor %s: %w", d.Name, err)
	}
	m.session = s
	if n := c.ledger.named(d); n != 0 { // an earlier process gave it pages: they are waited for, and it is not gone before they are
		m.place.Store(uint32(n))
		c.members.at[n].Store(m)
	}
	for _, pool := range c.cached.left {
		if c.adopted[pool] == nil && !c.isKept(pool) {
			m.destroy(pool)
		}
	}
	for id, e := range *c.exports.Load() {
		m.openPool(id, e.ephemeral)
	}
	list = append(slices.Clone(list), m)
	c.members.list.Store(&list)
	return nil
}

// takeBack makes a donor that was leaving a member again. What was given up stays given up
// (R4): then it gets another place, and what it has is nobody's. REQUIRES: members.mu held.
func (c *Cache) takeBack(m *member) error {
	n := m.place.Load()
	if placeState(c.members.states[n].Load()) == placeLost {
		p := c.ledger.read(uint8(n))
		p.state = placeMember
		if n = uint32(c.ledger.take(p)); n == 0 {
			return fmt.Errorf("add donor %s: %w", m.Name, errNoPlace)
		}
		m.place.Store(n)
	}
	c.setPlace(n, placeMember)
	if n != 0 {
		c.members.at[n].Store(m)
	}
	m.leaving.Store(false)
	m.debt.Store(true)
	c.changed.broadcast()
	c.wakeKeeper()
	return nil
}

// connectPeer makes a session over the network.
func (c *Cache) connectPeer(m *member) (session, error) {
	return peer.New(peer.Config{
		Name:     m.Name,
		Dial:     func(ctx context.Context) (net.Conn, error) { return c.config.Dial(ctx, m.Address) },
		Owner:    c.ledger.owner(),
		Session:  c.ledger.next,
		Deadline: c.config.Deadline,
		Backlog:  backlog,
		Watcher:  m,
		Log:      c.config.Log,
	})
}

// RemoveDonor takes a donor out of the list. It gets no more pages, and those that
// it has move to others first; or, with now, what it has is given up at once.
func (c *Cache) RemoveDonor(name string, now bool) error {
	c.members.mu.Lock()
	defer c.members.mu.Unlock()
	for _, m := range *c.members.list.Load() {
		if m.Name != name {
			continue
		}
		m.leaving.Store(true)
		state := placeLeaving
		if now {
			state = placeLost
		}
		c.setPlace(m.place.Load(), state)
		c.wakeKeeper()
		return nil
	}
	return fmt.Errorf("remove donor %s: %w", name, ErrUnknown)
}

// setPlace changes the state of a place. REQUIRES: members.mu held.
func (c *Cache) setPlace(n uint32, state placeState) {
	if n == 0 {
		return
	}
	c.ledger.set(uint8(n), state)
	if state == placeFree {
		c.members.turns[n].Add(1)
	}
	c.members.states[n].Store(uint32(state))
	if state == placeFree || state == placeLost {
		c.members.at[n].Store(nil)
	}
}

// Up implements [peer.Watcher]: the donor answers. What it has of us is believed if
// it is who it was and has kept its memory.
func (m *member) Up(party wire.Party) error {
	c := m.cache
	c.members.mu.Lock()
	defer c.members.mu.Unlock()
	if c.closed.Load() || m.session == nil {
		return errClosed
	}
	for _, other := range *c.members.list.Load() {
		if n := other.place.Load(); other != m && n != 0 && c.ledger.read(uint8(n)).party.Identity == party.Identity {
			// Two copies of a page there would be one.
			return m.refuse(fmt.Errorf("it is the donor that is called %s too", other.Name))
		}
	}
	was, is := m.place.Load(), uint32(c.ledger.find(party))
	if was != 0 && is != was {
		c.setPlace(was, placeLost)
		c.config.Log.Warn("donor has lost what it had: copies are made again", "donor", m.Name, "pages", c.members.stubs[was].Load())
		// What was under way counted on the memory that is gone.
		m.session.Abandon()
	}
	if is == 0 {
		is = uint32(c.ledger.take(place{state: placeMember, party: party, name: m.Name, address: m.Address}))
	}
	if is == 0 {
		return m.refuse(errNoPlace)
	}
	state := placeMember
	if m.leaving.Load() {
		state = placeLeaving
	}
	c.setPlace(is, state)
	c.members.at[is].Store(m)
	m.place.Store(is)
	m.refusal.Store(nil)
	m.fullTo.Store(0)
	m.cachedTo.Store(0)
	m.downAt.Store(0)
	m.debt.Store(true)
	c.changed.broadcast()
	c.wakeKeeper()
	return nil
}

var (
	errClosed  = errors.New("ramster is closed")
	errNoPlace = errors.New("there is no place left in the ledger until pages of lost donors are gone")
)

// refuse notes why the donor may not be used.
func (m *member) refuse(reason error) error {
	text := reason.Error()
	m.refusal.Store(&text)
	m.place.Store(0)
	return reason
}

// Down implements [peer.Watcher]: the donor does not answer any more.
func (m *member) Down(error) {
	m.downAt.CompareAndSwap(0, time.Now().UnixNano())
	m.cache.changed.broadcast()
	m.cache.wakeKeeper()
}

// Changed implements [peer.Watcher]: there is more or less room.
func (m *member) Changed() {
	m.cache.changed.broadcast()
	if m.session != nil && m.session.Room().Wanted > 0 {
		m.cache.wakeKeeper()
	}
}

// isUp says whether the donor answers, and may be used.
func (m *member) isUp() bool { return m.place.Load() != 0 && m.session.State() == peer.Up }

// isOpen says whether the donor takes pages.
func (m *member) isOpen() bool {
	if !m.isUp() || m.leaving.Load() || time.Now().UnixNano() < m.fullTo.Load() {
		return false
	}
	room := m.session.Room()
	return !room.Frozen && room.Wanted == 0 && room.Free > 0
}

// downFor is how long the donor has been out of reach.
func (m *member) downFor() time.Duration {
	at := m.downAt.Load()
	if at == 0 {
		return 0
	}
	return time.Duration(time.Now().UnixNano() - at)
}

// flush has the donor forget versions of a page.
func (m *member) flush(key backends.Key, generation uint64) {
	if !m.session.Flush(key.Export, key.Page, 1, generation) {
		m.debt.Store(true)
	}
}

// destroy has the donor forget a pool, now or as soon as its session takes that.
func (m *member) destroy(pool uint32) {
	m.doomedMu.Lock()
	defer m.doomedMu.Unlock()
	if !m.session.Destroy(pool) {
		m.doomed = append(m.doomed, pool)
	}
}

// openPool makes a pool. If there was one of that number, what it still has is found
// out by comparing; an ephemeral one begins empty, as far as the session has room for more than
// that request.
func (m *member) openPool(pool uint32, ephemeral bool) {
	m.doomedMu.Lock()
	defer m.doomedMu.Unlock()
	m.doomed = slices.DeleteFunc(m.doomed, func(other uint32) bool { return other == pool })
	if ephemeral {
		m.session.Destroy(pool)
	}
	m.session.OpenPool(pool, ephemeral) // at the latest when it comes back
	m.debt.Store(true)
}

// retell tells the donor again what it could not be told. It returns whether all is
// told.
func (m *member) retell() bool {
	m.doomedMu.Lock()
	defer m.doomedMu.Unlock()
	m.doomed = slices.DeleteFunc(m.doomed, m.session.Destroy)
	return len(m.doomed) == 0
}

// addLeaving connects to the donors that were leaving when an earlier process ended: the operator names them no more, and they
// still have pages.
func (c *Cache) addLeaving() error {
	for n := 1; n < placeCount; n++ {
		p := c.ledger.read(uint8(n))
		if p.state != placeLeaving || c.members.at[n].Load() != nil {
			continue
		}
		if err := c.addDonor(Donor{p.name, p.address}, true); err != nil && !errors.Is(err, ErrKnown) {
			return err
		}
	}
	return nil
}
