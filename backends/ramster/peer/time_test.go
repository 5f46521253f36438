package peer

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tmemd/tmemd/backends/ramster/wire"
)

// The tests in this file run on synctest's clock: what they say of time is exact.

// P3: a fetch ends with its deadline, its late reply is dropped, and one late fetch
// is no reason to leave the donor.
func TestLateReply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDonor(t)
		d.pools[1] = map[uint64]version{5: {1, []byte{1}}, 6: {1, []byte{2}}}
		var slow atomic.Bool
		d.alter = func(r wire.Request, reply []byte) []byte {
			if r.Operation == wire.Get && r.Page == 6 && slow.Load() {
				time.Sleep(700 * time.Millisecond)
			}
			return reply
		}
		p, w := d.start(t)
		time.Sleep(time.Second / 2)
		slow.Store(true)
		began := time.Now()
		late, next := newBasin(), newBasin()
		if err := errors.Join(p.Fetch(1, 6, 1, late), p.Fetch(1, 5, 1, next)); err != nil {
			t.Fatal(err)
		}
		for _, b := range []*basin{late, next} {
			if pages, err := b.wait(t); err != ErrDeadline || len(pages) != 0 || time.Since(began) != DefaultDeadline {
				t.Errorf("after %v: %v pages, %v", time.Since(began), pages, err)
			}
		}
		time.Sleep(300 * time.Millisecond)
		slow.Store(false)
		b := newBasin()
		if err := p.Fetch(1, 5, 2, b); err != nil {
			t.Fatal(err)
		}
		if pages, err := b.wait(t); err != nil || len(pages) != 2 {
			t.Errorf("%v, %v", pages, err)
		}
		if s := p.Stats(); s.Missed != 2 || s.Strikes != 1 || s.Fetching != 0 || !slices.Equal(w.seen(), []string{"up"}) {
			t.Errorf("%+v, %v", s, w.seen())
		}
	})
}

// A fetch of which a part came ends all the same, with no page after the end.
func TestPartialFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDonor(t)
		d.pools[1] = map[uint64]version{}
		for page := range uint64(64) {
			d.pools[1][page] = version{1, blobOf(page, 1, 4000)}
		}
		d.wrap = func(c net.Conn) net.Conn { return &slowConn{Conn: c, after: 100_000, pause: 600 * time.Millisecond} }
		p, _ := d.start(t)
		time.Sleep(time.Second / 2)
		b := newBasin()
		if err := p.Fetch(1, 0, 64, b); err != nil {
			t.Fatal(err)
		}
		pages, err := b.wait(t)
		if err != ErrDeadline || len(pages) == 0 || len(pages) == 64 {
			t.Errorf("%d pages, %v", len(pages), err)
		}
		time.Sleep(2 * time.Second)
		if len(b.pages) != len(pages) {
			t.Error("a page came after the end")
		}
	})
}

// P1: a fetch that gets late while its pages are delivered ends after that.
func TestLateWhileDelivered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDonor(t)
		d.pools[1] = map[uint64]version{1: {1, []byte{1}}, 2: {1, []byte{2}}, 3: {1, []byte{3}}}
		d.wrap = func(c net.Conn) net.Conn { // 64 and 96 bytes greet; then two of three pages
			return &slowConn{Conn: c, after: 64 + 96 + 2*(wire.ReplySize+1), pause: time.Second}
		}
		p, _ := d.start(t)
		synctest.Wait()
		s := &slowSink{done: make(chan error, 10)}
		if err := p.Fetch(1, 1, 3, s); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if err := <-s.done; err != ErrDeadline || s.pages.Load() == 0 || time.Since(began)%(400*time.Millisecond) != 0 {
			t.Errorf("it ended after %v and %d pages with %v", time.Since(began), s.pages.Load(), err)
		}
		n := s.pages.Load()
		time.Sleep(3 * time.Second)
		if s.pages.Load() != n || len(s.done) != 0 || s.overlaps.Load() {
			t.Errorf("%d pages, then %d; %d more ends; one while the other: %v", n, s.pages.Load(), len(s.done), s.overlaps.Load())
		}
	})
}

// slowSink takes 400 ms for each page, which it must not.
type slowSink struct {
	busy, overlaps atomic.Bool
	pages          atomic.Int32
	done           chan error
}

func (s *slowSink) Page(uint64, uint64, []byte) {
	s.busy.Store(true)
	time.Sleep(400 * time.Millisecond)
	s.busy.Store(false)
	s.pages.Add(1)
}

