package peer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tmemd/tmemd/backends/ramster/wire"
)

// What was not answered is sent again in the next session, in order and no more than
// that, after the pools.
func TestResend(t *testing.T) {
	for answered := range 9 {
		t.Run(fmt.Sprint(answered), func(t *testing.T) {
			d := newDonor(t)
			d.log = []wire.Request{}
			n := 0
			d.alter = func(r wire.Request, reply []byte) []byte {
				if r.Operation == wire.Put || r.Operation == wire.Flush {
					if n++; n == answered+1 {
						return nil
					}
				}
				return reply
			}
			p, _ := d.start(t)
			p.OpenPool(2, true)
			p.OpenPool(1, false)
			up(t, p)
			eventually(t, "the pools are there", func() bool { return p.Stats().Waiting == 0 })
			var puts []*ending
			p.mu.Lock() // they are to be of one session
			for i := range uint64(8) {
				if i%3 == 2 {
					p.mutate(wire.Request{Operation: wire.Flush, Pool: 1, Page: i, Count: 1, Generation: i + 1}, nil, nil)
					continue
				}
				puts = append(puts, newEnding())
				r := wire.Request{Operation: wire.Put, Pool: 1, Page: i, Generation: i + 1, Length: 10}
				p.mutate(r, blobOf(i, i+1, 10), puts[len(puts)-1])
			}
			p.mu.Unlock()
			for _, e := range puts {
				e.is(t, wire.OK, nil)
			}
			eventually(t, "all is answered", func() bool { return p.Stats().Waiting == 0 })
			p.Close()
			d.end()
			hellos := 0
			var got []string
			for _, r := range d.log {
				switch r.Operation {
				case wire.Hello:
					hellos++
				case wire.Put, wire.Flush, wire.Pool:
					if hellos == 2 {
						got = append(got, fmt.Sprint(r.Operation, " ", r.Pool, " ", r.Page, " ", r.Flags))
					}
				}
			}
			var want []string
			if answered < 8 {
				want = []string{"pool 1 0 0", "pool 2 0 1"}
			}
			for i := answered; i < 8; i++ {
				want = append(want, fmt.Sprint([]string{"put", "put", "flush"}[i%3], " 1 ", i, " 0"))
			}
			if !slices.Equal(got, want) {
				t.Errorf("the second session has %v, want %v", got, want)
			}
		})
	}
}

// A pool that is destroyed and opened anew while the donor is away is made after it was
// destroyed, though it has other flags.
func TestPoolAnew(t *testing.T) {
	d := newDonor(t)
	d.log = []wire.Request{}
	p, _ := d.start(t)
	p.OpenPool(1, false)
	p.OpenPool(2, false)
	up(t, p)
	eventually(t, "the pools are there", func() bool { return p.Stats().Waiting == 0 })
	d.setRefuse(errors.New("away"))
	d.cutAll()
	eventually(t, "it is noticed", func() bool { return p.State() == Open })
	if !p.Destroy(1) || !p.OpenPool(1, true) || !p.Destroy(2) || p.Put(1, 1, 1, []byte{1}, newEnding()) {
		t.Error("down, it takes what it should not, or the other way round")
	}
	d.mu.Lock()
	d.log = d.log[:0]
	d.mu.Unlock()
	d.setRefuse(nil)
	up(t, p)
	eventually(t, "all is answered", func() bool { return p.Stats().Waiting == 0 })
	p.Close()
	d.end()
	var got []string
	for _, r := range d.log {
		got = append(got, fmt.Sprint(r.Operation, r.Pool, r.Flags))
	}
	if want := []string{"hello 0 0", "stats 0 0", "destroy 1 0", "pool 1 1", "destroy 2 0"}; !slices.Equal(got, want) {
		t.Errorf("it is sent %q, want %q", got, want)
	}
}

// cutConn ends after so many bytes in one direction, in the middle of a call too.
type cutConn struct {
	net.Conn
	in, out int // left; below 0: any number
}

func (c *cutConn) Read(b []byte) (int, error) {
	if c.in < 0 {
		return c.Conn.Read(b)
	}
	n, err := c.Conn.Read(b[:min(len(b), c.in)])
	if c.in -= n; c.in == 0 {
		c.Close()
	}
	return n, err
}

func (c *cutConn) Write(b []byte) (int, error) {
	if c.out < 0 {
		return c.Conn.Write(b)
	}
	n, err := c.Conn.Write(b[:min(len(b), c.out)])
	if c.out -= n; c.out == 0 {
		c.Close()
		return n, io.ErrClosedPipe
	}
	return n, err
}

