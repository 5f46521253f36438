package frontswap

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/backendtest"
)

// pool is a backend with a limit that asks for evictions when it gets full, as zcache
// does: between calls, as a goroutine of its own would.
type pool struct {
	*backendtest.Map
	host backends.Host
}

func newPool(pages int) *pool { return &pool{Map: &backendtest.Map{Limit: pages}} }

func (p *pool) Init(e backends.Export) error {
	p.host = e.Host
	return p.Map.Init(e)
}

// tidy asks for a tenth of the pool if less than a twentieth is free.
func (p *pool) tidy(t testing.TB) {
	if p.Room() < uint64(p.Limit)*backends.PageSize/20 {
		if _, err := p.host.Evict(context.Background(), uint64(p.Limit)/10); err != nil {
			t.Fatalf("evict: %v", err)
		}
	}
}

func createClient(t testing.TB, f *Frontswap, name string, q Quota) {
	t.Helper()
	if err := f.CreateClient(name, q); err != nil {
		t.Fatal(err)
	}
}

func openFor(t testing.TB, f *Frontswap, client string, id uint32, pages uint64) *Area {
	t.Helper()
	a, err := f.OpenArea(AreaConfig{Name: fmt.Sprint("area", id), ID: id, Pages: pages, Storage: &memory{}, Client: client})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// write stores a page as the tier does, and says whether a backend has it.
func write(a *Area, page uint64, data []byte) bool {
	a.Lock(page)
	defer a.Unlock(page)
	if a.Store(page, data) {
		return true
	}
	a.SetStorage(page)
	return false
}

func client(t testing.TB, f *Frontswap, name string) ClientStatus {
	t.Helper()
	list := f.Clients()
	at := slices.IndexFunc(list, func(c ClientStatus) bool { return c.Name == name })
	if at < 0 {
		t.Fatalf("there is no client %s", name)
	}
	return list[at]
}

var somePage = backendtest.Page(backendtest.Structured, 1)

// TestShares: clients that all want more than there is get their reservation and, of
// what is left, as much as their weights say.
func TestShares(t *testing.T) {
	const limit = 4000
	for _, quotas := range [][]Quota{
		{{Weight: 1}, {Weight: 1}},
		{{Weight: 1}, {Weight: 2}, {Weight: 5}},
		{{Weight: 3}, {Weight: 1, Reservation: limit / 4 * backends.PageSize}, {Weight: 4}},
		{{Weight: MaxWeight}, {Weight: MaxWeight / 2}, {Weight: MaxWeight / 4}, {Weight: MaxWeight / 4}},
	} {
		f := New(quiet())
		p := newPool(limit)
		mustRegister(t, f, "p", p)
		var areas []*Area
		for i, q := range quotas {
			createClient(t, f, fmt.Sprint(i), q)
			areas = append(areas, openFor(t, f, fmt.Sprint(i), uint32(i), 4*limit))
		}
		random := rand.New(rand.NewPCG(1, 2))
		sums := make([]float64, len(areas))
		const steps = 40 * limit
		for step := range steps {
			// Some are in more of a hurry than others.
			i := min(random.IntN(len(areas)+2), len(areas)-1)
			write(areas[i], random.Uint64N(4*limit), somePage)
			if step%16 == 0 {
				p.tidy(t)
			}
			if step%400 == 0 {
				f.balance(t.Context(), time.Now())
			}
			if step >= steps/2 && step%100 == 0 {
				for i, c := range f.Clients()[:len(areas)] { // digits sort before "default"
					sums[i] += float64(c.Used) / (steps / 2 / 100)
				}
			}
		}
		reserved, weights, total := 0.0, 0.0, 0.0
		for i, q := range quotas {
			reserved += float64(q.Reservation)
			weights += float64(q.Weight)
			total += sums[i]
		}
		for i, q := range quotas {
			want := float64(q.Reservation) + (total-reserved)*float64(q.Weight)/weights
			if math.Abs(sums[i]-want) > want/10 {
				t.Errorf("%+v: client %d took %.0f pages on average, want %.0f of %.0f", quotas, i, sums[i]/backends.PageSize, want/backends.PageSize, total/backends.PageSize)
			}
		}
		if total < 0.75*limit*backends.PageSize {
			t.Errorf("%+v: only %.0f pages of %d are used", quotas, total/backends.PageSize, limit)
		}
		closeAll(t, areas, p.Map)
	}
}

// TestInsideShare: while others want more than there is, a client inside its share is
// never refused for want of room, and no page of it is evicted; nor when it comes last,
// to a pool that others have filled.
func TestInsideShare(t *testing.T) {
	const limit = 4000
	f := New(quiet())
	p := newPool(limit)
	mustRegister(t, f, "p", p)
	createClient(t, f, "greedy", Quota{Weight: 3})
	createClient(t, f, "other", Quota{Weight: 2})
	createClient(t, f, "modest", Quota{Weight: 2, Reservation: limit / 8 * backends.PageSize})
	greedy := openFor(t, f, "greedy", 1, 4*limit)
	other := openFor(t, f, "other", 2, 4*limit)
	modest := openFor(t, f, "modest", 3, 4*limit)
	random := rand.New(rand.NewPCG(3, 4))
	rush := func(n int) {
		for range n {
			write(greedy, random.Uint64N(4*limit), somePage)
			write(other, random.Uint64N(4*limit), somePage)
		}
	}
	for range 100 {
		rush(limit / 10)
		p.tidy(t)
		f.balance(t.Context(), time.Now())
	}
	due := client(t, f, "modest").Due
	if due < limit/4*backends.PageSize {
		t.Fatalf("the share is %d pages of %d", due/backends.PageSize, limit)
	}
	for page := uint64(0); page < due/backends.PageSize; page++ {
		rush(20)
		if !write(modest, page, somePage) {
			t.Fatalf("page %d of %d of its share was refused", page, due/backends.PageSize)
		}
		p.tidy(t)
	}
	rush(10 * limit)
	p.tidy(t)
	status := client(t, f, "modest")
	if status.Evicted > 0 || status.Used != due/backends.PageSize*backends.PageSize || status.Refused != [ClientRefusals]uint64{} {
		t.Errorf("the client inside its share: %+v", status)
	}
	if client(t, f, "greedy").Refused[RefusedShare] == 0 {
		t.Error("no page of the greedy client was refused")
	}
	closeAll(t, []*Area{greedy, other, modest}, p.Map)
}

// TestOneClient: shares are nobody's business while there is one client.
func TestOneClient(t *testing.T) {
	f := New(quiet())
	p := newPool(100)
	mustRegister(t, f, "p", p)
	createClient(t, f, "idle", Quota{Weight: 100}) // without exports
	a := openArea(t, f, 1, 1000, &memory{})
	for page := range uint64(100) {
		if !write(a, page, somePage) {
			t.Fatalf("page %d of 100 was refused", page)
		}
	}
	if got := client(t, f, DefaultClient); got.Used != 100*backends.PageSize || got.Refused != [ClientRefusals]uint64{} {
		t.Errorf("the only client: %+v", got)
	}
	closeAll(t, []*Area{a}, p.Map)
}

// TestCap: a client stops at its cap, whatever room there is, and what it has above a
// lowered one goes to storage, cold pages first.
func TestCap(t *testing.T) {
	f := New(quiet())
	b := &backendtest.Map{}
	mustRegister(t, f, "b", b)
	createClient(t, f, "c", Quota{Cap: 50 * backends.PageSize})
	first, second := openFor(t, f, "c", 1, 100), openFor(t, f, "c", 2, 100)
	for page := range uint64(100) {
		a := first
		if page%2 == 1 {
			a = second
		}
		if got, want := write(a, page, somePage), page < 50; got != want {
			t.Fatalf("page %d, cap 50: stored: %v", page, got)
		}
	}
	if got := client(t, f, "c"); got.Used != 50*backends.PageSize || got.Refused[RefusedCap] != 50 {
		t.Errorf("at its cap: %+v", got)
	}
	if err := f.SetClient("c", Quota{Cap: 20 * backends.PageSize}); err != nil {
		t.Fatal(err)
	}
	used := func(page uint64) bool { return page%5 < 2 } // 20 of the 50
	for page := range uint64(50) {
		a := first
		if page%2 == 1 {
			a = second
		}
		a.at(page).And(uint64(^referenced)) // as after a look for cold pages
		if used(page) {
			checkSome(t, a, page)
		}
	}
	f.balance(t.Context(), time.Now())
	if got := client(t, f, "c"); got.Used != 20*backends.PageSize || got.Evicted != 30 {
		t.Errorf("after the cap was lowered: %+v", got)
	}
	for page := range uint64(50) {
		a := first
		if page%2 == 1 {
			a = second
		}
		if owner, want := a.Owner(page), used(page); (owner == firstBackendOwner) != want {
			t.Errorf("page %d, used: %v, belongs to %d", page, want, owner)
		}
	}
	closeAll(t, []*Area{first, second}, b)
}

// checkSome loads a page that somePage was written to.
func checkSome(t *testing.T, a *Area, page uint64) {
	t.Helper()
	a.RLock(page)
	defer a.RUnlock(page)
	got := make([]byte, backends.PageSize)
	if err := a.Load(page, got); err != nil || !slices.Equal(got, somePage) {
		t.Errorf("load page %d: %v, or other bytes", page, err)
	}
}

// TestFreezeClient: no page of a frozen client reaches a backend; those that are there
// can be read and dropped, and one that is written anew leaves no older copy.
func TestFreezeClient(t *testing.T) {
	f := New(quiet())
	b := &backendtest.Map{}
	mustRegister(t, f, "b", b)
	createClient(t, f, "c", Quota{})
	a := openFor(t, f, "c", 1, 10)
	for page := range uint64(3) {
		store(a, page, page)
	}
	if err := f.FreezeClient("c"); err != nil {
		t.Fatal(err)
	}
	if store(a, 5, 5) || write(a, 0, somePage) {
		t.Error("a page of a frozen client was stored")
	}
	checkLoad(t, a, 1, 1)
	a.Lock(2)
	a.InvalidatePage(2)
	a.Unlock(2)
	if a.Owner(0) != OwnerStorage || len(b.Keys()) != 1 {
		t.Errorf("page 0 belongs to %d, and the backend has %d pages, want 1", a.Owner(0), len(b.Keys()))
	}
	if got := client(t, f, "c"); got.Refused[RefusedFrozen] != 2 || !got.Frozen {
		t.Errorf("frozen: %+v", got)
	}
	if err := f.ThawClient("c"); err != nil {
		t.Fatal(err)
	}
	if !store(a, 0, 7) {
		t.Error("a page of a thawed client was refused")
	}
	closeAll(t, []*Area{a}, b)
}

// TestReservations: what cannot be kept is refused, with the numbers; if there is less
// later, all reservations get less by the same part.
func TestReservations(t *testing.T) {
	f := New(quiet())
	const page = backends.PageSize
	b := &backendtest.Map{Limit: 1000}
	mustRegister(t, f, "b", b)
	createClient(t, f, "a", Quota{Reservation: 600 * page})
	if err := f.CreateClient("b", Quota{Reservation: 401 * page}); !errors.Is(err, ErrReserved) {
		t.Errorf("1,001 pages of 1,000 reserved: %v", err)
	}
	createClient(t, f, "b", Quota{Reservation: 400 * page})
	if err := f.SetClient("a", Quota{Reservation: 601 * page}); !errors.Is(err, ErrReserved) {
		t.Errorf("1,001 pages of 1,000 reserved by a change: %v", err)
	}
	for _, bad := range []Quota{{Weight: MaxWeight + 1}, {Cap: page, Reservation: 2 * page}, {Reservation: math.MaxUint64}} {
		if err := f.SetClient("a", bad); err == nil {
			t.Errorf("%+v was accepted", bad)
		}
	}
	if err := f.SetClient("a", Quota{Reservation: 500 * page}); err != nil {
		t.Error(err)
	}
	small := New(quiet())
	mustRegister(t, small, "b", &backendtest.Map{Limit: 1000})
	createClient(t, small, "a", Quota{Reservation: 600 * page})
	createClient(t, small, "b", Quota{Reservation: 300 * page})
	if _, err := small.Replace(t.Context(), "b", "less", &backendtest.Map{Limit: 300}); err != nil {
		t.Fatal(err)
	}
	a, c := client(t, small, "a"), client(t, small, "b")
	usable := uint64(300*page - 300*page/unusablePart)
	if sum := a.Reserved + c.Reserved; sum > usable || sum < usable-2 || a.Reserved/2 != c.Reserved && a.Reserved/2 != c.Reserved-1 {
		t.Errorf("of 600 and 300 pages, with %d bytes to be had, %d and %d are kept", usable, a.Reserved, c.Reserved)
	}
}

func TestClientErrors(t *testing.T) {
	f := New(quiet())
	createClient(t, f, "c", Quota{})
	a := openFor(t, f, "c", 1, 10)
	_, open := f.OpenArea(AreaConfig{Name: "x", ID: 2, Pages: 1, Storage: &memory{}, Client: "nobody"})
	for what, c := range map[string]struct{ got, want error }{
		"create twice":        {f.CreateClient("c", Quota{}), ErrClientExists},
		"set":                 {f.SetClient("nobody", Quota{}), ErrNoClient},
		"freeze":              {f.FreezeClient("nobody"), ErrNoClient},
		"destroy":             {f.DestroyClient("nobody"), ErrNoClient},
		"destroy with areas":  {f.DestroyClient("c"), ErrClientInUse},
		"open area of nobody": {open, ErrNoClient},
	} {
		if !errors.Is(c.got, c.want) {
			t.Errorf("%s: %v, want %v", what, c.got, c.want)
		}
	}
	if f.DestroyClient(DefaultClient) == nil {
		t.Error("the default client was destroyed")
	}
	closeAll(t, []*Area{a})
	if err := f.DestroyClient("c"); err != nil {
		t.Error(err)
	}
}

// crowd is a registry with clients that come, go and change, and what is known of them
// without it.
type crowd struct {
	f      *Frontswap
	p      *pool
	quotas map[string]Quota
	frozen map[string]bool
	areas  map[string][]*Area
	last   uint32
}

const crowdLimit = 400

// TestClientModel does random things to many clients and compares charge, caps and what
// was evicted with what a plain model allows.
func TestClientModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		c := &crowd{f: New(quiet()), p: newPool(crowdLimit), quotas: map[string]Quota{DefaultClient: {Weight: 1}}, frozen: map[string]bool{}, areas: map[string][]*Area{}}
		mustRegister(t, c.f, "p", c.p)
		rt.Repeat(map[string]func(*rapid.T){
			"create": c.create, "set": c.set, "freeze": c.freeze, "destroy": c.destroy, "open": c.open, "close": c.close,
			"write": func(rt *rapid.T) { c.write(t, rt) },
			"trim":  c.trim,
			"tidy":  func(rt *rapid.T) { c.tidy(t, rt) },
			"":      c.check,
		})
		for _, list := range c.areas {
			closeAll(t, list)
		}
		if err := c.p.Misuse(); err != nil {
			rt.Fatal(err)
		}
	})
}

