package peer

import (
	"fmt"
	"net"
	"time"

	"github.com/tmemd/tmemd/backends/ramster/wire"
)

const (
	// inSize is how much one read takes at most, and holds any frame.
	inSize = 128 << 10
	// maxEvents is how many replies are matched while the lock is held.
	maxEvents = 64
)

// event is a reply that was matched, and what is to be called for it.
type event struct {
	done             Completion // or
	sink             Sink
	page, generation uint64
	blob             []byte // nil: no page
	status           wire.Status
	ended            bool // the fetch is complete
}

// read takes replies until the session is to end.
func (p *Peer) read(conn net.Conn) {
	have := 0
	for {
		n, err := conn.Read(p.in[have:])
		have += n
		used, bad := p.receive(p.in[:have])
		have = copy(p.in, p.in[used:have])
		if bad != nil {
			p.fail(bad)
			return
		}
		if err != nil {
			p.fail(fmt.Errorf("receive: %w", err))
			return
		}
	}
}

// receive takes all replies that are complete in b, and returns how many bytes they
// are. After an error b is of no more use.
func (p *Peer) receive(b []byte) (used int, err error) {
	now := p.now()
	for {
		p.mu.Lock()
		n := 0
		for n < maxEvents && err == nil {
			size, e := p.reply(b[used:], &p.events[n], now)
			if size == 0 && e == nil {
				break
			}
			used += size
			err = e
			if ev := &p.events[n]; ev.done != nil || ev.sink != nil {
				n++
			}
		}
		p.delivering = n > 0 && p.events[n-1].sink != nil && !p.events[n-1].ended
		if p.sendable() {
			p.wakeWriter()
		}
		partial, changed := p.delivering, p.changed
		p.mu.Unlock()

		if changed {
			p.wakeKeeper()
		}
		for i := range n {
			p.events[i].deliver()
			p.events[i] = event{} // nothing is kept alive by it
		}
		if partial {
			p.delivered()
		}
		if n < maxEvents || err != nil {
			return used, err
		}
	}
}

func (e *event) deliver() {
	if e.done != nil {
		e.done.Done(e.status, nil)
		return
	}
	if e.blob != nil {
		e.sink.Page(e.page, e.generation, e.blob)
	}
	if e.ended {
		e.sink.Ended(nil)
	}
}

// delivered ends the oldest fetch, of which some pages were delivered now, if that was put off.
func (p *Peer) delivered() {
	p.mu.Lock()
	p.delivering = false
	var sink Sink
	if f := p.fetches.at(p.fetches.head); f.late {
		sink, f.sink, f.late = f.sink, nil, false
	}
	p.mu.Unlock()
	if sink != nil {
		sink.Ended(ErrDeadline)
	}
}

// reply matches the first reply in b, with mu. 0 bytes: it is not complete.
func (p *Peer) reply(b []byte, e *event, now time.Duration) (size int, err error) {
	*e = event{}
	if len(b) < wire.ReplySize {
		return 0, nil
	}
	r, err := wire.DecodeReply(b)
	if err != nil {
		p.stats.ProtocolErrors++
		return 0, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	size = wire.ReplySize + int(r.Length)
	if size > len(b) {
		return 0, nil
	}
	p.stats.BytesIn += uint64(size)
	payload := b[wire.ReplySize:size:size]
	if !p.expected(r, payload) {
		p.stats.ProtocolErrors++
		return size, fmt.Errorf("%w: a reply to request %d, %v, of %v is not the next one due", ErrProtocol, r.Number, r.Operation, r.Status)
	}
	if r.Flags&wire.WantsBack != 0 || r.Operation == wire.Put && (r.Status == wire.Full || r.Status == wire.Frozen) {
		p.ask(now)
	}
	p.answered(r, payload, e, now)
	if r.Status.Ends() {
		return size, refusal{r.Operation, r.Status}
	}
	return size, nil
}

// expected says whether a reply is the next one due (P2), with mu.
func (p *Peer) expected(r wire.Reply, payload []byte) bool {
	if p.due.len() == 0 || r.Number != p.number-p.due.len() || r.Operation != p.due.first().operation || !answers(r.Operation, r.Status) {
		return false
	}
	if r.Status.Ends() {
		return true
	}
	switch r.Operation {
	case wire.Get:
		f := p.fetches.at(p.fetches.head)
		return r.Page == f.first+uint64(f.got) && (r.Flags&wire.More != 0) == (f.got+1 < f.count)
	case wire.List:
		return r.Status != wire.OK || p.list.expected(r, payload)
	}
	return true
}

// answers says whether the operation may end so.
func answers(o wire.Operation, s wire.Status) bool {
	if s == wire.OK || s.Ends() {
		return true
	}
	switch o {
	case wire.Put:
		return s == wire.Stale || s == wire.Full || s == wire.Frozen || s == wire.Gone
	case wire.Get, wire.Flush, wire.FlushObject:
		return s == wire.None || s == wire.Gone
	case wire.Pool:
		return s == wire.Full
	case wire.Destroy, wire.List:
		return s == wire.Gone
	}
	return false
}

// answered takes a reply for what it is, with mu.
func (p *Peer) answered(r wire.Reply, payload []byte, e *event, now time.Duration) {
	sent := p.due.first().sent
	p.answeredAt = now
	last := r.Flags&wire.More == 0
	if last {
		p.due.head++
		p.stats.RoundTrips++
		average(&p.stats.RoundTrip, now-sent)
	}
	began := sent
	switch r.Operation {
	case wire.Get:
		f := p.fetches.at(p.fetches.head)
		began = f.issued
		f.got++
		if r.Status == wire.OK {
			p.stats.PagesFetched++
		}
		if f.sink != nil && !r.Status.Ends() {
			e.sink, e.ended = f.sink, last
			if r.Status == wire.OK {
				e.blob, e.page, e.generation = payload, r.Page, r.Generation
			}
			if e.blob == nil && !last {
				e.sink = nil // nothing to call
			}
		}
		if last && !r.Status.Ends() {
			average(&p.stats.Latency, now-f.issued)
			p.fetches.answered()
		}
	case wire.Stats:
		p.asking = notAsked
		if r.Status == wire.OK {
			p.setRoom(wire.DecodeRoom(payload))
		}
	case wire.List:
		p.list.answer(r, payload)
		p.endList()
	default:
		if r.Operation == wire.Pool && r.Status != wire.OK {
			p.stats.PoolsRefused++
		}
		if r.Operation == wire.Pool && p.remade > 0 {
			p.remade-- // these came before all others
			break
		}
		m := p.backlog.answered()
		if r.Operation == wire.Put {
			p.stats.Puts[r.Status]++
		}
		e.done, e.status = m.done, r.Status
	}
	if last && now-began <= p.config.Deadline {
		p.strikes = 0
	}
}

// refusal is a reply that ends the connection.
type refusal struct {
	operation wire.Operation
	status    wire.Status
}

func (r refusal) Error() string {
	return fmt.Sprintf("the donor answers %v to %v", r.status, r.operation)
}
