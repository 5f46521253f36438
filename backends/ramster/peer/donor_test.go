package peer

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tmemd/tmemd/backends/ramster/wire"
)

// donor is the least that a donor can be, by the protocol, and worse where a test wants
// it. Its connections share what it keeps.
type donor struct {
	t     testing.TB
	party wire.Party
	// alter, if there is one, gets each encoded reply and returns what is sent instead; nil
	// ends the connection.
	alter func(request wire.Request, reply []byte) []byte
	// arrive, if there is one, is called with each request before it is carried out.
	arrive func(session int, request wire.Request)
	wrap   func(net.Conn) net.Conn // what the peer gets of a connection
	prompt bool                    // each reply is sent at once

	serving sync.WaitGroup
	mu      sync.Mutex
	number  int // of connections that there were
	refuse  error
	pools   map[uint32]map[uint64]version
	room    wire.Room
	flags   uint16
	log     []wire.Request // of all sessions
	greeted uint64         // the last session's number
	conns   []net.Conn
}

type version struct {
	generation uint64
	blob       []byte
}

func newDonor(t testing.TB) *donor {
	d := &donor{t: t, pools: map[uint32]map[uint64]version{}, room: wire.Room{Quota: 1 << 30, Free: 1 << 30, Weight: 1}}
	d.party.Identity[0], d.party.Epoch[0] = 7, 8
	return d
}

// dial is a Config.Dial, over net.Pipe.
func (d *donor) dial(context.Context) (net.Conn, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.refuse != nil {
		return nil, d.refuse
	}
	here, there := net.Pipe()
	d.number++
	session := d.number
	d.conns = append(d.conns, there)
	d.serving.Go(func() { d.serve(session, there) })
	if d.wrap != nil {
		return d.wrap(here), nil
	}
	return here, nil
}

// serve answers requests until the connection ends. What it does wrong it says.
func (d *donor) serve(session int, conn net.Conn) {
	defer conn.Close()
	in, out := bufio.NewReaderSize(conn, 1<<16), bufio.NewWriterSize(conn, 1<<16)
	var header [wire.RequestSize]byte
	payload := make([]byte, wire.MaxPayload)
	reply := make([]byte, 0, wire.ReplySize+wire.MaxPayload)
	mine := uint64(0)
	for number := uint64(1); ; number++ {
		if in.Buffered() < wire.RequestSize && out.Flush() != nil {
			return
		}
		if _, err := io.ReadFull(in, header[:]); err != nil {
			return
		}
		r, err := wire.DecodeRequest(header[:])
		if err != nil || r.Number != number || (number == 1) != (r.Operation == wire.Hello) {
			d.t.Errorf("request %d is %+v, %v", number, r, err)
			return
		}
		if _, err := io.ReadFull(in, payload[:r.Length]); err != nil {
			return
		}
		if d.arrive != nil {
			d.arrive(session, r)
		}
		for i := range max(1, int(r.Count)*gets(r)) {
			if r.Operation == wire.Hello {
				mine = r.Generation
			}
			if reply = d.answer(mine, r, payload[:r.Length], i, reply[:0]); len(reply) == 0 {
				return
			}
			b := reply
			if d.alter != nil {
				if b = d.alter(r, reply); b == nil {
					out.Flush()
					return
				}
			}
			out.Write(b)
			if d.prompt {
				out.Flush()
			}
		}
	}
}

func gets(r wire.Request) int {
	if r.Operation == wire.Get {
		return 1
	}
	return 0
}

