package frontswap

import (
	"cmp"
	"context"
	"math"
	"slices"
	"time"
)

const (
	// balanceEvery is how often Balance looks at clients.
	balanceEvery = 100 * time.Millisecond
	// contention is how long after a backend asked for pages to be evicted its
	// clients are kept to what is fair.
	contention = 5 * time.Second
	// A headroomPart of a backend is for clients inside their share alone. Less than
	// what zcache wants free, so that it has begun to evict before.
	headroomPart = 32
	// unusablePart of a limit is not counted on: what a pool does not use between
	// objects, keeps free, and evicts at once. zcache goes from 95 % down to 85 %.
	unusablePart = 6
	// A client may take a slackPart more than is fair, so that a pool of greedy clients
	// goes on to replace cold pages by new ones.
	slackPart = 32
	// A client is taken to want a growthPart more than it used lately: a pool is full
	// before the slowest has what it is due, whose part others would get for good.
	growthPart = 8
	// demandFade is the part of the way to what a client uses that its demand goes
	// with each look.
	demandFade = 32
	// fullFade is the part that what clients take when a backend is full is taken to
	// shrink by each time that a backend asks.
	fullFade = 256
	// shareBatch is how many pages are evicted from one client between two looks at
	// who is furthest above its share.
	shareBatch = 256
	leastBatch = 16
)

// scale says how much of reservations the backends can keep.
type scale struct {
	usable  float64 // bytes of all backends that can be counted on
	factor  float64 // of each reservation, what can be kept
	weights float64 // of the clients that share
	kept    float64 // bytes of their reservations
}

// newScaleLocked REQUIRES: mu held.
func (f *Frontswap) newScaleLocked() scale {
	limit := f.limitLocked()
	s := scale{usable: math.Inf(1), factor: 1}
	if limit < math.MaxUint64 {
		s.usable = float64(limit - limit/unusablePart)
	}
	if reserved := float64(f.reservedLocked()); reserved > s.usable {
		s.factor = s.usable / reserved
	}
	for _, c := range f.sharingLocked() {
		s.weights += float64(c.quota.Weight)
		s.kept += s.reserved(c)
	}
	return s
}

// reserved is what can be kept of a client's reservation. REQUIRES: mu held.
func (s scale) reserved(c *Client) float64 { return float64(c.quota.Reservation) * s.factor }

// duesLocked computes each client's share as if all wanted theirs (C2), and each
// backend's headroom. REQUIRES: mu held.
func (f *Frontswap) duesLocked() {
	s := f.newScaleLocked()
	for _, b := range f.slotsLocked() {
		headroom := uint64(0)
		if capacity := f.capacityLocked(b); capacity < math.MaxUint64 {
			headroom = capacity / headroomPart
		}
		b.headroom.Store(headroom)
	}
	for _, c := range f.clients {
		due := math.Inf(1)
		if s.weights > 0 {
			due = s.reserved(c) + max(s.usable-s.kept, 0)*float64(c.quota.Weight)/s.weights
		}
		c.due.Store(toBytes(due))
	}
}

func toBytes(f float64) uint64 {
	if f >= math.MaxUint64 {
		return math.MaxUint64
	}
	return uint64(max(f, 0))
}

// claim is what a client has and wants, at one moment.
type claim struct {
	client   *Client
	used     float64
	demand   float64
	reserved float64
	weight   float64
}

// above is how far beyond its reservation the client is, for its weight: k of
// used = reservation + k·weight.
func (c claim) above(bytes float64) float64 { return (bytes - c.reserved) / c.weight }

// claims lists those of the clients that share. REQUIRES: balancing held.
func (f *Frontswap) claims() []claim {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.newScaleLocked()
	var list []claim
	for _, c := range f.sharingLocked() {
		used := c.used()
		demand := float64(max(used, c.demand))
		list = append(list, claim{
			client: c, used: float64(used), demand: demand + demand/growthPart, reserved: s.reserved(c), weight: float64(c.quota.Weight),
		})
	}
	return list
}