func (c *crowd) pick(rt *rapid.T) string {
	return rapid.SampledFrom([]string{DefaultClient, "a", "b", "c", "d"}).Draw(rt, "client")
}

func (c *crowd) quota(rt *rapid.T) Quota {
	q := Quota{Weight: rapid.Uint32Range(0, 9).Draw(rt, "weight")}
	q.Reservation = rapid.Uint64Range(0, crowdLimit/2).Draw(rt, "reservation") * backends.PageSize
	if limit := rapid.Uint64Range(0, crowdLimit).Draw(rt, "cap"); limit > crowdLimit/2 {
		q.Cap = limit * backends.PageSize
	}
	return q
}

func (c *crowd) reserved(but string) (sum uint64) {
	for name, q := range c.quotas {
		if name != but {
			sum += q.Reservation
		}
	}
	return sum
}

// fits says whether a reservation can be kept.
func (c *crowd) fits(name string, q Quota) bool {
	return q.Reservation <= c.quotas[name].Reservation || c.reserved(name)+q.Reservation <= crowdLimit*backends.PageSize
}

func (c *crowd) create(rt *rapid.T) {
	name, q := c.pick(rt), c.quota(rt)
	_, exists := c.quotas[name]
	fits := c.fits(name, q)
	if err := c.f.CreateClient(name, q); (err == nil) != (!exists && fits) {
		rt.Fatalf("create %s, there before: %v, fits: %v: %v", name, exists, fits, err)
	} else if err == nil {
		c.quotas[name] = q
	}
}

