package pressure

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// fakePool does what it is told at once.
type fakePool struct {
	mu        sync.Locker
	size      Size
	off       bool
	thrashing bool
	targets   []int64 // that it was given
}

func (p *fakePool) Size() (Size, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.size, !p.off
}

func (p *fakePool) Thrashing() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.thrashing
}

func (p *fakePool) Resize(target int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.targets = append(p.targets, target)
	p.size.Target = target
	p.size.Held = min(p.size.Held, target)
}

// fakeSource is a host whose state a test decides.
type fakeSource struct {
	mu     sync.Locker
	sample Sample
	stall  float64 // from now on
	at     time.Time
	err    error
}

func (s *fakeSource) Sample() (Sample, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if !s.at.IsZero() {
		s.sample.Stalled += time.Duration(s.stall * float64(now.Sub(s.at)))
	}
	s.at = now
	return s.sample, s.err
}

// world is a sizer that runs, in a bubble of time. The test has mu, but while it
// lets time pass.
type world struct {
	mu     sync.Mutex
	source fakeSource
	pool   fakePool
	sizer  Sizer
	errors []error
}

// looks lets so many looks pass.
func (w *world) looks(n int) {
	w.mu.Unlock()
	defer w.mu.Lock()
	time.Sleep(time.Duration(n) * Period)
	synctest.Wait()
}

// in runs the test in a bubble of time, half a period after the first look.
func in(t *testing.T, psi bool, test func(*world)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{pool: fakePool{size: Size{Held: 1000, Target: 1000, Floor: 200, Max: 1000}}}
		w.source.sample = Sample{PSI: psi, Total: 1000, Available: 150}
		w.pool.mu, w.source.mu = &w.mu, &w.mu
		w.sizer.Source = &w.source
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { w.sizer.Run(ctx, &w.pool, func(err error) { w.errors = append(w.errors, err) }) })
		time.Sleep(Period / 2)
		synctest.Wait()
		w.mu.Lock()
		test(w)
		w.mu.Unlock()
		cancel()
		running.Wait()
	})
}

func expect(t *testing.T, w *world, want ...int64) {
	t.Helper()
	if !slices.Equal(w.pool.targets, want) {
		t.Errorf("targets are %v, want %v", w.pool.targets, want)
	}
	w.pool.targets = nil
}

// TestShrinksAndGrows goes around once: strained for three looks, then a twentieth
// at each; calm for three, then a twentieth back.
func TestShrinksAndGrows(t *testing.T) {
	in(t, true, func(w *world) {
		w.looks(5)
		expect(t, w)
		w.source.stall = 0.2
		w.looks(2)
		expect(t, w)
		w.looks(3)
		expect(t, w, 950, 903, 858)
		if got := w.sizer.Stall(); got < 0.19 || got > 0.21 {
			t.Errorf("Stall is %v, want 0.2", got)
		}
		w.source.stall = 0.05 // neither
		w.looks(5)
		expect(t, w)
		w.source.stall = 0
		w.looks(4)
		expect(t, w, 908, 958)
		w.looks(4)
		expect(t, w, 1000)
	})
}

func TestFloor(t *testing.T) {
	in(t, true, func(w *world) {
		w.source.stall = 0.3
		w.looks(100)
		if got := w.pool.size.Target; got != 200 {
			t.Errorf("the target is %d, want the floor, 200", got)
		}
	})
}

// TestUrgent: a host that does little else than wait is not kept waiting.
func TestUrgent(t *testing.T) {
	in(t, true, func(w *world) {
		w.source.stall = 0.9
		w.looks(1)
		expect(t, w, 950)
	})
}

