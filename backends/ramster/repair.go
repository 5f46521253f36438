package ramster

import (
	"time"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/ramster/wire"
)

// mustRepair says whether there are pages with a copy that is not there, will not be,
// or is to move.
func (k *keeper) mustRepair() bool {
	if k.thin {
		return true
	}
	for n := 1; n < placeCount; n++ {
		if k.members.stubs[n].Load() > 0 && k.isBad(uint8(n)) {
			return true
		}
	}
	k.lost.Store(0)
	return false
}

// maxRepairPause is how long a walk that does nothing is put off at most, unless
// something changes.
const maxRepairPause = 30 * time.Second

// isBad says whether copies at a place count no more, or are to move.
func (c *Cache) isBad(n uint8) bool {
	if placeState(c.members.states[n].Load()) != placeMember {
		return true
	}
	m := c.members.at[n].Load()
	switch {
	case m == nil: // since this process began nobody has answered for it
		return time.Since(c.opened) > c.config.Lost
	case m.isUp():
		return m.session.Room().Wanted > 0
	}
	return m.downFor() > c.config.Lost
}

// repair goes through all pages that donors have, and gives those with bad copies
// good ones.
func (k *keeper) repair() {
	lost, before := int64(0), k.counts.repaired.Load()
	k.blocked, k.thin = 0, false
	for id, e := range *k.exports.Load() {
		if e.ephemeral {
			continue
		}
		e.life.RLock()
		e.pages.Range(0, func(page, _ uint64) bool {
			if k.ctx.Err() != nil || e.closed.Load() {
				return false
			}
			if !k.repairPage(e, backends.Key{Export: id, Page: page}) {
				lost++
			}
			return true
		})
		e.life.RUnlock()
	}
	k.lost.Store(lost)
	k.thin = k.thin || lost > 0
	if k.pause = min(max(2*k.pause, keepEvery), maxRepairPause); k.counts.repaired.Load() != before {
		k.pause = 0
	}
	k.notBefore = time.Now().Add(k.pause)
	if k.blocked > 0 {
		// Nobody else takes them: they have to go to the next place.
		k.evict(uint64(min(k.blocked, evictMost)))
	}
}

// copies of one page, as they are to be.
type repairPlan struct {
	good, sources, bad []uint8
	moving             bool // a donor that is there is to give its copy up
}

func (k *keeper) plan(s stub) (p repairPlan) {
	for _, n := range s.donors {
		if n == 0 {
			continue
		}
		m := k.members.at[n].Load()
		up := k.isBelieved(n) && m != nil && m.isUp()
		if up {
			p.sources = append(p.sources, n)
		}
		if k.isBad(n) {
			p.bad = append(p.bad, n)
			p.moving = p.moving || up
		} else {
			p.good = append(p.good, n)
		}
	}
	return p
}

// repairPage gives a page good copies for its bad ones, if there are donors for it. It
// returns false if nobody has the page any more.
func (k *keeper) repairPage(e *export, key backends.Key) bool {
	s, o, ref, ok := k.stubOf(e, key)
	if !ok {
		return true
	}
	p := k.plan(s)
	if len(p.bad) == 0 && len(p.good) >= k.config.Copies {
		return true
	}
	// Until this ends well, the next walk looks at it again.
	done := false
	defer func() { k.thin = k.thin || !done }()
	if len(p.sources) == 0 {
		for _, n := range s.donors {
			if k.isBelieved(n) {
				return true // it may come back
			}
		}
		return false
	}
	need := k.config.Copies - len(p.good)
	var to choice
	if need > 0 {
		to = k.choose(key, need, func(m *member) bool { return s.names(uint8(m.place.Load())) })
		if to.n < need {
			if p.moving {
				k.blocked++
			}
			return true
		}
	}
	next := stub{generation: s.generation}
	n := copy(next.donors[:], p.good)
	for i := range to.n {
		next.donors[n+i] = uint8(to.members[i].place.Load())
	}
	if need > 0 && !k.copyPage(key, s, o.Sum, p.sources, to) {
		for _, m := range to.members[:to.n] { // some may have it all the same
			m.flush(key, s.generation)
		}
		return true
	}
	vain := stub{generation: s.generation} // copies that count no more
	if done = k.replaceStub(e, ref, o, s, next); done {
		copy(vain.donors[:], p.bad)
		k.counts.repaired.Add(uint64(to.n))
	} else {
		copy(vain.donors[:], next.donors[n:n+to.n])
	}
	k.flush(key, vain)
	return true
}

// copyPage gives the sealed page that one of the sources has to the others.
func (k *keeper) copyPage(key backends.Key, s stub, sum uint32, sources []uint8, to choice) bool {
	if !k.fetchFrom(sources, key, s, sum) {
		return false
	}
	blob := k.waiter.blob[:k.waiter.length]
	all := true
	answers := make(chan bool, to.n)
	asked := 0
	for i := range to.n {
		if to.members[i].session.Put(key.Export, key.Page, s.generation, blob, answer(answers)) {
			asked++
		} else {
			all = false
		}
	}
	for range asked {
		select {
		case ok := <-answers:
			all = all && ok
		case <-k.ctx.Done():
			return false // what is there in vain is found by the next comparison
		}
	}
	k.pace(len(blob) * to.n)
	return all
}

// pace waits as long as moving so many bytes takes at the rate that is allowed.
func (k *keeper) pace(bytes int) {
	k.owed += time.Duration(bytes) * time.Second / time.Duration(k.config.Rate)
	if k.owed > 5*time.Millisecond {
		k.sleep(k.owed)
		k.owed = 0
	}
}

// answer is a [peer.Completion] for who waits.
type answer chan bool

// Done implements it.
func (a answer) Done(status wire.Status, err error) { a <- err == nil && status == wire.OK }
