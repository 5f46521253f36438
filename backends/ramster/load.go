package ramster

import (
	"errors"
	"fmt"
	"time"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/arena"
	"github.com/tmemd/tmemd/backends/samefilled"
)

// What a load of a page that donors have can end with, beside ErrCorrupt.
var (
	errAllLost = errors.New("every donor that had the page has lost it")
	errAllDown = errors.New("no donor that has the page is in reach")
	errEmpty   = errors.New("it does not have the page")
)

// Load restores the page into dst and proves that it is the one that was stored. For a
// page that donors have it asks one, and another one if that does not answer in
// time or answers with anything else.
func (c *Cache) Load(key backends.Key, handle backends.Handle, dst []byte) error {
	if len(dst) != backends.PageSize {
		return fmt.Errorf("load page %d of export %d from ramster: buffer of %d bytes is not a page", key.Page, key.Export, len(dst))
	}
	fail := func(reason error) error {
		if errors.Is(reason, backends.ErrCorrupt) {
			c.corrupt.Add(1)
		}
		return fmt.Errorf("load page %d of export %d from ramster: %w", key.Page, key.Export, reason)
	}
	if samefilled.Is(handle) {
		value, ok := samefilled.Value(key, handle)
		if !ok {
			return fail(corrupt("handle does not belong to this page"))
		}
		samefilled.Fill(dst, value)
		return nil
	}
	if c.isEphemeral(key.Export) {
		err := c.loadCached(key, arena.Ref(handle), dst)
		if err != nil && err != backends.ErrGone { // which costs nothing
			err = fail(err)
		}
		return err
	}
	o, ok := c.arena.Get(arena.Ref(handle))
	switch {
	case !ok:
		return fail(corrupt("header makes no sense"))
	case o.Export != key.Export || o.Page != key.Page:
		return fail(corrupt("header names another page"))
	}
	s, remote := decodeStub(o)
	if !remote {
		if wrong := decode(o.Codec, o.Data, o.Sum, dst); wrong != "" {
			return fail(corrupt(wrong))
		}
		return nil
	}
	if c.adopting != nil {
		return fail(fmt.Errorf("%w: %w", errAllDown, backends.ErrTransient)) // nobody is connected to before Adopted
	}
	if err := c.loadRemote(key, s, o.Sum, dst); err != nil {
		return fail(err)
	}
	return nil
}

// corruption is why a copy is not the page that was stored.
type corruption string

func corrupt(reason string) error { return corruption(reason) }

func (c corruption) Error() string { return string(c) + ": " + backends.ErrCorrupt.Error() }

// Is makes it an ErrCorrupt.
func (corruption) Is(target error) bool { return target == backends.ErrCorrupt }

// waiter waits for one page. Loads take one from a pool.
type waiter struct {
	seal
	page       uint64
	generation uint64
	length     int // of blob; 0 if there is none of that generation
	err        error
	ended      chan struct{}
}

func newWaiter() *waiter { return &waiter{ended: make(chan struct{}, 1)} }

// Page implements [peer.Sink].
func (w *waiter) Page(page, generation uint64, blob []byte) {
	if page == w.page && generation == w.generation {
		w.length = copy(w.blob[:], blob)
	}
}

// Ended implements [peer.Sink].
func (w *waiter) Ended(err error) {
	w.err = err
	w.ended <- struct{}{}
}

// loadRemote fetches a page from its donors. REQUIRES: any lock of the page.
func (c *Cache) loadRemote(key backends.Key, s stub, sum uint32, dst []byte) error {
	w := c.waiters.Get().(*waiter)
	defer c.waiters.Put(w)
	return c.fetchRemote(w, key, s, sum, dst)
}

