package peer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tmemd/tmemd/backends/ramster/wire"
	"github.com/tmemd/tmemd/backends/sharedmem"
)

const (
	// DefaultDeadline and DefaultBacklog are what Config means by 0.
	DefaultDeadline = 500 * time.Millisecond
	DefaultBacklog  = 1 << 20

	minBacklog = 64 << 10
	maxBacklog = 1 << 30
)

// Errors that callers tell apart.
var (
	ErrDown      = errors.New("the donor is down")
	ErrBusy      = fmt.Errorf("too many requests are in flight: %w", ErrDown)
	ErrDeadline  = errors.New("the donor did not answer in time")
	ErrAbandoned = errors.New("given up on this donor")
	ErrClosed    = errors.New("closed")
	ErrProtocol  = errors.New("the donor broke the protocol")
)

// Config is how a donor is reached.
type Config struct {
	Name string // for logs
	// Dial connects; if with TLS, its handshake is done. It ends with its context.
	Dial  func(context.Context) (net.Conn, error)
	Owner wire.Party
	// Session returns the number of the next session, which it never returned before.
	Session  func() uint64
	Deadline time.Duration // for the answer to one request; 0: DefaultDeadline
	Backlog  int           // bytes of puts that wait or are not answered; 0: DefaultBacklog
	Watcher  Watcher       // nil: nobody
	Log      *slog.Logger  // nil: none
}

// Watcher is told what becomes of the donor, see the package's comment. It must not block.
type Watcher interface {
	// Up says who is there. With an error the session ends, and is tried again slowly.
	Up(donor wire.Party) error
	Down(err error)
	Changed() // Room is noticeably another
}

// Completion is told how a put ended: by a reply (err is nil), ErrAbandoned or
// ErrClosed. It must not block.
type Completion interface {
	Done(status wire.Status, err error)
}

// Sink takes what a Fetch brings. It must not block.
type Sink interface {
	// Page is called for each page that the donor says it has. The blob is what came, not
	// verified, and dead afterwards.
	Page(page, generation uint64, blob []byte)
	// Ended comes last: nil, ErrDeadline or ErrDown.
	Ended(err error)
}

// State is whether the donor can be used.
type State uint32

// The states, see the package's comment.
const (
	Connecting State = iota
	Up
	Open
	Closed
)

// String names the state as logs and metrics do.
func (s State) String() string {
	switch s {
	case Connecting:
		return "connecting"
	case Up:
		return "up"
	case Open:
		return "open"
	case Closed:
		return "closed"
	}
	return fmt.Sprintf("state %d", uint32(s))
}

// Peer is one donor. Its methods may be called from any goroutine.
type Peer struct {
	config   Config            // immutable
	log      *slog.Logger      // immutable
	memory   *sharedmem.Region // immutable; of what follows the backlog has its part
	out      []byte            // the writer's
	in       []byte            // the reader's, and the keeper's while there is none
	start    time.Time         // immutable; times below are since
	ctx      context.Context   // immutable; ends with Close
	cancel   context.CancelFunc
	nudge    chan struct{} // wakes the keeper
	listing  chan struct{} // held by the one List that is under way
	listed   chan struct{} // its answer is there
	state    atomic.Uint32 // State; written with mu
	room     atomic.Pointer[wire.Room]
	work     sync.WaitGroup // keeper, and goroutines of Abandon; added to with mu, unless Closed
	closing  sync.Once
	closeErr error // of Close

	mu      sync.Mutex
	waiting sync.Cond // the writer, for something to send
	idle    bool      // it waits
	backlog backlog
	fetches fetches
	due     due
	pools   map[uint32]bool // open ones, and whether they are ephemeral
	list    list
	changed bool // the Watcher is to be told
	stats   Stats

	// What follows is the session's, and means nothing without one.
	conn       net.Conn       // nil: there is none
	cause      error          // it is to end
	number     uint64         // of the next request
	remake     []wire.Request // pools to make before anything else
	remade     int            // how many of them are not answered
	asking     asking         // for STATS
	askedAt    time.Duration
	answeredAt time.Duration // something was
	struckAt   time.Duration
	strikes    int
	delivering bool // the reader has pages of the oldest fetch that it did not deliver yet

	events [maxEvents]event // the reader's
}

// asking is how far a STATS is.
type asking uint8

const (
	notAsked asking = iota
	toAsk
	asked
)

// New makes a peer, which begins to connect.
func New(c Config) (*Peer, error) {
	if c.Dial == nil || c.Session == nil {
		return nil, fmt.Errorf("donor %q: Dial and Session are needed", c.Name)
	}
	if c.Deadline == 0 {
		c.Deadline = DefaultDeadline
	}
	if c.Backlog == 0 {
		c.Backlog = DefaultBacklog
	}
	if c.Deadline < 0 || c.Backlog < minBacklog || c.Backlog > maxBacklog {
		return nil, fmt.Errorf("donor %q: a deadline of %v and a backlog of %d bytes are out of bounds", c.Name, c.Deadline, c.Backlog)
	}
	if c.Watcher == nil {
		c.Watcher = nobody{}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	memory, err := sharedmem.NewPrivate("ramster backlog", int64(c.Backlog)+outSize+inSize)
	if err != nil {
		return nil, fmt.Errorf("donor %q: %w", c.Name, err)
	}
	b := memory.Bytes()
	p := &Peer{
		config:  c,
		log:     c.Log.With("donor", c.Name),
		memory:  memory,
		out:     b[:outSize:outSize],
		in:      b[outSize : outSize+inSize : outSize+inSize],
		start:   time.Now(),
		nudge:   make(chan struct{}, 1),
		listing: make(chan struct{}, 1),
		listed:  make(chan struct{}, 1),
		backlog: newBacklog(b[outSize+inSize:]),
		fetches: newFetches(),
		pools:   map[uint32]bool{},
	}
	p.due = newDue(len(p.backlog.mutations) + len(p.fetches.slots) + 2)
	p.waiting.L = &p.mu
	p.room.Store(&wire.Room{})
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.work.Go(p.keep)
	return p, nil
}

type nobody struct{}

func (nobody) Up(wire.Party) error { return nil }
func (nobody) Down(error)          {}
func (nobody) Changed()            {}

// Close ends the session and everything that waits, and returns when no call to
// Watcher, Sink or Completion is under way or comes any more.
func (p *Peer) Close() error {
	p.closing.Do(func() {
		p.mu.Lock()
		p.setState(Closed)
		p.mu.Unlock()
		p.cancel()
		p.fail(ErrClosed)
		p.work.Wait()
		p.closeErr = p.memory.Close()
	})
	return p.closeErr
}

// State is whether the donor can be used.
func (p *Peer) State() State { return State(p.state.Load()) }

// setState changes the state, with mu. Closed is for good.
func (p *Peer) setState(s State) {
	if p.State() != Closed {
		p.state.Store(uint32(s))
	}
}

// Room is what the donor last said. It takes no lock.
func (p *Peer) Room() wire.Room { return *p.room.Load() }

func (p *Peer) now() time.Duration { return time.Since(p.start) }

// wakeKeeper lets the keeper look what there is.
func (p *Peer) wakeKeeper() {
	select {
	case p.nudge <- struct{}{}:
	default:
	}
}

// wakeWriter tells the writer that there is something to send, with mu.
func (p *Peer) wakeWriter() {
	if p.idle {
		p.idle = false
		p.waiting.Signal()
	}
}
