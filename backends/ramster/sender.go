package ramster

import (
	"errors"
	"time"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/ramster/wire"
)

const (
	// crowd is how many pages wait at least while there is no pause.
	crowd = 64
	// busyPause is how long a page in use is left alone.
	busyPause = time.Millisecond
	// fullPause is how long a donor that refused a page gets no other.
	fullPause = 2 * time.Second
	// choicePause is how long the sender waits for donors at most, before it looks
	// whether the page is still there.
	choicePause = 200 * time.Millisecond
)

// send sends staged pages to donors.
func (b *background) send() {
	s := &sender{background: b}
	for {
		select {
		case <-b.ctx.Done():
			return
		case page := <-b.staged:
			if s.send(page) {
				continue
			}
			s.restage(page)
			// The first page of a burst is still locked by who stored it; behind many
			// others it is not any more when it comes again.
			if len(s.staged) < crowd && !s.sleep(busyPause) {
				return
			}
		}
	}
}

// sender is the working memory of the goroutine that sends: one, so that a staged page
// is on its way once.
type sender struct {
	*background
	seal seal
}

// restage puts a page back into the queue. The queue may be full of pages that came
// meanwhile; then one is lost from it, but not from the area, and the keeper finds it.
func (c *Cache) restage(page staged) {
	select {
	case c.staged <- page:
	default:
		c.forgotten.Store(true)
	}
}

// send sends a page, or leaves it for later if it is in use: then it returns false.
func (s *sender) send(page staged) bool {
	to, ok := s.donorsFor(page)
	if !ok {
		return true // gone, or under way
	}
	if to.n < s.config.Copies {
		return false // the background ends
	}
	var f *flight
	select {
	case f = <-s.flights.idle:
	case <-s.ctx.Done():
		return false
	}
	f.staged, f.prepared, f.made, f.seal = page, false, false, &s.seal
	s.host.Rehandle(page.key, backends.Handle(page.ref), f.prepareCall)
	if !f.prepared {
		s.flights.idle <- f
		return !s.isWaiting(page)
	}
	f.copies = to.n
	f.waiting.Store(int32(to.n))
	for i := range to.n {
		m := to.members[i]
		f.places[i], f.done[i].member = uint8(m.place.Load()), m
		f.turns[i] = s.members.turns[f.places[i]].Load()
	}
	for i := range to.n {
		if !to.members[i].session.Put(page.key.Export, page.key.Page, f.generation, f.blob, &f.done[i]) {
			f.done[i].Done(wire.Full, errNoRoom)
		}
	}
	s.counts.sent.Add(1)
	return true
}

// isWaiting says whether a page is in the staging area and not on its way.
func (c *Cache) isWaiting(page staged) bool {
	o, ok := c.arena.Snapshot(page.ref, nil)
	return ok && o.Export == page.key.Export && o.Page == page.key.Page && isStaged(o) && !c.flights.has(page.ref)
}

// donorsFor waits until there are enough donors for the page. It returns false if the
// page does not wait to be sent any more.
func (s *sender) donorsFor(page staged) (to choice, ok bool) {
	for {
		if !s.isWaiting(page) {
			return to, false
		}
		changed := s.changed.wait()
		if to = s.choose(page.key, s.config.Copies, nil); to.n >= s.config.Copies {
			return to, true
		}
		timer := time.NewTimer(choicePause)
		select {
		case <-changed:
		case <-timer.C:
		case <-s.ctx.Done():
			timer.Stop()
			return choice{}, true
		}
		timer.Stop()
	}
}

// land makes stubs of pages that donors have, and has the others sent again.
func (b *background) land() {
	var busy []*flight // finished, but for the page's lock
	for {
		var again <-chan time.Time
		if len(busy) > 0 {
			again = time.After(busyPause)
		}
		select {
		case <-b.ctx.Done():
			for _, f := range busy {
				b.flights.landed <- f
			}
			return
		case f := <-b.flights.landed:
			if !b.finish(f) {
				busy = append(busy, f)
			}
		case <-again:
			rest := busy[:0]
			for _, f := range busy {
				if !b.finish(f) {
					rest = append(rest, f)
				}
			}
			busy = rest
		}
	}
}

// finish ends a flight, and returns false if the page is in use.
func (b *background) finish(f *flight) bool {
	landed := 0
	for i := range f.copies {
		switch {
		case f.landedAt(i):
			landed++
		case f.done[i].err == nil && f.done[i].status != wire.OK && !b.flights.isDropped(f):
			// Stale and Gone make no sense here: without a pause this would go on at full speed.
			f.done[i].member.fullTo.Store(time.Now().Add(fullPause).UnixNano())
		case f.done[i].err != nil && f.done[i].err != errNoRoom:
			f.done[i].member.debt.Store(true) // it may have the page all the same
		}
	}
	if landed < b.config.Copies {
		b.giveUp(f, true)
		return true
	}
	f.made = false
	if b.host.Rehandle(f.key, backends.Handle(f.ref), f.finishCall) {
		// Out of the air first: once it is free, the name may be another page's.
		b.flights.leave(f)
		b.forgetStaged(f.ref, f.length)
		b.flights.end(f)
		return true
	}
	if f.made { // a host that changed its mind
		b.charge(f.key.Export, b.arena.SizeOf(f.ref)-b.arena.SizeOf(f.to))
		b.dropStub(f)
	}
	if b.flights.isDropped(f) {
		b.giveUp(f, false)
		return true
	}
	return false
}

// giveUp ends a flight without a stub: the donors that have the page forget it, and
// if it is still there it is sent again.
func (b *background) giveUp(f *flight, again bool) {
	for i := range f.copies {
		if f.done[i].err == nil && f.done[i].status == wire.OK {
			// Whatever its place means now: the member is who has it.
			f.done[i].member.flush(f.key, f.generation)
		}
	}
	page := f.staged
	again = again && !b.flights.isDropped(f)
	b.flights.end(f)
	if again {
		b.counts.sentAgain.Add(1)
		b.restage(page)
	}
}

// dropStub takes back what finish made.
func (b *background) dropStub(f *flight) {
	o, ok := b.arena.Get(f.to)
	if s, remote := decodeStub(o); ok && remote {
		b.unlinkStub(f.key, f.to, s)
	}
}

// leave takes a flight out of the air.
func (fs *flights) leave(f *flight) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.air[f.ref] == f {
		delete(fs.air, f.ref)
	}
}

// end makes a flight idle.
func (fs *flights) end(f *flight) {
	fs.leave(f)
	for i := range f.done {
		f.done[i].member, f.done[i].err = nil, nil
	}
	fs.idle <- f
}

func (fs *flights) isDropped(f *flight) bool {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return f.dropped
}

// errNoRoom is for a donor whose session took no page.
var errNoRoom = errors.New("the session has no room")