func (s *slowSink) Ended(err error) {
	if s.busy.Load() {
		s.overlaps.Store(true)
	}
	s.done <- err
}

// Fetches that ended before they were sent are not sent, and those around them get what is
// theirs.
func TestLateUnsent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDonor(t)
		d.log = []wire.Request{}
		d.pools[1] = map[uint64]version{}
		for page := range uint64(10) {
			d.pools[1][page] = version{1, []byte{byte(page)}}
		}
		var asleep atomic.Bool
		d.arrive = func(_ int, r wire.Request) {
			if r.Operation == wire.Get && r.Page == 1 {
				asleep.Store(true)
				time.Sleep(time.Second)
			}
		}
		d.wrap = func(c net.Conn) net.Conn { return &stoppedConn{Conn: c, t: t, stop: &asleep} }
		p, _ := d.start(t)
		synctest.Wait()
		var basins [5]*basin
		for i, pause := range []time.Duration{10 * time.Millisecond, 10 * time.Millisecond, 680 * time.Millisecond, 0, 0} {
			if i == 1 {
				p.Flush(1, 100, 1, 1) // the writer stands still with it
				synctest.Wait()
			}
			basins[i] = newBasin()
			if err := p.Fetch(1, uint64(i+1), 1, basins[i]); err != nil {
				t.Fatal(err)
			}
			time.Sleep(pause)
		}
		for i, b := range basins {
			pages, err := b.wait(t)
			if late := i < 3; late && err != ErrDeadline || !late && (err != nil || pages[uint64(i+1)].blob[0] != byte(i+1)) {
				t.Errorf("fetch %d: %v, %v", i+1, pages, err)
			}
		}
		time.Sleep(time.Second)
		b := newBasin()
		if err := p.Fetch(1, 7, 1, b); err != nil {
			t.Fatal(err)
		}
		if pages, err := b.wait(t); err != nil || len(pages) != 1 {
			t.Errorf("%v, %v", pages, err)
		}
		// Once more, with nothing after those that are late.
		asleep.Store(true)
		p.Flush(1, 100, 1, 1)
		synctest.Wait()
		last := newBasin()
		if err := p.Fetch(1, 8, 1, last); err != nil {
			t.Fatal(err)
		}
		if _, err := last.wait(t); err != ErrDeadline {
			t.Error(err)
		}
		time.Sleep(time.Second)
		if s := p.Stats(); s.Fetching != 0 || s.Waiting != 0 || s.Sessions != 1 {
			t.Errorf("%+v", s)
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		var got []uint64
		for _, r := range d.log {
			if r.Operation == wire.Get {
				got = append(got, r.Page)
			}
		}
		if !slices.Equal(got, []uint64{1, 4, 5, 7}) {
			t.Errorf("fetched are pages %v", got)
		}
	})
}

// stoppedConn holds one write up for 600 ms each time it is told to.
type stoppedConn struct {
	net.Conn
	t    *testing.T
	stop *atomic.Bool
}

func (c *stoppedConn) Write(b []byte) (int, error) {
	if len(b) == 0 {
		c.t.Error("nothing is written")
	}
	if c.stop.Swap(false) {
		time.Sleep(600 * time.Millisecond)
	}
	return c.Conn.Write(b)
}

// A slow line is no reason to leave a donor, as long as something gets through.
func TestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDonor(t)
		d.prompt = true
		d.alter = func(r wire.Request, reply []byte) []byte {
			if r.Operation == wire.Put {
				time.Sleep(400 * time.Millisecond)
			}
			return reply
		}
		p, w := d.start(t)
		synctest.Wait()
		var puts []*ending
		for range 10 {
			puts = append(puts, newEnding())
			p.Put(1, 1, 1, []byte{1}, puts[len(puts)-1])
		}
		for _, e := range puts {
			e.is(t, wire.Gone, nil)
		}
		if s := p.Stats(); s.Strikes != 0 || !slices.Equal(w.seen(), []string{"up"}) {
			t.Errorf("%+v, %v", s, w.seen())
		}
	})
}

// slowConn pauses once, after so many bytes were read.
type slowConn struct {
	net.Conn
	after int
	pause time.Duration
}

func (c *slowConn) Read(b []byte) (int, error) {
	if c.after == 0 {
		time.Sleep(c.pause)
		c.after = -1
	}
	if c.after > 0 {
		b = b[:min(len(b), c.after)]
	}
	n, err := c.Conn.Read(b)
	if c.after > 0 {
		c.after -= n
	}
	return n, err
}

