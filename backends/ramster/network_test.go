package ramster

import (
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/arena"
	"github.com/tmemd/tmemd/backends/backendtest"
	"github.com/tmemd/tmemd/backends/ramster/donor"
)

// soak is how many times as long tests with random events last: SOAK of the
// environment, or 1.
func soak() int {
	n, err := strconv.Atoi(os.Getenv("SOAK"))
	if err != nil {
		return 1
	}
	return max(n, 1)
}

// clients use an export until they are stopped.
type clients struct {
	*world
	pause sync.RWMutex // held to have them stand still
	stop  atomic.Bool
	all   sync.WaitGroup
	work  atomic.Int64
	// mayFail says that loads may fail; other bytes than were written never come.
	mayFail bool
}

func (w *world) clients(n int, mayFail bool) *clients {
	c := &clients{world: w, mayFail: mayFail}
	for i := range n {
		c.all.Go(func() { c.run(rand.New(rand.NewPCG(w.seed, uint64(i)))) })
	}
	return c
}

func (c *clients) run(random *rand.Rand) {
	data, dst := make([]byte, backends.PageSize), make([]byte, backends.PageSize)
	for !c.stop.Load() {
		c.pause.RLock()
		page := random.Uint64N(c.pages)
		switch random.IntN(10) {
		case 0, 1, 2:
			backendtest.FillMixed(data, random.Uint64())
			if _, err := c.host.Write(key(page), data); err != nil {
				c.Errorf("write page %d: %v", page, err)
			}
		case 3:
			c.host.Trim(key(page))
		case 4, 5: // a run
			for p := page; p < min(page+24, c.pages); p++ {
				c.read(p, dst)
			}
		default:
			c.read(page, dst)
		}
		c.work.Add(1)
		c.pause.RUnlock()
	}
}

func (c *clients) read(page uint64, dst []byte) {
	err := c.host.Read(key(page), dst)
	if err != nil && (!c.mayFail || strings.Contains(err.Error(), "B8:")) {
		c.Errorf("read page %d: %v", page, err)
	}
}

// still has nobody do anything while do runs.
func (c *clients) still(do func()) {
	c.pause.Lock()
	defer c.pause.Unlock()
	do()
}

func (c *clients) end() {
	c.stop.Store(true)
	c.all.Wait()
}

// awaitWork lets clients do something.
func (c *clients) awaitWork(n int64) {
	c.Helper()
	for deadline, until := time.Now().Add(60*time.Second), c.work.Load()+n; c.work.Load() < until; time.Sleep(time.Millisecond) {
		if c.Failed() {
			return
		}
		if time.Now().After(deadline) {
			c.Fatalf("clients get no further\n%s", c.describe())
		}
	}
}

// trouble is what can become of one donor: begin, and what ends it.
type trouble struct {
	name string
	do   func(c *clients, h *host, random *rand.Rand) (undo func())
}

var troubles = []trouble{
	{"faults on the wire", func(c *clients, h *host, random *rand.Rand) func() {
		w := &weather{every: 20 + random.Uint64N(200)}
		w.budget.Store(3)
		h.set(w)
		return func() { h.set(&weather{}) }
	}},
	{"away", func(c *clients, h *host, _ *rand.Rand) func() {
		h.set(&weather{away: true})
		return func() { h.set(&weather{}) }
	}},
	{"cut off", func(_ *clients, h *host, _ *rand.Rand) func() { h.cut(); return func() {} }},
	{"killed", func(_ *clients, h *host, _ *rand.Rand) func() {
		h.kill(true)
		return func() { h.start(true) }
	}},
	{"restarted without its memory", func(_ *clients, h *host, _ *rand.Rand) func() {
		h.kill(false)
		return func() { h.start(false) }
	}},
	{"restarted at once", func(_ *clients, h *host, random *rand.Rand) func() {
		kept := random.IntN(2) == 0
		h.kill(kept)
		h.start(kept)
		return func() {}
	}},
	{"frozen", func(_ *clients, h *host, _ *rand.Rand) func() {
		h.donor.Freeze()
		return h.donor.Thaw
	}},
	{"full", func(_ *clients, h *host, _ *rand.Rand) func() {
		return h.grant(4096)
	}},
	{"wants pages back", func(_ *clients, h *host, _ *rand.Rand) func() {
		if err := h.donor.SetLimit(4 * arena.ChunkSize); err != nil {
			h.Error(err)
		}
		return func() {
			if err := h.donor.SetLimit(32 << 20); err != nil {
				h.Error(err)
			}
		}
	}},
	{"removed", func(c *clients, h *host, random *rand.Rand) func() {
		now := random.IntN(2) == 0
		if err := c.cache.RemoveDonor(h.name, now); err != nil {
			h.Error(err)
		}
		return func() {
			if random.IntN(2) == 0 { // else it may be taken back before it has left
				c.await("the donor to leave", func() (bool, string) {
					return !slices.ContainsFunc(c.cache.Donors(), func(d DonorStatus) bool { return d.Name == h.name }), h.name
				})
			}
			if err := c.cache.AddDonor(Donor{h.name, h.name}); err != nil {
				h.Error(err)
			}
		}
	}},
}

