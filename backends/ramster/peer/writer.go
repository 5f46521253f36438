package peer

import (
	"fmt"
	"net"
	"runtime"

	"github.com/tmemd/tmemd/backends/ramster/wire"
)

// outSize is how much one write sends at most.
const outSize = 64 << 10

// write sends what there is to send until the session is to end.
func (p *Peer) write(conn net.Conn) {
	for {
		p.mu.Lock()
		for p.cause == nil && !p.sendable() {
			p.idle = true
			p.waiting.Wait()
			// A reply wakes many, who ask anew. Whoever is the first wakes the writer, which
			// would run next and send one request: let the others be heard. It makes
			// batches of 11 out of 2 with 16 callers, and twice the speed; a single
			// caller does not notice.
			p.mu.Unlock()
			runtime.Gosched()
			p.mu.Lock()
		}
		if p.cause != nil {
			p.mu.Unlock()
			return
		}
		// Copied, though the backlog stays where it is: a donor that answers what it has not
		// got yet would have a blob replaced while it is sent.
		batch := p.batch()
		p.mu.Unlock()
		if len(batch) == 0 {
			continue // what waited was fetches that had ended
		}
		if _, err := conn.Write(batch); err != nil {
			p.fail(fmt.Errorf("send: %w", err))
			return
		}
	}
}

// sendable says whether a batch would have anything in it, with mu.
func (p *Peer) sendable() bool {
	return !p.due.full() && (len(p.remake) > 0 || p.asking == toAsk || p.list.state == listWaits ||
		p.fetches.sent < p.fetches.tail || p.backlog.unsent())
}

// batch encodes what waits, up to outSize, with mu: gets before puts, for a page fault waits
// for the former. What does not fit keeps all that comes after it from being sent, so pools are
// made before they are used.
func (p *Peer) batch() []byte {
	w := batch{p: p, out: p.out[:0]}
	w.sent.sent = p.now()
	for len(p.remake) > 0 && w.fits(0) {
		w.add(p.remake[0], nil)
		p.remake = p.remake[1:]
	}
	if p.asking == toAsk && w.fits(0) {
		w.add(wire.Request{Operation: wire.Stats}, nil)
		p.asking, p.askedAt = asked, w.sent.sent
	}
	for w.fits(0) {
		f := p.fetches.next()
		if f == nil {
			break
		}
		w.add(wire.Request{Operation: wire.Get, Pool: f.pool, Page: f.first, Count: f.count}, nil)
	}
	if p.list.state == listWaits && w.fits(0) {
		w.add(p.list.request, nil)
		p.list.state = listSent
	}
	for p.backlog.unsent() {
		m := p.backlog.next()
		if !w.fits(int(m.request.Length)) {
			break
		}
		w.add(m.request, p.backlog.blob(m))
		p.backlog.sent++
	}
	if len(w.out) > 0 {
		p.stats.Writes++
		p.stats.BytesOut += uint64(len(w.out))
	}
	return w.out
}

// batch is one under construction.
type batch struct {
	p    *Peer
	out  []byte
	sent dueEntry
}

func (w *batch) fits(payload int) bool {
	return len(w.out)+wire.RequestSize+payload <= cap(w.out) && !w.p.due.full()
}

// add appends a frame, which fits, and gives it its number.
func (w *batch) add(r wire.Request, blob []byte) {
	r.Number = w.p.number
	w.p.number++
	w.sent.operation = r.Operation
	w.p.due.add(w.sent)
	n := len(w.out)
	w.out = w.out[:n+wire.RequestSize]
	r.Encode(w.out[n:])
	w.out = append(w.out, blob...)
}