func (c *crowd) set(rt *rapid.T) {
	name, q := c.pick(rt), c.quota(rt)
	_, exists := c.quotas[name]
	fits := c.fits(name, q)
	if err := c.f.SetClient(name, q); (err == nil) != (exists && fits) {
		rt.Fatalf("set %s, there before: %v, fits: %v: %v", name, exists, fits, err)
	} else if err == nil {
		c.quotas[name] = q
		c.f.balance(context.Background(), time.Now())
		if used := c.used(name); q.Cap > 0 && used > q.Cap {
			rt.Fatalf("%s takes %d bytes after its cap was set to %d", name, used, q.Cap)
		}
	}
}

func (c *crowd) freeze(rt *rapid.T) {
	name, on := c.pick(rt), rapid.Bool().Draw(rt, "on")
	do := c.f.ThawClient
	if on {
		do = c.f.FreezeClient
	}
	if do(name) == nil {
		c.frozen[name] = on
	}
}

func (c *crowd) destroy(rt *rapid.T) {
	name := c.pick(rt)
	_, exists := c.quotas[name]
	if err := c.f.DestroyClient(name); (err == nil) != (exists && len(c.areas[name]) == 0 && name != DefaultClient) {
		rt.Fatalf("destroy %s, there before: %v, with %d exports: %v", name, exists, len(c.areas[name]), err)
	} else if err == nil {
		delete(c.quotas, name)
		delete(c.frozen, name)
	}
}