// grant changes what the owner may have there, and returns what changes it back.
func (h *host) grant(quota int64) (undo func()) {
	set := func(quota int64) {
		if err := h.donor.SetClients(map[string]donor.Grant{"owner": {Quota: quota}}); err != nil {
			h.Error(err)
		}
	}
	set(quota)
	return func() { set(donorQuota) }
}

// TestNetwork has one donor after the other in trouble of every kind, one at a time, while clients
// go on: no load fails, every byte is right, and when all is well again there is no
// copy too few and none too many.
func TestNetwork(t *testing.T) {
	t.Parallel()
	w := newWorld(t, wireConfig(), 1200, "a", "b", "c")
	random := rand.New(rand.NewPCG(w.seed, 99))
	c := w.clients(3, false)
	defer c.end()
	c.awaitWork(500)
	c.still(func() { w.settle(2) })
	names := []string{"a", "b", "c"}
	for round := range soak() {
		order := random.Perm(len(troubles))
		if round == 0 {
			order = append(order, order[0]) // also twice in a row, in time
		}
		for _, n := range order {
			h := w.donors[names[random.IntN(len(names))]]
			t.Logf("donor %s is %s", h.name, troubles[n].name)
			undo := troubles[n].do(c, h, random)
			c.awaitWork(200 + random.Int64N(400))
			undo()
			if random.IntN(2) == 0 {
				c.awaitWork(100)
			}
			c.still(func() { w.settle(2) })
			if t.Failed() {
				t.Fatal(w.describe())
			}
		}
	}
	c.end()
	if err := w.host.Check(1); err != nil {
		t.Error(err)
	}
	if lost := w.cache.Remote().Lost; lost != 0 {
		t.Errorf("%d pages lost", lost)
	}
	w.settle(2)
	w.end()
}

// TestStorm has all donors in trouble at once: loads may fail, but never give a wrong
// byte, and when the storm is over pages that are written anew are as safe as ever.
func TestStorm(t *testing.T) {
	t.Parallel()
	config := wireConfig()
	config.Patience = 50 * time.Millisecond
	w := newWorld(t, config, 600, "a", "b", "c")
	random := rand.New(rand.NewPCG(w.seed, 98))
	c := w.clients(3, true)
	defer c.end()
	for range 4 * soak() {
		var undo []func()
		for _, h := range w.donors {
			undo = append(undo, troubles[random.IntN(len(troubles)-1)].do(c, h, random))
		}
		c.awaitWork(100 + random.Int64N(200))
		for _, u := range undo {
			u()
		}
	}
	c.end()
	dst := make([]byte, backends.PageSize)
	for page := range w.pages { // who is not to be had any more goes
		if err := w.host.Read(key(page), dst); err != nil {
			w.host.Trim(key(page))
		}
	}
	w.awaitUp()
	for page := range w.pages {
		if _, err := w.host.Write(key(page), backendtest.Mixed(w.seed+page)); err != nil {
			t.Fatal(err)
		}
	}
	w.settle(2)
	w.check()
	w.end()
}