// level is the k for which every client that wants more than its reservation + k·weight
// gets that, every other one what it wants, and all together so many bytes.
func level(claims []claim, bytes float64) float64 {
	slices.SortFunc(claims, func(a, b claim) int { return cmp.Compare(a.above(a.demand), b.above(b.demand)) })
	weights, reserved := 0.0, 0.0
	for _, c := range claims {
		weights += c.weight
		reserved += c.reserved
	}
	for _, c := range claims {
		if c.above(c.demand) > max((bytes-reserved)/weights, 0) {
			break
		}
		bytes -= c.demand
		reserved -= c.reserved
		weights -= c.weight
	}
	if weights <= 0 {
		return math.Inf(1)
	}
	return max((bytes-reserved)/weights, 0)
}

// contend notes that a backend asked for pages to be evicted: from now on, for a
// while, its clients are kept to what is fair of what they take together now (C4).
func (f *Frontswap) contend(s *slot) {
	f.balancing.Lock()
	defer f.balancing.Unlock()
	claims := f.claims()
	if len(claims) < 2 {
		return
	}
	total := 0.0
	for _, c := range claims {
		total += c.used
		c.client.demand = max(c.client.demand, uint64(c.used))
	}
	// A backend asks several times until it has enough: the first time tells. It
	// fades, as limits get lower and pages compress worse.
	f.full = max(total, f.full-f.full/fullFade)
	s.contendedAt = time.Now()
	s.contended.Store(true)
	s.owed.Store(isOwed(claims))
	f.shareOut(claims)
}

// isOwed says whether clients inside their share have stored pages since the last
// look, and others are above theirs.
func isOwed(claims []claim) bool {
	above, inside := false, false
	for _, c := range claims {
		due := float64(c.client.due.Load())
		above = above || c.used > due
		inside = inside || c.used < due && c.client.stores() != c.client.asked
	}
	return above && inside
}

// stores counts the client's stores.
func (c *Client) stores() (n uint64) {
	for _, a := range *c.areas.Load() {
		n += a.counters.succStores.Load() + a.counters.failedStores.Load()
	}
	return n
}

// shareOut tells each client what it may take. REQUIRES: balancing held.
func (f *Frontswap) shareOut(claims []claim) {
	k := level(claims, f.full)
	for _, c := range claims {
		fair := c.reserved + k*c.weight
		c.client.fair.Store(toBytes(fair + fair/slackPart))
	}
}

// Balance keeps clients' shares and caps until ctx is done. One for each registry.
// Without it shares are kept while a backend asks for evictions, and what is above
// a lowered cap stays.
func (f *Frontswap) Balance(ctx context.Context) {
	ticker := time.NewTicker(balanceEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			f.balance(ctx, time.Now())
		}
	}
}

// balance is one look.
func (f *Frontswap) balance(ctx context.Context, now time.Time) {
	f.mu.Lock()
	slots := f.slotsLocked()
	sharing := len(f.sharingLocked()) > 1
	if sharing {
		f.duesLocked() // limits follow the host's memory pressure
	}
	f.mu.Unlock()
	if sharing {
		f.watch(slots, now)
	}
	f.enforceCaps(ctx)
}

// watch follows what clients use, ends contention, and finds out who is owed memory.
func (f *Frontswap) watch(slots []*slot, now time.Time) {
	f.balancing.Lock()
	defer f.balancing.Unlock()
	claims := f.claims()
	owed := isOwed(claims)
	for _, c := range claims {
		client := c.client
		if used := uint64(c.used); client.demand > used {
			client.demand -= (client.demand-used)/demandFade + 1
		}
		client.demand = max(client.demand, uint64(c.used))
		client.asked = client.stores()
	}
	any := false
	for _, s := range slots {
		if s.contended.Load() && now.Sub(s.contendedAt) > contention {
			s.contended.Store(false)
		}
		any = any || s.contended.Load()
		s.owed.Store(owed)
	}
	if any {
		f.shareOut(claims)
		return
	}
	f.full = 0
	for _, c := range claims {
		c.client.fair.Store(math.MaxUint64)
	}
}