// answer carries the request out and appends the i-th reply; none if there is a newer
// session.
func (d *donor) answer(mine uint64, r wire.Request, payload []byte, i int, out []byte) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	if mine < d.greeted {
		return out
	}
	if i == 0 && d.log != nil {
		d.log = append(d.log, r)
	}
	a := wire.Reply{Operation: r.Operation, Number: r.Number, Flags: d.flags}
	var body []byte
	pages, open := d.pools[r.Pool]
	switch r.Operation {
	case wire.Hello:
		d.greeted = r.Generation
		body = make([]byte, wire.WelcomeSize)
		d.party.EncodeWelcome(body)
	case wire.Stats:
		body = make([]byte, wire.StatsSize)
		d.room.Encode(body)
	case wire.Pool:
		if !open {
			d.pools[r.Pool] = map[uint64]version{}
		}
	case wire.Destroy:
		delete(d.pools, r.Pool)
	case wire.Put:
		old := pages[r.Page]
		switch {
		case !open:
			a.Status = wire.Gone
		case old.generation > r.Generation:
			a.Status = wire.Stale
		case old.generation < r.Generation:
			pages[r.Page] = version{r.Generation, slices.Clone(payload)}
		}
	case wire.Get:
		a.Page = r.Page + uint64(i)
		if v, there := pages[a.Page]; there {
			a.Generation, body = v.generation, v.blob
		} else {
			a.Status = wire.None
		}
		if i+1 < int(r.Count) {
			a.Flags |= wire.More
		}
	case wire.Flush, wire.FlushObject:
		if r.Operation == wire.FlushObject {
			r.Count = wire.ObjectPages
		}
		a.Status = wire.None
		for page := r.Page; page < r.Page+uint64(r.Count); page++ {
			if v, there := pages[page]; there && v.generation <= r.Generation {
				delete(pages, page)
				a.Status = wire.OK
			}
		}
	case wire.List:
		var listed []uint64
		for page := range pages {
			if page >= r.Page {
				listed = append(listed, page)
			}
		}
		slices.Sort(listed)
		a.Page = wire.MaxPages
		for _, page := range listed {
			if len(body) == int(r.Count)*wire.ListedSize {
				a.Page = page
				break
			}
			n := len(body)
			body = append(body, make([]byte, wire.ListedSize)...)
			wire.Listed{Page: page, Generation: pages[page].generation}.Encode(body[n:])
		}
	}
	a.Length = uint32(len(body))
	out = out[:wire.ReplySize]
	a.Encode(out)
	return append(out, body...)
}

// end waits until nothing of the donor runs any more.
func (d *donor) end() { d.serving.Wait() }

// setRefuse lets connections fail from now on, or not any more.
func (d *donor) setRefuse(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.refuse = err
}

// cutAll ends all connections.
func (d *donor) cutAll() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.conns {
		c.Close()
	}
	d.conns = nil
}

// witness is a Watcher that remembers.
type witness struct {
	mu      sync.Mutex
	events  []string
	refuse  error
	party   wire.Party
	changes atomic.Int64
}

func (w *witness) Up(p wire.Party) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.party = p
	w.events = append(w.events, "up")
	return w.refuse
}

func (w *witness) Down(error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, "down")
}

func (w *witness) Changed() { w.changes.Add(1) }

func (w *witness) seen() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.events)
}

// ending is a Completion.
type ending struct {
	calls  atomic.Int32
	status wire.Status
	err    error
	done   chan struct{}
}

func newEnding() *ending { return &ending{done: make(chan struct{})} }

func (e *ending) Done(status wire.Status, err error) {
	if e.calls.Add(1) == 1 {
		e.status, e.err = status, err
		close(e.done)
	}
}

// is says whether it ended so, once, now or soon.
func (e *ending) is(t testing.TB, status wire.Status, err error) {
	t.Helper()
	<-e.done
	if e.status != status || !errors.Is(e.err, err) || e.calls.Load() != 1 {
		t.Errorf("the put ended with %v, %v, %d times; want %v, %v", e.status, e.err, e.calls.Load(), status, err)
	}
}

// basin is a Sink.
type basin struct {
	mu    sync.Mutex
	pages map[uint64]version
	ends  int
	err   error
	done  chan struct{}
}

func newBasin() *basin { return &basin{pages: map[uint64]version{}, done: make(chan struct{})} }

func (b *basin) Page(page, generation uint64, blob []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, twice := b.pages[page]; twice || b.ends > 0 {
		panic("a page comes twice, or after the end")
	}
	b.pages[page] = version{generation, slices.Clone(blob)}
}

func (b *basin) Ended(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ends++; b.ends == 1 {
		b.err = err
		close(b.done)
	}
}

// wait returns what came and how it ended.
func (b *basin) wait(t testing.TB) (map[uint64]version, error) {
	t.Helper()
	<-b.done
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ends != 1 {
		t.Errorf("a fetch ended %d times", b.ends)
	}
	return b.pages, b.err
}

// start makes a peer of the donor. It is closed at the end of the test.
func (d *donor) start(t testing.TB, change ...func(*Config)) (*Peer, *witness) {
	t.Helper()
	var sessions atomic.Uint64
	w := &witness{}
	c := Config{
		Name:    "test",
		Dial:    d.dial,
		Session: func() uint64 { return sessions.Add(1) },
		Backlog: minBacklog,
		Watcher: w,
	}
	for _, f := range change {
		f(&c)
	}
	p, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		d.end()
		if p.State() != Closed {
			t.Errorf("closed, it is %v", p.State())
		}
	})
	return p, w
}

// eventually waits for something that other goroutines bring about.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it never came true: %s", what)
		}
	}
}

func up(t testing.TB, p *Peer) {
	t.Helper()
	eventually(t, "the donor is up", func() bool { return p.State() == Up })
}
