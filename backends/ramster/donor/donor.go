package donor

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tmemd/tmemd/backends/arena"
	"github.com/tmemd/tmemd/backends/pageindex"
	"github.com/tmemd/tmemd/backends/pressure"
	"github.com/tmemd/tmemd/backends/ramster/wire"
)

// Donor lends memory. All methods may be called from any goroutine; Close once.
type Donor struct {
	config Config     // immutable
	party  wire.Party // immutable
	arena  *arena.Arena
	index  *pageindex.Space
	ledger ledger // guarded by mu

	// pools is by place in the ledger. A pool is used with the stripe of the page
	// held that it is used for, or with evicting.
	pools   [maxPools]atomic.Pointer[pool]
	stripes [stripes]stripe

	frozen  atomic.Bool
	limit   atomic.Int64 // what pages and index may take now; written with sizing held
	most    atomic.Int64 // what limit may grow to; written with sizing held
	indexed atomic.Int64 // the part of limit that the arena was told is the index's
	sizing  sync.Mutex

	evicting   sync.Mutex // held by the one who drops ephemeral pages
	compacting sync.Mutex // held by the one who compacts

	mu          sync.Mutex
	clients     map[string]*client    // guarded by mu
	owners      map[ownerKey]*owner   // guarded by mu
	listeners   map[net.Listener]bool // guarded by mu
	connections map[*connection]bool  // guarded by mu
	closed      bool                  // guarded by mu
	serving     sync.WaitGroup        // connections' goroutines
	greeting    atomic.Int64          // connections without a session

	background sync.WaitGroup
	stop       context.CancelFunc
	roomAsked  chan struct{}
	sizer      pressure.Sizer

	requests     [wire.Stats + 1][wire.Bad + 1]atomic.Uint64
	evicted      atomic.Uint64
	droppable    atomic.Int64 // bytes of slots of ephemeral pages
	compacted    atomic.Uint64
	corrupt      atomic.Uint64
	denied       atomic.Uint64
	unidentified atomic.Uint64
}

const (
	arenaPurpose = "donor's arena"
	indexPurpose = "donor's index"
)

// New makes a donor without pages, of a new epoch.
func New(config Config) (*Donor, error) {
	config = config.withDefaults()
	if err := config.validate(); err != nil {
		return nil, fmt.Errorf("create the donor: %w", err)
	}
	party := wire.Party{Identity: config.Identity}
	if party.Identity == [16]byte{} {
		return nil, errors.New("create the donor: it has no identity")
	}
	_, _ = rand.Read(party.Epoch[:]) // never an error
	a, err := arena.Create(config.Memory, arenaPurpose, config.Limit, config.Capacity)
	if err != nil {
		return nil, fmt.Errorf("create the donor: %w", err)
	}
	ledger, err := createLedger(config.Memory, party)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("create the donor: %w", err), a.Close())
	}
	d, err := assemble(config, party, a, ledger)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("create the donor: %w", err), a.Close(), ledger.region.Close())
	}
	d.start()
	return d, nil
}

// assemble makes what the memory does not hold. The index has no limit of its own.
func assemble(config Config, party wire.Party, a *arena.Arena, l ledger) (*Donor, error) {
	capacity := a.Capacity()
	index, err := pageindex.NewSpace(indexPurpose, capacity, capacity)
	if err != nil {
		return nil, err
	}
	d := &Donor{
		config: config, party: party, arena: a, index: index, ledger: l,
		clients: make(map[string]*client), owners: make(map[ownerKey]*owner),
		listeners: make(map[net.Listener]bool), connections: make(map[*connection]bool),
		roomAsked: make(chan struct{}, 1),
	}
	d.sizer.Source = config.Pressure
	d.limit.Store(config.Limit)
	d.most.Store(config.Limit)
	d.grantLocked(config.Clients) // nobody else knows it
	return d, nil
}

func (d *Donor) start() {
	var ctx context.Context
	ctx, d.stop = context.WithCancel(context.Background())
	d.balance()
	d.background.Go(func() { d.keepRoom(ctx) })
	if d.config.SelfSizing {
		d.background.Go(func() { d.followPressure(ctx) })
	}
}

// Party is who the donor is, and since when.
func (d *Donor) Party() wire.Party { return d.party }

// Freeze refuses pages from now on; all else goes on. Thaw ends that. Neither outlives
// the process.
func (d *Donor) Freeze() { d.frozen.Store(true) }

// Thaw is the inverse of Freeze.
func (d *Donor) Thaw() { d.frozen.Store(false) }

// ErrClosed is what Serve returns after Close.
var ErrClosed = errors.New("the donor is closed")

// Serve serves clients that connect, until the listener fails or the donor is closed;
// it closes the listener. What it accepts is served until Close, however it ends.
func (d *Donor) Serve(listener net.Listener) error {
	defer listener.Close()
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return ErrClosed
	}
	d.listeners[listener] = true
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		delete(d.listeners, listener)
		d.mu.Unlock()
	}()
	for pause := time.Duration(0); ; {
		conn, err := listener.Accept()
		if err == nil {
			pause = 0
			d.serve(conn)
			continue
		}
		d.mu.Lock()
		closed := d.closed
		d.mu.Unlock()
		if closed {
			return ErrClosed
		}
		var temporary interface{ Temporary() bool }
		if !errors.As(err, &temporary) || !temporary.Temporary() {
			return fmt.Errorf("accept an owner's connection: %w", err)
		}
		// Out of descriptors, as a rule: it passes.
		pause = min(max(2*pause, 5*time.Millisecond), time.Second)
		time.Sleep(pause)
	}
}

// serve gives a connection a goroutine of its own, if there are not too many.
func (d *Donor) serve(conn net.Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed || d.greeting.Load() >= maxGreeting {
		conn.Close()
		return
	}
	c := &connection{donor: d, conn: conn, done: make(chan struct{})}
	d.greeting.Add(1)
	d.connections[c] = true
	d.serving.Go(func() {
		c.run()
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.connections, c)
	})
}

// Close ends all sessions and gives the memory back, or leaves it to another process if
// its folder is left. Calls of Serve return.
func (d *Donor) Close() error {
	d.mu.Lock()
	d.closed = true
	for l := range d.listeners {
		l.Close()
	}
	for c := range d.connections {
		c.end()
	}
	d.mu.Unlock()
	d.serving.Wait()
	d.stop()
	d.background.Wait()
	err := errors.Join(d.arena.Close(), d.index.Close(), d.ledger.region.Close())
	if err != nil {
		return fmt.Errorf("close the donor: %w", err)
	}
	return nil
}