// fetchRemote is loadRemote with w, which has the page as it was sealed afterwards.
func (c *Cache) fetchRemote(w *waiter, key backends.Key, s stub, sum uint32, dst []byte) error {
	c.readAhead(key)
	if c.ahead.take(key, s.generation, w) && c.open(w, key, s, sum, dst) == "" {
		c.counts.aheadHits.Add(1)
		return nil
	}
	donors := s.inTurn(c.turn.Add(1) / turnLoads)
	var worst error
	var changed <-chan struct{} // nil in the first round: nobody waits then
	for start := time.Now(); ; {
		asked, lost, empty := 0, 0, 0 // empty: had something else, or nothing
		for _, place := range donors {
			switch m := c.members.at[place].Load(); {
			case place == 0:
			case !c.isBelieved(place):
				lost++
			case m == nil || !m.isUp():
			default:
				asked++
				if asked > 1 {
					c.counts.secondCopy.Add(1)
				}
				err := c.fetch(w, m, key, s, sum, dst)
				if err == nil {
					return nil
				}
				if errors.Is(err, errEmpty) || errors.Is(err, backends.ErrCorrupt) {
					empty++
				}
				if worst == nil || errors.Is(err, backends.ErrCorrupt) {
					worst = err
				}
			}
		}
		switch {
		case lost == s.copies():
			c.wakeKeeper()
			return fmt.Errorf("%w: %w", errAllLost, backends.ErrTransient)
		case empty > 0 && empty+lost == s.copies(): // there is nobody else to wait for
			if errors.Is(worst, backends.ErrCorrupt) {
				return worst
			}
			return fmt.Errorf("%w: %w", worst, backends.ErrTransient)
		case time.Since(start) > c.config.Patience || c.outOfReach(s):
			if worst == nil {
				worst = errAllDown
			}
			return fmt.Errorf("%w: %w", worst, backends.ErrTransient)
		}
		if changed == nil {
			changed = c.changed.wait() // before the next round: what changes in it is not missed
			continue
		}
		c.counts.waited.Add(1)
		timer := time.NewTimer(retryPause)
		select {
		case <-changed:
		case <-timer.C:
		}
		timer.Stop()
		changed = c.changed.wait()
	}
}

// turnLoads is how many loads in a row go to one of the donors that have their pages, so
// that requests travel together; over time all get their share.
const turnLoads = 64

// inTurn is the donors of a page in the order in which they are asked: the same for all
// pages with the same donors, until it is another one's turn.
func (s stub) inTurn(turn uint64) [MaxCopies]uint8 {
	const odd = 0x9e3779b97f4a7c15
	rank := func(place uint8) uint64 { return (turn<<8 | uint64(place)) * odd }
	order := s.donors
	for i := 1; i < len(order); i++ {
		for j := i; j > 0 && rank(order[j]) < rank(order[j-1]); j-- {
			order[j], order[j-1] = order[j-1], order[j]
		}
	}
	return order
}

// retryPause is how long a load waits for something to change before it asks again.
const retryPause = 100 * time.Millisecond

// copies is how many donors the stub names.
func (s stub) copies() (n int) {
	for _, place := range s.donors {
		if place != 0 {
			n++
		}
	}
	return n
}

// outOfReach says whether all donors of a page have been so for longer than loads
// wait.
func (c *Cache) outOfReach(s stub) bool {
	for _, place := range s.donors {
		if place == 0 || !c.isBelieved(place) {
			continue
		}
		if m := c.members.at[place].Load(); m != nil && m.downFor() < c.config.Patience {
			return false
		}
		if c.members.at[place].Load() == nil && time.Since(c.opened) < c.config.Patience {
			return false // it may still connect
		}
	}
	return true
}

// ask asks one donor for a version of a page, and waits. What came is in blob; length is 0
// if the donor does not have that version, or there is an error.
func (w *waiter) ask(m *member, key backends.Key, generation uint64) error {
	w.page, w.generation, w.length = key.Page, generation, 0
	if err := m.session.Fetch(key.Export, key.Page, 1, w); err != nil {
		return err
	}
	<-w.ended
	return w.err
}

// fetch asks one donor for the page.
func (c *Cache) fetch(w *waiter, m *member, key backends.Key, s stub, sum uint32, dst []byte) error {
	err := w.ask(m, key, s.generation)
	switch {
	case w.length > 0:
		if wrong := c.open(w, key, s, sum, dst); wrong != "" {
			m.rejected.Add(1)
			return fmt.Errorf("donor %s: %w", m.Name, corrupt(wrong))
		}
		return nil
	case err != nil:
		return fmt.Errorf("donor %s: %w", m.Name, err)
	}
	m.missing.Add(1)
	m.debt.Store(true)
	return fmt.Errorf("donor %s: %w", m.Name, errEmpty)
}

// open opens what w has.
func (c *Cache) open(w *waiter, key backends.Key, s stub, sum uint32, dst []byte) string {
	return c.sealer.open(&w.seal, key, s.generation, sum, w.blob[:w.length], dst)
}
