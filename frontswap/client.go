package frontswap

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/tmemd/tmemd/backends"
)

// DefaultClient is the client of areas that name none. It is always there.
const DefaultClient = "default"

// MaxWeight bounds a client's weight.
const MaxWeight = 1<<16 - 1

// Errors that callers tell apart.
var (
	ErrClientExists = errors.New("there is a client of that name")
	ErrNoClient     = errors.New("there is no client of that name")
	ErrClientInUse  = errors.New("the client has exports")
	ErrReserved     = errors.New("reservations are more than the backends may take")
)

// Quota is what a client may and shall have of the memory that backends take here.
type Quota struct {
	Weight      uint32 // 1 to MaxWeight: of what is not reserved, by comparison with others; 0 means 1
	Cap         uint64 // bytes that its pages take at most; 0 means no limit
	Reservation uint64 // bytes that nobody else can push it below
	Dedup       bool   // identical pages of its areas may be kept once; for areas that are opened from then on
}

// ClientRefusal says why a client's page was offered to no backend, or not to all.
type ClientRefusal uint8

// The reasons.
const (
	RefusedCap     ClientRefusal = iota // the client is at its cap
	RefusedFrozen                       // the client is frozen
	RefusedShare                        // memory is short, and the client above its share
	ClientRefusals                      // the number of values above
)

// String returns the reason as metrics and the admin API spell it.
func (r ClientRefusal) String() string { return [...]string{"cap", "frozen", "share"}[r] }

// The bits of Client.gate: what a store of the client has to look at. 0 is nothing.
const (
	gateFrozen = 1 << iota
	gateCap
	gateShare // there are other clients
)

// Client is who areas belong to: a virtual machine, a tenant. Its pages in all
// backends, of all its areas, are charged to it.
type Client struct {
	fs     *Frontswap // immutable
	name   string     // immutable
	domain uint32     // backends.Export.Dedup, if its quota says so: its own, in this process; immutable

	// gate is all that a store reads of a client which is alone, has no cap and is
	// not frozen. Written with Frontswap.mu held.
	gate  atomic.Uint32
	cap   atomic.Uint64
	areas atomic.Pointer[[]*Area] // never nil; replaced with Frontswap.mu held

	due  atomic.Uint64 // bytes: its share if all clients wanted theirs
	fair atomic.Uint64 // bytes: what it may take at the moment; all while no backend is contended

	quota  Quota // guarded by Frontswap.mu
	frozen bool  // guarded by Frontswap.mu

	demand uint64 // bytes: the most that it used lately; guarded by Frontswap.balancing
	asked  uint64 // stores, as of the last look; guarded by Frontswap.balancing

	hands [MaxBackends]hand // by the backend's place; owned by the move of its pages that runs

	refused [ClientRefusals]atomic.Uint64
	evicted atomic.Uint64 // pages moved on, to make room or for its cap
}

func newClient(f *Frontswap, name string, q Quota) *Client {
	f.domains++
	c := &Client{fs: f, name: name, domain: f.domains, quota: q}
	c.areas.Store(new([]*Area))
	c.cap.Store(q.Cap)
	c.due.Store(math.MaxUint64)
	c.fair.Store(math.MaxUint64)
	return c
}

// used is what the client's pages take, in bytes: exact, as backends keep it.
func (c *Client) used() (bytes uint64) {
	for _, a := range *c.areas.Load() {
		for i := range c.fs.slots {
			if s := c.fs.slots[i].Load(); s != nil {
				bytes += s.backend.Used(a.id)
			}
		}
	}
	return bytes
}

// pagesIn is how many pages of the client a backend has.
func (c *Client) pagesIn(s *slot) (pages uint64) {
	for _, a := range *c.areas.Load() {
		pages += uint64(max(a.pages[s.owner].Load(), 0))
	}
	return pages
}

// stops says whether no backend is to be offered a page, and why.
func (c *Client) stops(gate uint32) (ClientRefusal, bool) {
	if gate&gateFrozen != 0 {
		return RefusedFrozen, true
	}
	if limit := c.cap.Load(); gate&gateCap != 0 && limit > 0 && c.used() >= limit {
		return RefusedCap, true
	}
	return 0, false
}