func (c *crowd) open(rt *rapid.T) {
	name := c.pick(rt)
	c.last++
	a, err := c.f.OpenArea(AreaConfig{Name: fmt.Sprint(c.last), ID: c.last, Pages: crowdLimit, Storage: &memory{}, Client: name})
	if _, exists := c.quotas[name]; (err == nil) != exists {
		rt.Fatalf("open an area of %s, there before: %v: %v", name, exists, err)
	}
	if err == nil {
		c.areas[name] = append(c.areas[name], a)
	}
}

func (c *crowd) close(rt *rapid.T) {
	name := c.pick(rt)
	if list := c.areas[name]; len(list) > 0 {
		if err := list[0].Close(); err != nil {
			rt.Fatal(err)
		}
		c.areas[name] = list[1:]
	}
}

// used is what a client's pages take, counted one by one.
func (c *crowd) used(name string) (bytes uint64) {
	mine := map[uint32]bool{}
	for _, a := range c.areas[name] {
		mine[a.id] = true
	}
	for _, key := range c.p.Keys() {
		if mine[key.Export] {
			bytes += backends.PageSize
		}
	}
	return bytes
}

// sharers are the clients that share the pool.
func (c *crowd) sharers() (names []string) {
	for name, q := range c.quotas {
		if len(c.areas[name]) > 0 || q.Reservation > 0 {
			names = append(names, name)
		}
	}
	return names
}