// TestHoldsStill lists what looks like pressure and must change nothing.
func TestHoldsStill(t *testing.T) {
	for name, set := range map[string]func(*world){
		"pages come straight back":      func(w *world) { w.pool.thrashing = true },
		"turned off":                    func(w *world) { w.pool.off = true },
		"stalls with plenty of memory":  func(w *world) { w.source.sample.Available = 300 },
		"stalls that are over too soon": nil,
		"nothing can be read":           func(w *world) { w.source.err = errors.New("no such file") },
	} {
		t.Run(name, func(t *testing.T) {
			in(t, true, func(w *world) {
				w.source.stall = 0.3
				if set != nil {
					set(w)
					w.looks(10)
				} else {
					for range 5 {
						w.source.stall = 0.3
						w.looks(2)
						w.source.stall = 0.05
						w.looks(1)
					}
				}
				expect(t, w)
				if wanted := map[bool]int{true: 1}[w.source.err != nil]; len(w.errors) != wanted {
					t.Errorf("errors: %v, want %d", w.errors, wanted)
				}
			})
		})
	}
}

// TestShrinksFromWhatIsHeld: taking from a target that is far away would do nothing.
func TestShrinksFromWhatIsHeld(t *testing.T) {
	in(t, true, func(w *world) {
		w.pool.size.Held = 600
		w.source.stall = 0.3
		w.looks(4)
		expect(t, w, 570, 542)
	})
}

func TestWithoutPSI(t *testing.T) {
	in(t, false, func(w *world) {
		w.source.sample.Available = 40
		w.looks(4)
		expect(t, w, 950, 903)
		w.source.sample.Available = 70
		w.looks(5)
		expect(t, w)
		w.source.sample.Available = 100
		w.looks(3)
		expect(t, w, 953)
	})
}

// TestOperatorMovesBounds: a target outside them follows at once, whatever the host
// is like.
func TestOperatorMovesBounds(t *testing.T) {
	in(t, true, func(w *world) {
		w.source.stall = 0.05
		w.looks(4)
		w.pool.size.Max = 500
		w.looks(1)
		expect(t, w, 500)
	})
}

// TestBounds is S1 and S2 with any host and any pool.
func TestBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := &fakePool{mu: new(sync.Mutex), size: Size{Floor: rapid.Int64Range(0, 1<<50).Draw(t, "floor")}}
		p.size.Max = rapid.Int64Range(p.size.Floor, 1<<50).Draw(t, "max")
		p.size.Target = rapid.Int64Range(p.size.Floor, p.size.Max).Draw(t, "target")
		var s Sizer
		now := time.Unix(1, 0)
		lasting, last := 0, state(-1)
		for range rapid.IntRange(1, 40).Draw(t, "looks") {
			p.size.Held = rapid.Int64Range(0, 1<<50).Draw(t, "held")
			p.thrashing = rapid.Bool().Draw(t, "thrashing")
			sample := Sample{PSI: true, Total: rapid.Int64Range(0, 1<<50).Draw(t, "total")}
			sample.Available = rapid.Int64Range(0, sample.Total).Draw(t, "available")
			sample.Stalled = s.last.Stalled + time.Duration(rapid.Int64Range(-1e9, 3e9).Draw(t, "stalled"))
			now = now.Add(time.Duration(rapid.Int64Range(0, 4e9).Draw(t, "elapsed")))
			before := p.size.Target
			s.look(now, sample, p)
			if p.size.Target < p.size.Floor || p.size.Target > p.size.Max {
				t.Fatalf("S1: target %d is outside %+v", p.size.Target, p.size)
			}
			if s.state != last {
				lasting, last = 0, s.state
			}
			lasting++
			wrong := ""
			switch after := p.size.Target; {
			case after < before && s.state != strained:
				wrong = "shrank without strain"
			case after > before && s.state != calm:
				wrong = "grew without calm"
			case after != before && s.looks < Inertia && s.Stall() < urgentStall:
				wrong = "moved too soon"
			case after < before && p.thrashing:
				wrong = "shrank while pages came back"
			}
			if wrong != "" {
				t.Fatalf("S2: %s: %s", wrong, fmt.Sprintf("%d to %d, %+v", before, p.size.Target, sample))
			}
		}
	})
}