// A connection that is cut at any byte, in either direction, loses nothing, and each call
// ends once.
func TestCut(t *testing.T) {
	const conversation = 900 // bytes of it in one direction at most
	for _, in := range []bool{true, false} {
		for n := 1; n < conversation; n++ {
			synctest.Test(t, func(t *testing.T) {
				d := newDonor(t)
				first := true
				d.wrap = func(c net.Conn) net.Conn {
					cut := &cutConn{Conn: c, in: -1, out: -1}
					if first {
						if first = false; in {
							cut.in = n
						} else {
							cut.out = n
						}
					}
					return cut
				}
				p, _ := d.start(t)
				p.OpenPool(1, false)
				var puts []*ending
				var basins []*basin
				generations := map[uint64]uint64{}
				for generation := uint64(1); generation <= 12; {
					page := generation % 5
					if e := newEnding(); p.Put(1, page, generation, blobOf(page, generation, 30), e) {
						puts = append(puts, e)
						generations[page] = generation
						if generation%4 == 0 && p.Flush(1, page, 1, generation) {
							delete(generations, page)
						}
						generation++
					}
					if b := newBasin(); generation%3 == 0 && p.Fetch(1, 0, 5, b) == nil {
						basins = append(basins, b)
					}
					time.Sleep(time.Millisecond)
				}
				time.Sleep(10 * time.Second)
				for _, e := range puts {
					e.is(t, wire.OK, nil)
				}
				for _, b := range basins {
					if pages, err := b.wait(t); err != nil && err != ErrDown {
						t.Errorf("%d pages, %v", len(pages), err)
					}
				}
				d.mu.Lock()
				defer d.mu.Unlock()
				for page := range uint64(5) {
					if v := d.pools[1][page]; v.generation != generations[page] || v.generation > 0 && string(v.blob) != string(blobOf(page, v.generation, 30)) {
						t.Errorf("cut after %d bytes: page %d has generation %d, want %d", n, page, v.generation, generations[page])
					}
				}
				if s := p.Stats(); s.Waiting != 0 || s.Fetching != 0 || s.ProtocolErrors != 0 {
					t.Errorf("%+v", s)
				}
			})
		}
	}
}

// P7: puts that are given up end at once, and are not sent any more; flushes are. That they
// were sent does not matter.
func TestAbandon(t *testing.T) {
	for _, down := range []bool{false, true} {
		t.Run(fmt.Sprint("down ", down), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDonor(t)
				d.log = []wire.Request{}
				silent := make(chan struct{})
				d.arrive = func(session int, r wire.Request) {
					if session == 1 && r.Operation == wire.Put {
						<-silent
					}
				}
				d.alter = func(r wire.Request, reply []byte) []byte {
					if down && r.Operation == wire.Put && d.sessions() == 1 {
						return nil
					}
					return reply
				}
				p, _ := d.start(t)
				p.OpenPool(1, false)
				synctest.Wait()
				var puts []*ending
				put := func(page uint64) *ending {
					e := newEnding()
					if !p.Put(1, page, 1, blobOf(page, 1, 3000), e) {
						t.Fatal("no room")
					}
					return e
				}
				for page := range uint64(5) {
					puts = append(puts, put(page))
					synctest.Wait() // the writer stands still after what it has sent
				}
				p.Flush(1, 99, 1, 7)
				if down {
					close(silent)
					d.setRefuse(errors.New("away"))
					synctest.Wait()
				}
				p.Abandon()
				p.Abandon()
				for _, e := range puts {
					e.is(t, 0, ErrAbandoned)
				}
				p.mu.Lock()
				if b := &p.backlog; down && (b.blobHead != b.blobTail || b.tail-b.head != 1) {
					t.Errorf("the backlog keeps blobs: %+v", b)
				}
				p.mu.Unlock()
				if down {
					d.setRefuse(nil)
					time.Sleep(time.Second)
				}
				e := put(50)
				if !down {
					close(silent)
				}
				e.is(t, wire.OK, nil)
				synctest.Wait()
				d.mu.Lock()
				defer d.mu.Unlock()
				var got []uint64
				for _, r := range d.log {
					if r.Operation == wire.Put || r.Operation == wire.Flush {
						got = append(got, r.Page)
					}
				}
				// net.Pipe has no buffer: the first put is at the donor, the second in the
				// writer's hands.
				if n := len(got); n < 3 || n > 8 || got[n-2] != 99 || got[n-1] != 50 || got[0] != 0 {
					t.Errorf("sent: pages %v", got)
				}
			})
		})
	}
}

func (d *donor) sessions() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.number
}