// due is a client's share of what can be counted on, if all want theirs.
func (c *crowd) due(name string) float64 {
	usable := float64(crowdLimit * backends.PageSize * (unusablePart - 1) / unusablePart)
	factor, weights, kept := 1.0, 0.0, 0.0
	if all := float64(c.reserved("")); all > usable {
		factor = usable / all
	}
	for _, other := range c.sharers() {
		weights += float64(max(c.quotas[other].Weight, 1))
		kept += float64(c.quotas[other].Reservation) * factor
	}
	q := c.quotas[name]
	return float64(q.Reservation)*factor + max(usable-kept, 0)*float64(max(q.Weight, 1))/weights
}

func (c *crowd) write(t *testing.T, rt *rapid.T) {
	name := c.pick(rt)
	if len(c.areas[name]) == 0 {
		return
	}
	a := c.areas[name][0]
	first := rapid.Uint64Range(0, crowdLimit-1).Draw(rt, "page")
	for page := first; page < min(first+crowdLimit/4, crowdLimit); page++ {
		used, limit := c.f.clients[name].used(), c.quotas[name].Cap
		stored := write(a, page, somePage)
		switch {
		case stored && c.frozen[name]:
			rt.Fatalf("%s is frozen and stored page %d", name, page)
		case stored && limit > 0 && used >= limit:
			rt.Fatalf("%s took %d bytes, cap %d, and stored page %d", name, used, limit, page)
		case !stored && !c.frozen[name] && (limit == 0 || used < limit) && float64(used) < c.due(name)-backends.PageSize && len(c.sharers()) > 1:
			rt.Fatalf("%s takes %d bytes of its share of %.0f, and page %d was refused", name, used, c.due(name), page)
		}
		c.tidy(t, rt)
	}
}

