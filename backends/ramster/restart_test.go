package ramster

import (
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/backendtest"
	"github.com/tmemd/tmemd/backends/ramster/wire"
)

// survivors are clients that know what they wrote, for the process after this one.
type survivors struct {
	*world
	content []atomic.Uint64 // seed of what each page has; 0: nothing
	stop    chan struct{}
	all     sync.WaitGroup
	work    atomic.Int64
}

const survivorClients = 3

func (s *survivors) start(seed uint64) {
	s.stop = make(chan struct{})
	for i := range uint64(survivorClients) {
		s.all.Go(func() { s.run(i, rand.New(rand.NewPCG(seed, i))) })
	}
}

// run uses pages that no other client uses.
func (s *survivors) run(i uint64, random *rand.Rand) {
	data := make([]byte, backends.PageSize)
	for {
		select {
		case <-s.stop:
			return
		default:
		}
		page := random.Uint64N(s.pages/survivorClients)*survivorClients + i
		switch seed := 1 + random.Uint64N(1<<40); random.IntN(6) {
		case 0, 1, 2:
			backendtest.FillMixed(data, seed)
			if _, err := s.host.Write(key(page), data); err != nil {
				s.Errorf("write page %d: %v", page, err)
			}
			s.content[page].Store(seed)
		case 3:
			s.host.Trim(key(page))
			s.content[page].Store(0)
		default:
			if err := s.host.Read(key(page), data); err != nil {
				s.Errorf("read page %d: %v", page, err)
			}
		}
		s.work.Add(1)
	}
}

// rest ends the clients.
func (s *survivors) rest() {
	if s.stop != nil {
		close(s.stop)
		s.all.Wait()
		s.stop = nil
	}
}

// fly writes pages that are on their way when the owner dies: donors have got them, or
// not, and nobody has said so.
func (s *survivors) fly(random *rand.Rand) {
	s.Helper()
	s.rest()
	s.settle(2)
	for _, h := range s.donors {
		h.set(&weather{away: true})
	}
	before := s.arrived()
	for range 50 {
		page, seed := random.Uint64N(s.pages), 1+random.Uint64N(1<<40)
		data := make([]byte, backends.PageSize)
		backendtest.FillMixed(data, seed)
		if _, err := s.host.Write(key(page), data); err != nil {
			s.Fatal(err)
		}
		s.content[page].Store(seed)
	}
	s.await("pages to be on their way", func() (bool, string) {
		return s.cache.Remote().Sent > 0 && s.cache.Remote().Staged > 0 &&
			s.cache.Donors()[0].Session.Waiting+s.cache.Donors()[1].Session.Waiting+s.cache.Donors()[2].Session.Waiting > 0, ""
	})
	if random.IntN(2) == 0 { // some arrive; none is answered before the end
		for _, h := range s.donors {
			h.set(&weather{alter: func(wire.Request, *frame) ([]frame, bool) { return nil, false }})
		}
		s.await("some to arrive", func() (bool, string) { return s.arrived() > before, "" })
	}
}

// arrived is how many pages donors have taken.
func (w *world) arrived() (puts uint64) {
	for _, h := range w.donors {
		puts += h.donor.Stats().Requests[wire.Put][wire.OK]
	}
	return puts
}

// die ends the owner as SIGKILL does, and returns which pages it had under which handles.
func (s *survivors) die() map[uint64]backends.Handle {
	s.Helper()
	s.rest()
	for _, h := range s.donors { // what is under way stays there
		h.set(&weather{away: true})
		h.cut()
	}
	s.folder.Leave()
	if err := errors.Join(s.cache.Close(), s.folder.Close()); err != nil {
		s.Fatal(err)
	}
	for _, h := range s.donors {
		h.cut() // who connected meanwhile
		h.set(&weather{})
	}
	held := map[uint64]backends.Handle{}
	for page := range s.pages { // no goroutine of the dead one changes them any more
		if handle, ok := s.host.Held(key(page)); ok {
			held[page] = handle
		}
	}
	return held
}

// open is the process after it.
func (s *survivors) open() {
	s.Helper()
	s.openFolder()
	var err error
	if s.cache, err = Open(s.config); err != nil {
		s.Fatal(err)
	}
}

