package peer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/tmemd/tmemd/backends/ramster/wire"
)

const (
	dialTimeout = 5 * time.Second
	// The pauses between attempts: doubling from the first to the last, and one for
	// what takes an operator to mend.
	firstPause   = 100 * time.Millisecond
	lastPause    = 5 * time.Second
	refusedPause = 30 * time.Second
	// steady is how long a session stands that is worth a new one at once.
	steady = time.Second
)

// errRefusedDonor wraps what Watcher.Up said.
var errRefusedDonor = errors.New("the donor is not used")

// keep makes session after session until Close. It is the keeper.
func (p *Peer) keep() {
	var pause time.Duration
	var complained string
	for {
		stood, err := p.session()
		if p.ctx.Err() != nil {
			break
		}
		if stood > 0 {
			complained = ""
		}
		// A donor that is away for a day is one line.
		if text := err.Error(); text != complained {
			complained = text
			p.complain(err)
		}
		if stood >= steady {
			pause = 0
		}
		wait := pause
		if refused(err) {
			wait = refusedPause
		}
		pause = min(max(2*pause, firstPause), lastPause)
		select {
		case <-p.ctx.Done():
		case <-time.After(wait*3/4 + rand.N(wait/2+1)):
		}
	}
	p.mu.Lock()
	waiting := p.backlog.abandon()
	p.mu.Unlock()
	complete(waiting, ErrClosed)
}

// refused says whether trying again soon is of no use. A donor that denies something
// in the middle of a session says with the next HELLO whether it means all.
func refused(err error) bool {
	var r refusal
	return errors.Is(err, errRefusedDonor) ||
		errors.As(err, &r) && r.operation == wire.Hello && (r.status == wire.Denied || r.status == wire.Version)
}

func (p *Peer) complain(err error) {
	var r refusal
	switch {
	case errors.As(err, &r) && r.status == wire.Denied:
		p.log.Error("the donor lets us in no more: it must list this host as a client, with this certificate", "error", err)
	case errors.As(err, &r) && r.status == wire.Version:
		p.log.Error("the donor speaks another version of the protocol: upgrade the older side", "error", err)
	case errors.Is(err, errRefusedDonor):
		p.log.Error("the donor is not the one that it was: remove it, and add it again", "error", err)
	default:
		p.log.Warn("the donor is down", "error", err)
	}
}

// session makes one, and returns when it has ended: how long it stood, and why it
// ended.
func (p *Peer) session() (stood time.Duration, err error) {
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.setState(Open)
		p.conn = nil
		if stood == 0 {
			p.stats.Failures++
		}
	}()
	ctx, cancel := context.WithTimeout(p.ctx, dialTimeout)
	conn, err := p.config.Dial(ctx)
	cancel()
	if err != nil {
		return 0, fmt.Errorf("connect: %w", err)
	}
	defer cut(conn)
	p.mu.Lock()
	p.conn, p.cause, p.number = conn, nil, 1
	closed := p.State() == Closed
	p.mu.Unlock()
	if closed {
		return 0, ErrClosed
	}
	donor, room, err := p.greet(conn)
	if err != nil {
		return 0, err
	}
	if err := p.config.Watcher.Up(donor); err != nil {
		return 0, fmt.Errorf("%w: %w", errRefusedDonor, err)
	}
	began := p.now()
	p.begin(room)
	p.log.Info("the donor is up", "identity", fmt.Sprintf("%x", donor.Identity), "epoch", fmt.Sprintf("%x", donor.Epoch))
	var both sync.WaitGroup
	both.Go(func() { p.write(conn) })
	both.Go(func() { p.read(conn) })
	p.serve()
	both.Wait()
	err = p.end()
	p.config.Watcher.Down(err)
	return max(p.now()-began, 1), err
}

// cut closes a connection without a word of good-bye, which crypto/tls takes up to
// 5 seconds to say.
func cut(conn net.Conn) {
	if c, encrypted := conn.(interface{ NetConn() net.Conn }); encrypted {
		c.NetConn().Close()
	}
	conn.Close()
}