// The breaker: a donor that answers nothing any more is left after three deadlines,
// whatever was asked, also if nothing was; and taken back when it answers.
func TestBreaker(t *testing.T) {
	for name, test := range map[string]struct {
		busy  func(*Peer) // what is asked, again and again
		least time.Duration
		most  time.Duration
	}{
		"idle":    {func(*Peer) {}, 1500 * time.Millisecond, 2500 * time.Millisecond},
		"fetches": {func(p *Peer) { p.Fetch(1, 1, 1, newBasin()) }, 1500 * time.Millisecond, 1600 * time.Millisecond},
		"puts":    {func(p *Peer) { p.Put(1, 1, 1, []byte{1}, nil) }, 1500 * time.Millisecond, 1600 * time.Millisecond},
		"flushes": {func(p *Peer) { p.Flush(1, 1, 1, 1) }, 1500 * time.Millisecond, 1600 * time.Millisecond},
		"much":    {func(p *Peer) { p.Put(1, 1, 1, make([]byte, 4000), nil) }, 1500 * time.Millisecond, 1600 * time.Millisecond},
	} {
		for _, deaf := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					d := newDonor(t)
					var dead atomic.Bool
					block := make(chan struct{})
					stop := func(wire.Request, []byte) []byte {
						if dead.Load() {
							<-block
						}
						return nil
					}
					if deaf {
						d.arrive = func(_ int, r wire.Request) { stop(r, nil) } // reads no more
					}
					d.alter = func(r wire.Request, reply []byte) []byte {
						if !deaf && dead.Load() {
							return []byte{} // reads, and says nothing
						}
						return reply
					}
					p, w := d.start(t)
					time.Sleep(300 * time.Millisecond)
					dead.Store(true)
					began := time.Now()
					for p.State() == Up && time.Since(began) < time.Minute {
						test.busy(p)
						time.Sleep(10 * time.Millisecond)
					}
					synctest.Wait()
					if open := time.Since(began); p.State() != Open || open < test.least || open > test.most {
						t.Errorf("after %v it is %v", open, p.State())
					}
					if err := p.Fetch(1, 1, 1, newBasin()); !errors.Is(err, ErrDown) {
						t.Errorf("a fetch says %v", err)
					}
					if p.Put(1, 1, 1, []byte{1}, nil) {
						t.Error("a put is taken")
					}
					if !slices.Equal(w.seen(), []string{"up", "down"}) {
						t.Errorf("the watcher saw %v", w.seen())
					}
					time.Sleep(time.Minute)
					if p.State() != Open {
						t.Errorf("a minute later it is %v", p.State())
					}
					dead.Store(false)
					close(block)
					time.Sleep(2 * lastPause)
					if p.State() != Up || !slices.Equal(w.seen(), []string{"up", "down", "up"}) {
						t.Errorf("it is %v, and the watcher saw %v", p.State(), w.seen())
					}
				})
			})
		}
	}
}

// A donor that is slow, but in time, is kept; so is one that a moment's pause befalls now
// and then.
func TestSlowIsNoReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDonor(t)
		n := 0
		d.alter = func(r wire.Request, reply []byte) []byte {
			pause := 100 * time.Millisecond
			if n++; n%10 == 0 {
				pause = 900 * time.Millisecond
			}
			time.Sleep(pause)
			return reply
		}
		p, w := d.start(t)
		for range 1000 {
			if p.State() == Up && p.Stats().Fetching == 0 {
				p.Fetch(1, 1, 1, newBasin())
			}
			time.Sleep(50 * time.Millisecond)
		}
		if s := p.Stats(); s.Missed == 0 || s.Strikes == 0 || !slices.Equal(w.seen(), []string{"up"}) {
			t.Errorf("%+v, %v", s, w.seen())
		}
	})
}