// yields says whether the client is to leave what a backend still has of room to
// others: C3 and C4.
func (c *Client) yields(s *slot) bool {
	if s.backend.Room() < s.headroom.Load() {
		return c.used() >= c.due.Load()
	}
	return s.contended.Load() && c.used() >= c.fair.Load()
}

// Client returns the area's client.
func (a *Area) Client() string { return a.client.name }

// CreateClient makes a client without areas.
func (f *Frontswap) CreateClient(name string, q Quota) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.clients[name] != nil {
		return fmt.Errorf("create client %s: %w", name, ErrClientExists)
	}
	q, err := f.checkQuotaLocked(name, q)
	if err != nil {
		return fmt.Errorf("create client %s: %w", name, err)
	}
	f.clients[name] = newClient(f, name, q)
	f.gatesLocked()
	return nil
}

// SetClient changes what a client may have, at once. What it has above a lower cap
// is moved to storage by Balance.
func (f *Frontswap) SetClient(name string, q Quota) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.clients[name]
	if c == nil {
		return fmt.Errorf("set client %s: %w", name, ErrNoClient)
	}
	q, err := f.checkQuotaLocked(name, q)
	if err != nil {
		return fmt.Errorf("set client %s: %w", name, err)
	}
	c.quota = q
	c.cap.Store(q.Cap)
	f.gatesLocked()
	return nil
}

// checkQuotaLocked refuses a reservation that the backends cannot keep beside the
// others. While none is loaded, nobody knows what they can. REQUIRES: mu held.
func (f *Frontswap) checkQuotaLocked(name string, q Quota) (Quota, error) {
	if q.Weight == 0 {
		q.Weight = 1
	}
	if q.Weight > MaxWeight {
		return q, fmt.Errorf("weight %d is not between 1 and %d", q.Weight, MaxWeight)
	}
	if q.Cap > 0 && q.Reservation > q.Cap {
		return q, fmt.Errorf("the reservation of %d bytes is above the cap of %d", q.Reservation, q.Cap)
	}
	before := uint64(0)
	if c := f.clients[name]; c != nil {
		before = c.quota.Reservation
	}
	limit := f.limitLocked()
	others := f.reservedLocked() - before
	if q.Reservation > before && limit > 0 && (others > limit || q.Reservation > limit-others) {
		return q, fmt.Errorf("%d bytes reserved for it and %d for others, of %d: %w", q.Reservation, others, limit, ErrReserved)
	}
	return q, nil
}

// limitLocked is what all backends may take, in bytes; MaxUint64 if one of them has no
// limit. REQUIRES: mu held.
func (f *Frontswap) limitLocked() (limit uint64) {
	for _, s := range f.slotsLocked() {
		of := f.capacityLocked(s)
		if limit > math.MaxUint64-of {
			return math.MaxUint64
		}
		limit += of
	}
	return limit
}

// capacityLocked is what pages may take of this host's memory in a backend. Of one that
// is not local most is for what it knows of pages elsewhere: only what they take now,
// and what it says that it has room for, counts. REQUIRES: mu held.
func (f *Frontswap) capacityLocked(s *slot) uint64 {
	limit := s.backend.Stats().LimitBytes
	switch {
	case limit == 0:
		return math.MaxUint64
	case s.local:
		return limit
	}
	used := uint64(0)
	for id := range f.areas {
		used += s.backend.Used(id)
	}
	return min(limit, used+min(s.backend.Room(), limit))
}

func (f *Frontswap) reservedLocked() (bytes uint64) {
	for _, c := range f.clients {
		bytes += c.quota.Reservation
	}
	return bytes
}

// FreezeClient has no page of the client offered to backends until ThawClient. Pages
// that they have are loaded and dropped as ever; one that is written goes to storage.
func (f *Frontswap) FreezeClient(name string) error { return f.freezeClient(name, true) }

