package peer

import (
	"time"

	"github.com/tmemd/tmemd/backends/ramster/wire"
)

// maxFetches is how many fetches may be under way: their frames are two thirds of what the
// writer sends at a time, so that they cannot keep mutations waiting for ever.
const maxFetches = 1024

// fetch is a run of pages that is under way.
type fetch struct {
	sink    Sink // nil: Ended was called
	first   uint64
	issued  time.Duration
	pool    uint32
	count   uint16
	got     uint16 // replies
	late    bool   // to be ended when its pages are delivered; see Peer.delivering
	skipped bool   // it had ended before it was sent, and never was
}

// fetches has those that wait for being sent, or for an answer: in order, as backlog.
type fetches struct {
	slots            []fetch
	head, sent, tail uint64
}

func newFetches() fetches { return fetches{slots: make([]fetch, maxFetches)} }

func (f *fetches) at(i uint64) *fetch { return &f.slots[i%maxFetches] }

func (f *fetches) full() bool { return f.tail-f.head == maxFetches }

func (f *fetches) add(g fetch) {
	*f.at(f.tail) = g
	f.tail++
}

// next returns the first fetch that is to be sent, and nil if there is none.
func (f *fetches) next() *fetch {
	for f.sent < f.tail {
		g := f.at(f.sent)
		f.sent++
		if g.sink != nil {
			return g
		}
		g.skipped = true
		f.skip() // if it is the oldest, nothing else takes it away
	}
	return nil
}

// answered takes away the oldest.
func (f *fetches) answered() {
	*f.at(f.head) = fetch{}
	f.head++
	f.skip()
}

// skip takes away those that were never sent, so that the oldest is the one that the
// donor answers next.
func (f *fetches) skip() {
	for f.head < f.sent && f.at(f.head).skipped {
		*f.at(f.head) = fetch{}
		f.head++
	}
}

// due is what the donor has to answer, in order.
type due struct {
	entries    []dueEntry
	head, tail uint64
}

type dueEntry struct {
	sent      time.Duration
	operation wire.Operation
}

func newDue(most int) due { return due{entries: make([]dueEntry, most)} }

func (d *due) len() uint64 { return d.tail - d.head }

// full says that nothing more can be sent now: only pools can bring that about.
func (d *due) full() bool { return d.len() == uint64(len(d.entries)) }

func (d *due) add(e dueEntry) {
	d.entries[d.tail%uint64(len(d.entries))] = e
	d.tail++
}

// first is the next to be answered; there is one.
func (d *due) first() dueEntry { return d.entries[d.head%uint64(len(d.entries))] }
