package peer

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/tmemd/tmemd/backends/ramster/wire"
)

// What is too much is refused, and there is room again when it was answered. Pools have room
// when nothing else has.
func TestLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDonor(t)
		block := make(chan struct{})
		d.arrive = func(_ int, r wire.Request) {
			if r.Number > 3 {
				<-block
			}
		}
		p, _ := d.start(t)
		p.OpenPool(1, false)
		synctest.Wait()
		var puts []*ending
		for e := newEnding(); p.Put(1, 1, 1, make([]byte, wire.MaxBlob), e); e = newEnding() {
			puts = append(puts, e)
		}
		if n := len(puts); n != minBacklog/wire.MaxBlob {
			t.Errorf("there was room for %d puts", n)
		}
		flushes := 0
		for p.Flush(1, 1, 1, 1) {
			flushes++
		}
		if n := flushes + len(puts); n < minBacklog/backlogGrain-1 || n > minBacklog/backlogGrain {
			t.Errorf("there was room for %d mutations", n)
		}
		if p.FlushObject(1, 0, 1) || !p.OpenPool(2, false) || !p.Destroy(2) {
			t.Error("room is for others than it should be")
		}
		var basins []*basin
		b := newBasin()
		for ; p.Fetch(1, 1, 1, b) == nil; b = newBasin() {
			basins = append(basins, b)
		}
		if err := p.Fetch(1, 1, 1, b); len(basins) != maxFetches || err != ErrBusy || !errors.Is(err, ErrDown) {
			t.Errorf("%d fetches, %v", len(basins), err)
		}
		if s := p.Stats(); s.Refused < 3 || s.Busy != 2 || s.Fetching != maxFetches || s.Memory.Resident == 0 {
			t.Errorf("%+v", s)
		}
		close(block)
		for _, e := range puts {
			e.is(t, wire.OK, nil)
		}
		for _, b := range basins {
			if _, err := b.wait(t); err != nil {
				t.Error(err)
			}
		}
		e := newEnding()
		if !p.Put(1, 1, 2, make([]byte, wire.MaxBlob), e) {
			t.Error("there is no room again")
		}
		e.is(t, wire.OK, nil)
	})
}

// What the protocol has no frame for is refused.
func TestBounds(t *testing.T) {
	d := newDonor(t)
	p, _ := d.start(t)
	up(t, p)
	for name, taken := range map[string]bool{
		"empty put":          p.Put(1, 1, 1, nil, nil),
		"long put":           p.Put(1, 1, 1, make([]byte, wire.MaxBlob+1), nil),
		"put of no page":     p.Put(1, wire.MaxPages, 1, []byte{1}, nil),
		"put of 0":           p.Put(1, 1, 0, []byte{1}, nil),
		"flush of none":      p.Flush(1, 1, 0, 1),
		"flush of -1":        p.Flush(1, 1, -1, 1),
		"flush of many":      p.Flush(1, 1, 1<<16, 1),
		"flush of 0":         p.Flush(1, 1, 1, 0),
		"flush of no page":   p.Flush(1, wire.MaxPages-1, 2, 1),
		"flush wrapping":     p.Flush(1, 1<<64-1, 2, 1),
		"object not aligned": p.FlushObject(1, 5, 1),
		"object of no page":  p.FlushObject(1, wire.MaxPages, 1),
		"object of 0":        p.FlushObject(1, 0, 0),
		"fetch of none":      p.Fetch(1, 1, 0, newBasin()) == nil,
		"fetch of many":      p.Fetch(1, 1, wire.MaxRun+1, newBasin()) == nil,
		"fetch of no page":   p.Fetch(1, wire.MaxPages-1, 2, newBasin()) == nil,
		"fetch wrapping":     p.Fetch(1, 1<<64-1, 2, newBasin()) == nil,
	} {
		if taken {
			t.Errorf("%s: taken", name)
		}
	}
	if _, _, err := p.List(t.Context(), 1, wire.MaxPages, make([]wire.Listed, 1)); err == nil {
		t.Error("a list begins behind the end")
	}
	if _, _, err := p.List(t.Context(), 1, 0, nil); err == nil {
		t.Error("a list has no room")
	}
	for _, c := range []Config{{}, {Dial: d.dial}, {Dial: d.dial, Session: func() uint64 { return 1 }, Backlog: 1}, {Dial: d.dial, Session: func() uint64 { return 1 }, Deadline: -1}} {
		if p, err := New(c); err == nil {
			p.Close()
			t.Errorf("%+v is taken", c)
		}
	}
}

// Lists go one after the other. One whose caller went is waited for, and not given to the
// next.
func TestListCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDonor(t)
		d.pools[1] = map[uint64]version{7: {1, []byte{1}}}
		d.pools[2] = map[uint64]version{8: {2, []byte{2}}}
		block := make(chan struct{})
		d.arrive = func(_ int, r wire.Request) {
			if r.Operation == wire.List && r.Pool == 1 {
				<-block
			}
		}
		p, _ := d.start(t)
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		into := make([]wire.Listed, 1000)
		var lists sync.WaitGroup
		lists.Go(func() {
			if _, _, err := p.List(ctx, 1, 0, into); err != context.Canceled {
				t.Error(err)
			}
		})
		synctest.Wait()
		lists.Go(func() { // it waits for its turn only
			if _, _, err := p.List(ctx, 1, 0, into); err != context.Canceled {
				t.Error(err)
			}
		})
		synctest.Wait()
		cancel()
		lists.Wait()
		lists.Go(func() {
			n, next, err := p.List(t.Context(), 2, 0, into)
			if err != nil || n != 1 || into[0].Page != 8 || next != wire.MaxPages {
				t.Errorf("%v, %d, %v", into[:n], next, err)
			}
		})
		synctest.Wait()
		close(block)
		lists.Wait()
		if into[0].Page != 8 {
			t.Error("a list that nobody waits for was written")
		}
	})
}

// P6: in the steady state requests and what they end with allocate nothing.
func TestNoAllocations(t *testing.T) {
	p := overSocket(t, ways()[0])
	k := &token{c: make(chan error, 1)}
	blob := make([]byte, 1600)
	for name, call := range map[string]func(){
		"put": func() {
			if !p.Put(1, 1, 1, blob, k) || <-k.c != nil {
				t.Error("a put failed")
			}
		},
		"fetch": func() {
			if p.Fetch(1, 1, 8, k) != nil || <-k.c != nil {
				t.Error("a fetch failed")
			}
		},
		"flush": func() {
			p.Flush(1, 1, 1, 1)
			if !p.Put(1, 1, 1, blob, k) || <-k.c != nil {
				t.Error("a put failed")
			}
		},
	} {
		if n := testing.AllocsPerRun(2000, call); n != 0 {
			t.Errorf("a %s allocates %v times", name, n)
		}
	}
}