// Close ends all that is under way, each thing once.
func TestClose(t *testing.T) {
	for _, pause := range []time.Duration{0, time.Millisecond, 700 * time.Millisecond} {
		t.Run(pause.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDonor(t)
				block := make(chan struct{})
				d.arrive = func(_ int, r wire.Request) {
					if r.Number > 3 {
						<-block
					}
				}
				p, w := d.start(t)
				p.OpenPool(1, false)
				synctest.Wait()
				var puts []*ending
				var basins []*basin
				for page := range uint64(10) {
					e, b := newEnding(), newBasin()
					if p.Put(1, page, 1, make([]byte, 4000), e) {
						puts = append(puts, e)
					}
					if p.Fetch(1, page, 2, b) == nil {
						basins = append(basins, b)
					}
				}
				var listing sync.WaitGroup
				listing.Go(func() {
					if _, _, err := p.List(t.Context(), 1, 0, make([]wire.Listed, 5)); !errors.Is(err, ErrDown) {
						t.Errorf("the list ends with %v", err)
					}
				})
				time.Sleep(pause)
				synctest.Wait()
				if err := p.Close(); err != nil {
					t.Error(err)
				}
				listing.Wait()
				close(block)
				for _, e := range puts {
					e.is(t, 0, ErrClosed)
				}
				for _, b := range basins {
					if _, err := b.wait(t); err != ErrDown && err != ErrDeadline {
						t.Errorf("a fetch ends with %v", err)
					}
				}
				if len(puts) != 10 || len(basins) != 10 || !slices.Equal(w.seen(), []string{"up", "down"}) {
					t.Errorf("%d puts, %d fetches, the watcher saw %v", len(puts), len(basins), w.seen())
				}
				if p.Put(1, 1, 1, []byte{1}, nil) || p.Flush(1, 1, 1, 1) || p.Destroy(1) || p.OpenPool(1, false) || p.Fetch(1, 1, 1, newBasin()) == nil {
					t.Error("closed, it takes a request")
				}
				p.Abandon()
				if s := p.Stats(); s.Memory.Resident != 0 || s.State != Closed {
					t.Errorf("closed, it has %+v", s)
				}
				if err := p.Close(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// A Dial that hangs does not keep Close waiting, nor does a donor that does not greet.
func TestCloseWhileConnecting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, dial := range []func(context.Context) (net.Conn, error){
			func(ctx context.Context) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() },
			func(context.Context) (net.Conn, error) { c, _ := net.Pipe(); return c, nil },
			func(ctx context.Context) (net.Conn, error) { <-ctx.Done(); return newDonor(t).dial(ctx) },
		} {
			d := newDonor(t)
			p, w := d.start(t, func(c *Config) { c.Dial = dial })
			synctest.Wait()
			if s := p.State(); s != Connecting {
				t.Errorf("it is %v", s)
			}
			began := time.Now()
			p.Close()
			if time.Since(began) != 0 || len(w.seen()) != 0 {
				t.Errorf("Close took %v, the watcher saw %v", time.Since(began), w.seen())
			}
		}
	})
}

// More pools than can be under way are made in each session, before anything else; those that
// are opened later too.
func TestManyPools(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDonor(t)
		p, _ := d.start(t)
		synctest.Wait()
		for pool := range uint32(maxPools) {
			if !p.OpenPool(pool, false) {
				t.Fatalf("no pool %d", pool)
			}
			if pool%50 == 0 {
				synctest.Wait()
			}
		}
		synctest.Wait()
		if p.OpenPool(maxPools, false) {
			t.Error("there is no bound")
		}
		d.mu.Lock()
		clear(d.pools)
		d.log = []wire.Request{}
		d.mu.Unlock()
		d.setRefuse(errors.New("away"))
		d.cutAll()
		synctest.Wait()
		p.Flush(1, 1, 1, 1)
		p.Destroy(9)
		d.setRefuse(nil)
		for p.State() != Up {
			time.Sleep(time.Millisecond)
		}
		synctest.Wait() // without another second's STATS, which would wake the writer
		d.mu.Lock()
		if n := len(d.pools); n != maxPools-1 {
			t.Errorf("there are %d pools again", n)
		}
		d.mu.Unlock()
		p.OpenPool(9, true)
		synctest.Wait()
		d.mu.Lock()
		defer d.mu.Unlock()
		n := len(d.log)
		if s := p.Stats(); len(d.pools) != maxPools || n != maxPools-1+5 || d.log[n-3].Operation != wire.Flush || s.Waiting != 0 {
			t.Errorf("%d pools, %d requests, %+v", len(d.pools), n, s)
		}
	})
}