// fail ends the session, if there is one: its goroutines return, and the keeper does
// the rest.
func (p *Peer) fail(cause error) {
	p.mu.Lock()
	conn := p.conn
	if p.cause == nil {
		p.cause = cause
		p.setState(Open)
	}
	p.waiting.Broadcast()
	p.mu.Unlock()
	if conn != nil {
		cut(conn)
	}
	p.wakeKeeper()
}

// greet begins the session on the wire.
func (p *Peer) greet(conn net.Conn) (donor wire.Party, room wire.Room, err error) {
	hello := make([]byte, wire.HelloSize)
	p.config.Owner.EncodeHello(hello)
	answer, err := p.exchange(conn, wire.Request{Operation: wire.Hello, Generation: p.config.Session(), Length: wire.HelloSize}, hello)
	if err != nil {
		return donor, room, fmt.Errorf("hello: %w", err)
	}
	donor = wire.DecodeWelcome(answer)
	if answer, err = p.exchange(conn, wire.Request{Operation: wire.Stats}, nil); err != nil {
		return donor, room, fmt.Errorf("stats: %w", err)
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return donor, room, fmt.Errorf("take the deadline off the connection: %w", err)
	}
	return donor, wire.DecodeRoom(answer), nil
}

// exchange sends a request and waits for the answer to it.
func (p *Peer) exchange(conn net.Conn, r wire.Request, payload []byte) (answer []byte, err error) {
	if err := conn.SetDeadline(time.Now().Add(p.config.Deadline)); err != nil {
		return nil, fmt.Errorf("set a deadline: %w", err)
	}
	p.mu.Lock()
	r.Number = p.number
	p.number++
	p.mu.Unlock()
	r.Encode(p.out[:wire.RequestSize])
	if _, err := conn.Write(append(p.out[:wire.RequestSize], payload...)); err != nil {
		return nil, fmt.Errorf("send: %w", err)
	}
	if _, err := io.ReadFull(conn, p.in[:wire.ReplySize]); err != nil {
		return nil, fmt.Errorf("receive: %w", err)
	}
	reply, err := wire.DecodeReply(p.in)
	if err == nil && (reply.Number != r.Number || reply.Operation != r.Operation || !answers(r.Operation, reply.Status)) {
		err = fmt.Errorf("a reply to request %d, %v, is not the one due", reply.Number, reply.Operation)
	}
	if err != nil {
		p.mu.Lock()
		p.stats.ProtocolErrors++
		p.mu.Unlock()
		return nil, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	if reply.Status.Ends() {
		return nil, refusal{r.Operation, reply.Status}
	}
	answer = p.in[:reply.Length]
	if _, err := io.ReadFull(conn, answer); err != nil {
		return nil, fmt.Errorf("receive: %w", err)
	}
	return answer, nil
}

// begin makes the session stand.
func (p *Peer) begin(room wire.Room) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.setState(Up)
	p.stats.Sessions++
	now := p.now()
	p.setRoom(room)
	p.changed = true
	p.asking, p.askedAt = notAsked, now
	p.answeredAt, p.strikes = now, 0
	p.remake = p.remake[:0]
	for pool, ephemeral := range p.pools {
		if !p.backlog.concerns(pool) {
			p.remake = append(p.remake, poolRequest(pool, ephemeral))
		}
	}
	slices.SortFunc(p.remake, func(a, b wire.Request) int { return int(a.Pool) - int(b.Pool) })
	p.remade = len(p.remake)
}

// serve is the keeper while the session stands.
func (p *Peer) serve() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			timer.Reset(p.look())
		case <-p.nudge:
		}
		p.mu.Lock()
		changed, ended := p.changed, p.cause != nil
		p.changed = false
		p.mu.Unlock()
		if changed {
			p.config.Watcher.Changed()
		}
		if ended {
			return
		}
	}
}

// end clears up behind a session, of which no goroutine runs any more: fetches end,
// mutations wait.
func (p *Peer) end() (cause error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.fetches.head < p.fetches.tail {
		f := p.fetches.at(p.fetches.head)
		sink := f.sink
		*f = fetch{}
		p.fetches.head++
		if sink != nil {
			p.mu.Unlock()
			sink.Ended(ErrDown)
			p.mu.Lock()
		}
	}
	p.fetches.sent = p.fetches.head
	p.due.head = p.due.tail
	p.backlog.rewind()
	p.breakList()
	return p.cause
}