// Attempts come at once, then ever less often.
func TestPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDonor(t)
		var rude atomic.Bool
		d.arrive = func(_ int, r wire.Request) {
			if r.Number > 2 && rude.Load() {
				d.cutAll()
			}
		}
		var mu sync.Mutex
		var tried []time.Time
		p, _ := d.start(t, func(c *Config) {
			c.Dial = func(ctx context.Context) (net.Conn, error) {
				mu.Lock()
				tried = append(tried, time.Now())
				mu.Unlock()
				return d.dial(ctx)
			}
		})
		take := func() (attempts []time.Time) {
			mu.Lock()
			defer mu.Unlock()
			attempts, tried = tried, nil
			return attempts
		}
		time.Sleep(time.Minute)
		if n := len(take()); n != 1 {
			t.Errorf("%d attempts", n)
		}
		d.setRefuse(errors.New("no route"))
		cutAt := time.Now()
		d.cutAll()
		time.Sleep(time.Minute)
		d.setRefuse(nil)
		time.Sleep(10 * time.Second)
		attempts := take()
		want := []time.Duration{0, 100 * time.Millisecond}
		for pause := 200 * time.Millisecond; pause < lastPause; pause *= 2 {
			want = append(want, pause)
		}
		for len(want) < len(attempts) {
			want = append(want, lastPause)
		}
		before := cutAt
		for i, at := range attempts {
			if pause := at.Sub(before); pause < want[i]*3/4 || pause > want[i]*5/4 {
				t.Errorf("attempt %d came after %v, want %v", i, pause, want[i])
			}
			before = at
		}
		if len(attempts) < 12 || p.State() != Up {
			t.Errorf("%d attempts, then it is %v", len(attempts), p.State())
		}
		// One that greets and then hangs up is not besieged.
		rude.Store(true)
		p.OpenPool(1, false)
		time.Sleep(time.Minute)
		if n := len(take()); n < 10 || n > 25 {
			t.Errorf("%d attempts in a minute", n)
		}
	})
}

// A refusal is said once, and tried again slowly.
func TestRefusals(t *testing.T) {
	for name, test := range map[string]struct {
		refuse func(*donor, *witness)
		says   string
	}{
		"denied": {func(d *donor, _ *witness) {
			d.alter = func(r wire.Request, reply []byte) []byte { return ends(wire.Denied)(reply) }
		}, "client"},
		"version": {func(d *donor, _ *witness) {
			d.alter = func(r wire.Request, reply []byte) []byte { return ends(wire.Version)(reply) }
		}, "upgrade"},
		"another": {func(_ *donor, w *witness) { w.refuse = errors.New("another epoch") }, "another epoch"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDonor(t)
				var log bytes.Buffer
				var attempts atomic.Int32
				p, w := d.start(t, func(c *Config) {
					c.Log = slog.New(slog.NewTextHandler(&log, nil))
					test.refuse(d, c.Watcher.(*witness))
					c.Dial = func(ctx context.Context) (net.Conn, error) {
						attempts.Add(1)
						return d.dial(ctx)
					}
				})
				time.Sleep(10 * time.Minute)
				if n := attempts.Load(); n < 16 || n > 28 || p.State() != Open {
					t.Errorf("%d attempts, and it is %v", n, p.State())
				}
				if lines := strings.Count(log.String(), "\n"); lines != 1 || !strings.Contains(log.String(), test.says) {
					t.Errorf("the log says %q", log.String())
				}
				if slices.Contains(w.seen(), "down") {
					t.Errorf("the watcher saw %v", w.seen())
				}
			})
		})
	}
}

// The donor is asked for room each second, at once when it wants pages back, and never
// without a pause.
func TestRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDonor(t)
		d.log = []wire.Request{}
		p, w := d.start(t)
		time.Sleep(10*time.Second + 500*time.Millisecond)
		asked := func() (n int) {
			d.mu.Lock()
			defer d.mu.Unlock()
			for _, r := range d.log {
				if r.Operation == wire.Stats {
					n++
				}
			}
			return n
		}
		if n := asked(); n != 11 || w.changes.Load() != 1 || p.Room() != d.room {
			t.Errorf("asked %d times, changed %d times, room %+v", n, w.changes.Load(), p.Room())
		}
		d.mu.Lock()
		d.flags, d.room.Wanted = wire.WantsBack, 1<<20
		d.mu.Unlock()
		before := asked()
		p.Flush(1, 1, 1, 1)
		synctest.Wait()
		if p.Room().Wanted != 1<<20 || asked() != before+1 || w.changes.Load() != 2 {
			t.Errorf("room is %+v, asked %d times, changed %d times", p.Room(), asked()-before, w.changes.Load())
		}
		before = asked()
		for range 1000 {
			p.Flush(1, 1, 1, 1)
			time.Sleep(time.Millisecond)
		}
		if n := asked() - before; n < 10 || n > 21 || w.changes.Load() != 2 {
			t.Errorf("asked %d times in a second, changed %d times", n, w.changes.Load())
		}
	})
}