func (s *survivors) adopt(page uint64, handle backends.Handle) {
	s.Helper()
	if !s.cache.Adopt(key(page), handle) {
		s.Fatalf("page %d was not adopted", page)
	}
}

// takeOver adopts what there is. What had gone to storage is written anew.
func (s *survivors) takeOver(held map[uint64]backends.Handle) {
	s.Helper()
	for page, handle := range held {
		s.adopt(page, handle)
	}
	if _, err := s.cache.Adopted(); err != nil {
		s.Fatal(err)
	}
	s.host = &backendtest.Host{Backend: s.cache}
	if err := s.host.Open(1, s.pages); err != nil {
		s.Fatal(err)
	}
	data := make([]byte, backends.PageSize)
	for page := range s.pages {
		seed := s.content[page].Load()
		if seed == 0 {
			continue
		}
		backendtest.FillMixed(data, seed)
		if handle, ok := held[page]; ok {
			s.host.Adopted(key(page), handle, data)
		} else if _, err := s.host.Write(key(page), data); err != nil {
			s.Fatal(err)
		}
	}
}

// TestRestart has the owner die at any instant, while pages are on their way, copies
// are made, and now and then a donor dies too: all pages are there afterwards, donors have
// nothing that nobody names, and no generation ever stands for two things (witness).
func TestRestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, wireConfig(), 900, "a", "b", "c")
	s := &survivors{world: w, content: make([]atomic.Uint64, w.pages)}
	random := rand.New(rand.NewPCG(w.seed, 97))
	for range 6 * soak() {
		s.start(random.Uint64())
		for until := s.work.Load() + 20 + random.Int64N(1500); s.work.Load() < until && !t.Failed(); {
			time.Sleep(time.Millisecond)
		}
		victim := w.donors[[]string{"a", "b", "c"}[random.IntN(3)]]
		dies := random.IntN(3) == 0
		if dies {
			victim.kill(true)
		} else if random.IntN(2) == 0 {
			s.fly(random)
		}
		held := s.die()
		if dies {
			victim.start(true)
		}
		s.open()
		if random.IntN(2) == 0 { // this one dies while it takes over
			for page, handle := range held {
				if random.IntN(2) == 0 {
					s.adopt(page, handle)
				}
			}
			s.folder.Leave()
			if err := errors.Join(s.cache.Close(), s.folder.Close()); err != nil {
				t.Fatal(err)
			}
			s.open()
		}
		s.takeOver(held)
		if err := s.host.Check(1); err != nil {
			t.Fatal(err)
		}
		if random.IntN(2) == 0 {
			s.settle(2)
		}
	}
	s.settle(2)
	if err := s.host.Check(1); err != nil {
		t.Error(err)
	}
	w.end()
}

// TestRestartForgets has the owner start anew, with nothing: what donors have of the
// one before is of an epoch that has ended, and goes.
func TestRestartForgets(t *testing.T) {
	t.Parallel()
	w := newWorld(t, wireConfig(), 300, "a", "b")
	w.write(1)
	w.settle(2)
	before := w.donors["a"].count()
	for _, h := range w.donors {
		h.set(&weather{away: true})
		h.cut()
	}
	if err := errors.Join(w.cache.Close(), w.folder.Close()); err != nil {
		t.Fatal(err)
	}
	if left := w.donors["a"].count(); left != before || left == 0 {
		t.Fatalf("the donor has %d pages, and had %d", left, before)
	}
	for _, h := range w.donors {
		h.cut()
		h.set(&weather{})
	}
	w.witness.forget() // it has another key, and may count from 1
	w.openFolder()
	var err error
	if w.cache, err = New(w.config); err != nil {
		t.Fatal(err)
	}
	w.host = &backendtest.Host{Backend: w.cache}
	if err := w.host.Open(1, w.pages); err != nil {
		t.Fatal(err)
	}
	w.awaitUp()
	for name, h := range w.donors {
		w.await("what was there to go", func() (bool, string) { return h.count() == 0, name })
	}
	w.write(2)
	w.settle(2)
	if err := w.host.Check(1); err != nil {
		t.Error(err)
	}
	w.end()
}