// enforceCaps moves what clients have above their caps to storage, coldest first.
// A backend whose pages are being moved is left alone until the next look.
func (f *Frontswap) enforceCaps(ctx context.Context) {
	for _, v := range f.overCap() {
		v.move(f, ctx)
	}
}

// excess is what a client has above its cap.
type excess struct {
	client *Client
	slot   *slot // where most of it is
}

func (f *Frontswap) overCap() (list []excess) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.clients {
		if c.quota.Cap == 0 || c.used() <= c.quota.Cap {
			continue
		}
		var from *slot
		for _, s := range f.slotsLocked() {
			if s.state != StateDraining && (from == nil || c.usedIn(s) > c.usedIn(from)) {
				from = s
			}
		}
		if from != nil {
			list = append(list, excess{c, from})
		}
	}
	return list
}

// usedIn is what the client's pages take in one backend, in bytes.
func (c *Client) usedIn(s *slot) (bytes uint64) {
	for _, a := range *c.areas.Load() {
		bytes += s.backend.Used(a.id)
	}
	return bytes
}

// move moves pages until the client is at its cap.
func (e excess) move(f *Frontswap, ctx context.Context) {
	m, err := f.beginMove(ctx, e.slot.name, func(m *move) { m.cold, m.toStorage = true, true })
	if err != nil {
		return // busy, or gone
	}
	for {
		limit, used := e.client.cap.Load(), e.client.used()
		if limit == 0 || used <= limit {
			break
		}
		before := m.moved.Load()
		if err = m.evictFrom(e.client, pagesOf(used-limit, e.client, e.slot)); err != nil || m.moved.Load() == before {
			break
		}
	}
	f.mu.Lock()
	m.endLocked()
	f.mu.Unlock()
	if err != nil && ctx.Err() == nil {
		f.log.Warn("what a client has above its cap cannot be moved to storage", "client", e.client.name, "backend", e.slot.name, "error", err)
	}
}

// pagesOf is how many of a client's pages take so many bytes of a backend, about, one
// batch at most.
func pagesOf(bytes uint64, c *Client, s *slot) uint64 {
	each := max(c.usedIn(s)/max(c.pagesIn(s), 1), 1)
	return min(max((bytes+each-1)/each, 1), shareBatch)
}

// evictShares moves up to n pages of the backend on, from the clients that are
// furthest above their reservations for their weights, coldest first (C1).
func (m *move) evictShares(n uint64) error {
	m.fs.contend(m.from)
	spent := map[*Client]bool{} // clients that have nothing to give just now
	for left := n; left > 0; {
		victim, bytes := m.victim(spent)
		if victim == nil {
			return nil
		}
		before := m.moved.Load()
		if err := m.evictFrom(victim, min(left, max(pagesOf(bytes, victim, m.from), leastBatch))); err != nil {
			return err
		}
		moved := m.moved.Load() - before
		spent[victim] = moved == 0
		left -= min(moved, left)
	}
	return nil
}

// victim is the client to evict from: above its reservation, the furthest for its
// weight. bytes is by how much, compared with the next one. Nil if there is none.
func (m *move) victim(spent map[*Client]bool) (victim *Client, bytes uint64) {
	most, next, weight := 0.0, 0.0, 0.0
	m.fs.balancing.Lock()
	defer m.fs.balancing.Unlock()
	for _, c := range m.fs.claims() {
		above := c.above(c.used)
		switch {
		case spent[c.client] || c.client.pagesIn(m.from) == 0:
		case above > most:
			victim, next, most, weight = c.client, most, above, c.weight
		case above > next:
			next = above
		}
	}
	return victim, toBytes((most - next) * weight)
}

// evictFrom moves up to n pages of one client.
func (m *move) evictFrom(c *Client, n uint64) error {
	m.areas = slices.SortedFunc(slices.Values(*c.areas.Load()), func(a, b *Area) int { return cmp.Compare(a.id, b.id) })
	index, _ := m.from.owner.backendSlot()
	m.client, m.hand = c, &c.hands[index]
	m.most = m.moved.Load() + n
	return m.look()
}