func (c *crowd) trim(rt *rapid.T) {
	name := c.pick(rt)
	for _, a := range c.areas[name] {
		page := rapid.Uint64Range(0, crowdLimit-1).Draw(rt, "page")
		for last := min(page+50, crowdLimit); page < last; page++ {
			a.Lock(page)
			a.InvalidatePage(page)
			a.Unlock(page)
		}
	}
}

// tidy has pages evicted, and checks from whom.
func (c *crowd) tidy(t *testing.T, rt *rapid.T) {
	if c.p.host == nil {
		return
	}
	before := map[string]uint64{}
	above := false
	for name := range c.quotas {
		before[name] = c.f.clients[name].used()
		above = above || float64(before[name]) > c.due(name)+shareBatch*backends.PageSize
	}
	c.p.tidy(t)
	for name := range c.quotas {
		after := c.f.clients[name].used()
		if len(c.sharers()) > 1 && after < before[name] && above && float64(before[name]) <= c.due(name) {
			rt.Fatalf("%s was inside its share of %.0f bytes and had %d of its %d evicted, with another one above", name, c.due(name), before[name]-after, before[name])
		}
	}
}

func (c *crowd) check(rt *rapid.T) {
	list := c.f.Clients()
	if len(list) != len(c.quotas) {
		rt.Fatalf("there are %d clients, want %d", len(list), len(c.quotas))
	}
	for _, s := range list {
		q := c.quotas[s.Name]
		q.Weight = max(q.Weight, 1)
		if s.Quota != q || s.Frozen != c.frozen[s.Name] || len(s.Areas) != len(c.areas[s.Name]) || s.Promised != uint64(len(s.Areas)*crowdLimit*backends.PageSize) {
			rt.Fatalf("client %+v, want %+v, frozen %v, %d exports", s, q, c.frozen[s.Name], len(c.areas[s.Name]))
		}
		if want := c.used(s.Name); s.Used != want || s.Pages != want/backends.PageSize {
			rt.Fatalf("%s is charged %d bytes for %d pages, and takes %d", s.Name, s.Used, s.Pages, want)
		}
	}
}

