package ramster

import (
	"errors"
	"fmt"
	"time"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/arena"
	"github.com/tmemd/tmemd/backends/samefilled"
)

// Open opens a cache that an earlier process left in Config.Memory, however it ended.
// Its pages are there to be adopted; donors are connected to when they are.
func Open(config Config) (*Cache, error) { return reopen(config, (*Cache).connectPeer) }

func reopen(config Config, connect func(*Cache, *member) (session, error)) (*Cache, error) {
	config = config.withDefaults()
	fail := func(err error) (*Cache, error) { return nil, fmt.Errorf("open ramster: %w", err) }
	if err := config.validate(); err != nil {
		return fail(err)
	}
	a, err := arena.Open(config.Memory, arenaPurpose, config.arenaLimit())
	if err != nil {
		return fail(err)
	}
	l, err := openLedger(config.Memory, config.Log.Warn)
	if err != nil {
		return fail(errors.Join(err, a.Close()))
	}
	c, err := assemble(config, a, l, connect)
	if err != nil {
		return fail(errors.Join(err, a.Close(), l.leave()))
	}
	for n := 1; n < placeCount; n++ {
		c.members.states[n].Store(uint32(l.read(uint8(n)).state))
	}
	c.cached.left = l.cachedPools()
	c.adopting = &adopting{exports: map[uint32]*export{}}
	return c, nil
}

// adopting is what a cache knows between Open and Adopted.
type adopting struct {
	exports map[uint32]*export
	staged  []staged
	full    bool // the index has no room for what was there
}

// Adopt implements [backends.Backend]. Whether donors still have the page is seen when
// they are connected to.
func (c *Cache) Adopt(key backends.Key, handle backends.Handle) bool {
	if samefilled.Is(handle) {
		if _, ok := samefilled.Value(key, handle); !ok {
			return false
		}
		c.same.Add(1)
		return true
	}
	if c.adopting == nil {
		return false
	}
	ref := arena.Ref(handle)
	o, ok := c.arena.Claim(ref, key.Export, key.Page)
	if !ok {
		return false
	}
	e := c.adopting.exports[key.Export]
	if e == nil {
		e = &export{pages: c.index.NewTable(nil)}
		c.adopting.exports[key.Export] = e
	}
	e.charge.Add(c.arena.SizeOf(ref))
	s, remote := decodeStub(o)
	if isHome(o) {
		c.home.bytes.Add(stagedSlot(len(o.Data)))
		return true
	}
	if !remote {
		c.stagedBytes.Add(stagedSlot(len(o.Data)))
		c.adopting.staged = append(c.adopting.staged, staged{key, ref})
		return true
	}
	if !e.pages.Set(key.Page, uint64(ref)+1) {
		c.adopting.full = true
	}
	c.countStub(s, 1)
	return true
}

// Adopted implements [backends.Backend].
func (c *Cache) Adopted() (orphans uint64, err error) {
	if c.adopting == nil {
		return 0, nil
	}
	if c.adopting.full {
		return 0, errors.New("take ramster over: there is no room for the index of its pages")
	}
	freed, err := c.arena.Settle()
	if err != nil {
		return 0, fmt.Errorf("take ramster over: %w", err)
	}
	for _, page := range c.adopting.staged {
		c.restage(page)
	}
	c.adopted, c.adopting = c.adopting.exports, nil
	c.opened = time.Now()
	if err := c.addDonors(); err != nil {
		return uint64(freed), fmt.Errorf("take ramster over: %w", err)
	}
	if err := c.addLeaving(); err != nil {
		return uint64(freed), fmt.Errorf("take ramster over: %w", err)
	}
	return uint64(freed), nil
}

// takeAdopted returns what is known of the export's pages from an earlier process.
func (c *Cache) takeAdopted(id uint32) *export {
	if e := c.adopted[id]; e != nil {
		delete(c.adopted, id)
		return e
	}
	return &export{pages: c.index.NewTable(nil)}
}

// Orphans counts the copies that nobody has adopted so far. REQUIRES: between Open
// and Adopted.
func (c *Cache) Orphans() int64 { return c.arena.Unclaimed() }