// ThawClient ends FreezeClient.
func (f *Frontswap) ThawClient(name string) error { return f.freezeClient(name, false) }

func (f *Frontswap) freezeClient(name string, frozen bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.clients[name]
	if c == nil {
		return fmt.Errorf("client %s: %w", name, ErrNoClient)
	}
	c.frozen = frozen
	f.gatesLocked()
	return nil
}

// DestroyClient forgets a client, whose areas are closed.
func (f *Frontswap) DestroyClient(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.clients[name]
	switch {
	case c == nil:
		return fmt.Errorf("destroy client %s: %w", name, ErrNoClient)
	case len(*c.areas.Load()) > 0:
		return fmt.Errorf("destroy client %s: %w", name, ErrClientInUse)
	case name == DefaultClient:
		return fmt.Errorf("destroy client %s: it is the one of exports that name none", name)
	}
	delete(f.clients, name)
	f.gatesLocked()
	return nil
}

// gatesLocked makes stores look at what clients have been told. A client counts as
// one that others share with if it has areas or a reservation: an empty default
// client takes nothing from anybody. REQUIRES: mu held.
func (f *Frontswap) gatesLocked() {
	sharing := len(f.sharingLocked()) > 1
	for _, c := range f.clients {
		gate := uint32(0)
		if c.frozen {
			gate |= gateFrozen
		}
		if c.quota.Cap > 0 {
			gate |= gateCap
		}
		if sharing {
			gate |= gateShare
		}
		c.gate.Store(gate)
	}
	f.duesLocked()
}

// sharingLocked lists the clients that share the backends, by name. REQUIRES: mu held.
func (f *Frontswap) sharingLocked() (list []*Client) {
	for _, c := range f.clients {
		if len(*c.areas.Load()) > 0 || c.quota.Reservation > 0 {
			list = append(list, c)
		}
	}
	slices.SortFunc(list, func(a, b *Client) int { return strings.Compare(a.name, b.name) })
	return list
}

// joinLocked and leaveLocked change a client's areas. REQUIRES: mu held.
func (c *Client) joinLocked(a *Area) {
	areas := append(slices.Clone(*c.areas.Load()), a)
	c.areas.Store(&areas)
	c.fs.gatesLocked()
}

func (c *Client) leaveLocked(a *Area) {
	areas := slices.DeleteFunc(slices.Clone(*c.areas.Load()), func(other *Area) bool { return other == a })
	c.areas.Store(&areas)
	c.fs.gatesLocked()
}

// ClientStatus is a snapshot of one client.
type ClientStatus struct {
	Name   string
	Quota  Quota
	Frozen bool

	Areas    []string // names of its areas, in no order
	Pages    uint64   // pages that backends have of it
	Promised uint64   // bytes of all its areas
	Used     uint64   // bytes of memory that these pages take
	Due      uint64   // bytes: its share if all clients wanted theirs; MaxUint64 if there is no limit, or nobody else
	Reserved uint64   // bytes: of its reservation, what backends can keep now

	Refused [ClientRefusals]uint64
	Evicted uint64
}

// Clients returns all clients, by name.
func (f *Frontswap) Clients() []ClientStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.duesLocked()
	list := make([]ClientStatus, 0, len(f.clients))
	scale := f.newScaleLocked()
	for _, c := range f.clients {
		s := ClientStatus{
			Name: c.name, Quota: c.quota, Frozen: c.frozen, Used: c.used(), Due: c.due.Load(), Evicted: c.evicted.Load(),
			Reserved: uint64(scale.reserved(c)),
		}
		for _, a := range *c.areas.Load() {
			s.Areas = append(s.Areas, a.name)
			s.Promised += a.Pages() * backends.PageSize
			for owner := range a.pages {
				if _, held := Owner(owner).backendSlot(); held {
					s.Pages += uint64(max(a.pages[owner].Load(), 0))
				}
			}
		}
		for i := range c.refused {
			s.Refused[i] = c.refused[i].Load()
		}
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b ClientStatus) int { return strings.Compare(a.Name, b.Name) })
	return list
}