// TestClientStoreAllocates nothing, with everything that there is to look at.
func TestClientStoreAllocates(t *testing.T) {
	f := New(quiet())
	b := &full{Map: &backendtest.Map{}}
	mustRegister(t, f, "b", b)
	createClient(t, f, "c", Quota{Cap: 1 << 40})
	createClient(t, f, "d", Quota{Reservation: backends.PageSize})
	a := openFor(t, f, "c", 1, 10)
	f.slots[0].Load().contended.Store(true)
	for _, room := range []uint64{0, 1 << 40} {
		b.room = room
		if n := testing.AllocsPerRun(100, func() {
			a.Lock(1)
			a.Store(1, somePage)
			a.Unlock(1)
		}); n != 0 {
			t.Errorf("with room for %d bytes a store allocates %v times", room, n)
		}
	}
	closeAll(t, []*Area{a})
}

// full refuses everything.
type full struct {
	*backendtest.Map
	room uint64
}

func (b *full) Room() uint64 { return b.room }
func (b *full) Store(backends.Key, []byte) (backends.Handle, backends.Refusal, error) {
	return 0, backends.RefusedFull, nil
}

// TestRemoteCapacity: what a backend is allowed to take for pages that others have is no
// room for those that are here.
func TestRemoteCapacity(t *testing.T) {
	f := New(quiet())
	b := &full{Map: &backendtest.Map{Remote: true, Limit: 10_000}, room: 600 * backends.PageSize}
	mustRegister(t, f, "b", b)
	createClient(t, f, "c", Quota{})
	createClient(t, f, "d", Quota{})
	areas := []*Area{openFor(t, f, "c", 1, 10), openFor(t, f, "d", 2, 10)}
	if got, want := client(t, f, "c").Due, uint64(250*backends.PageSize); got != want {
		t.Errorf("%d bytes are due, want %d", got, want)
	}
	if a, s := areas[0], f.slots[0].Load(); a.client.yields(s) {
		t.Error("a client without pages is to leave room to others")
	}
	if err := f.CreateClient("e", Quota{Reservation: 601 * backends.PageSize}); !errors.Is(err, ErrReserved) {
		t.Errorf("601 pages of 600 reserved: %v", err)
	}
	closeAll(t, areas)
}

// TestDedupDomains: areas of one client that wants it have one number, other clients another, and others none; it
// counts when an area is opened.
func TestDedupDomains(t *testing.T) {
	f := New(quiet())
	b := &domains{Map: &backendtest.Map{}, of: map[string]uint32{}}
	createClient(t, f, "a", Quota{Dedup: true})
	createClient(t, f, "b", Quota{Dedup: true})
	createClient(t, f, "c", Quota{})
	areas := []*Area{openFor(t, f, "a", 1, 8), openFor(t, f, "b", 2, 8)}
	mustRegister(t, f, "b", b)
	areas = append(areas, openFor(t, f, "a", 3, 8), openFor(t, f, "c", 4, 8), openFor(t, f, "", 5, 8))
	if err := f.SetClient("c", Quota{Dedup: true}); err != nil {
		t.Fatal(err)
	}
	if err := f.SetClient("a", Quota{}); err != nil {
		t.Fatal(err)
	}
	areas = append(areas, openFor(t, f, "c", 6, 8), openFor(t, f, "a", 7, 8))
	d := b.of
	if d["area1"] == 0 || d["area1"] != d["area3"] || d["area2"] == 0 || d["area2"] == d["area1"] ||
		d["area6"] == 0 || d["area6"] == d["area1"] || d["area6"] == d["area2"] || d["area4"] != 0 || d["area5"] != 0 || d["area7"] != 0 {
		t.Errorf("numbers of areas: %v", d)
	}
	for _, a := range areas {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	}
}

// domains notes what areas may share.
type domains struct {
	*backendtest.Map
	of map[string]uint32
}

func (d *domains) Init(e backends.Export) error {
	d.of[e.Name] = e.Dedup
	return d.Map.Init(e)
}
