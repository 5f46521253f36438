package ramster

import (
	"sync"
	"sync/atomic"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/arena"
	"github.com/tmemd/tmemd/backends/ramster/wire"
)

const (
	// maxFlights bounds the pages that were sent and not answered yet.
	maxFlights = 512
	// backlog is what a session keeps until it is answered, in bytes: all flights, even
	// of pages that do not compress, those of ephemeral pages, and as much as the first again for
	// what is flushed.
	backlog = (2*maxFlights + maxFlying) * (wire.MaxBlob + wire.RequestSize)
)

// flight is a staged page on its way to donors.
//
//	state     | left by
//	idle      | the sender takes it from flights.idle
//	prepared  | prepare, under the page's lock: it has a generation and a sealed copy
//	in flight | the last donor's answer, which puts it into flights.landed
//	landed    | finish, under the page's lock: a stub takes the staged page's place; or it is given up
//
// It belongs to whoever moves it from one state to the next; dropped alone may be
// set by others.
type flight struct {
	cache *Cache // immutable

	staged
	object     arena.Object // of the staged page, without data
	length     int          // of its data
	generation uint64
	places     [MaxCopies]uint8
	turns      [MaxCopies]uint32 // see members
	copies     int
	blob       []byte // the sender's; dead once it was handed to the sessions
	prepared   bool

	waiting atomic.Int32 // answers that are not there yet
	done    [MaxCopies]landing
	dropped bool // the page was invalidated, or stored anew, meanwhile; guarded by flights.mu
	to      arena.Ref
	made    bool
	seal    *seal // the sender's, for prepare

	// prepareCall and finishCall are methods as values: a new function for each page
	// would be garbage.
	prepareCall, finishCall func() (backends.Handle, bool)
}

// landing is one donor's answer to a flight.
type landing struct {
	flight *flight // immutable
	member *member
	status wire.Status
	err    error
}

// Done implements [peer.Completion].
func (l *landing) Done(status wire.Status, err error) {
	l.status, l.err = status, err
	if l.flight.waiting.Add(-1) == 0 {
		l.flight.cache.flights.landed <- l.flight // has room for all
	}
}

// flights is all of them.
type flights struct {
	idle   chan *flight
	landed chan *flight

	mu  sync.Mutex
	air map[arena.Ref]*flight // prepared and not finished; guarded by mu
}

func (fs *flights) init(c *Cache) {
	fs.idle, fs.landed = make(chan *flight, maxFlights), make(chan *flight, maxFlights)
	fs.air = make(map[arena.Ref]*flight, maxFlights)
	for range maxFlights {
		f := &flight{cache: c}
		f.prepareCall, f.finishCall = f.prepare, f.finish
		for i := range f.done {
			f.done[i].flight = f
		}
		fs.idle <- f
	}
}

// drop says that the staged page is not the newest version of its page any more.
// REQUIRES: the page's lock, so that it does not overlap with prepare or finish.
func (fs *flights) drop(ref arena.Ref) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f := fs.air[ref]; f != nil {
		f.dropped = true
		delete(fs.air, ref)
	}
}

// has says whether the staged page is on its way.
func (fs *flights) has(ref arena.Ref) bool {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return fs.air[ref] != nil
}

// carry says whether a version of a page is on its way, of that generation or an earlier one.
func (fs *flights) carry(key backends.Key, generation uint64) bool {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for _, f := range fs.air {
		if f.key == key && f.generation <= generation {
			return true
		}
	}
	return false
}

// prepare seals the page. The host calls it, under the page's lock, when the page
// has the handle: so the version is the newest, and generations are in the order of
// versions (R3).
func (f *flight) prepare() (backends.Handle, bool) {
	o, ok := f.cache.arena.Get(f.ref)
	if !ok || o.Export != f.key.Export || o.Page != f.key.Page || !isStaged(o) {
		return 0, false
	}
	f.generation = f.cache.ledger.next()
	f.blob = f.cache.sealer.seal(f.seal, o, f.generation)
	f.length = len(o.Data)
	f.object, f.object.Data = o, nil
	f.dropped, f.prepared = false, true
	fs := &f.cache.flights
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.air[f.ref] = f
	return 0, false // the handle stays
}

// finish makes a stub of the page. The host calls it as prepare.
func (f *flight) finish() (backends.Handle, bool) {
	fs := &f.cache.flights
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f.dropped {
		return 0, false
	}
	s := stub{generation: f.generation}
	n := 0
	for i := range f.copies {
		if f.landedAt(i) {
			s.donors[n] = f.places[i]
			n++
		}
	}
	if n < f.cache.config.Copies {
		return 0, false // a donor lost what it had since it answered
	}
	f.to, f.made = f.cache.putStub(f.object, s)
	if f.made {
		f.cache.charge(f.key.Export, f.cache.arena.SizeOf(f.to)-f.cache.arena.SizeOf(f.ref))
	}
	return backends.Handle(f.to), f.made
}

// landedAt says whether a donor has the page now.
func (f *flight) landedAt(i int) bool {
	return f.done[i].err == nil && f.done[i].status == wire.OK && f.cache.isBelieved(f.places[i]) &&
		f.turns[i] == f.cache.members.turns[f.places[i]].Load()
}

// isBelieved says whether what a place was given is there, as far as we know.
func (c *Cache) isBelieved(n uint8) bool {
	state := placeState(c.members.states[n].Load())
	return n != 0 && (state == placeMember || state == placeLeaving)
}
