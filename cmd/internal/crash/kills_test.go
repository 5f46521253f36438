package crash

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tmemd/tmemd/cmd/internal/nbdtest"
)

// number reads a number from the environment.
func number(t *testing.T, variable string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", variable, err)
	}
	return n
}

// story is one daemon's life after the other.
type story struct {
	t        *testing.T
	args     []string // more of tmemd's
	dedup    bool     // the client keeps identical pages once, and has many
	place    place
	random   *rand.Rand
	workers  []*worker
	requests uint64
	orders   int
	kills    uint64
	inStart  int    // kills while it was starting
	stops    int    // ends as they should be
	idle     int    // kills without requests, examined for orphans
	shared   uint64 // the most pages that were shared at a start
}

func TestKills(t *testing.T) { testKills(t, number(t, "CRASH_KILLS", 12), false) }

// TestDedupKills is TestKills with pages that are shared: of a few contents, over and over.
func TestDedupKills(t *testing.T) { testKills(t, number(t, "CRASH_KILLS", 8), true) }

func testKills(t *testing.T, kills uint64, dedup bool) {
	seed := number(t, "CRASH_SEED", uint64(time.Now().UnixNano()))
	t.Logf("CRASH_SEED=%d", seed)
	s := &story{t: t, dedup: dedup, place: newPlace(t), random: rand.New(rand.NewPCG(seed, 0))}
	for n := range workers {
		w := newWorker(n, seed)
		w.few = dedup
		s.workers = append(s.workers, w)
	}
	for s.kills < kills {
		if err := s.life(); err != nil {
			t.Fatalf("after %d kills of CRASH_SEED=%d: %v", s.kills, seed, err)
		}
		if s.kills%100 == 0 {
			t.Logf("%d kills so far", s.kills)
		}
	}
	p, err := s.start()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.stop(); err != nil {
		t.Fatalf("%v\n%s", err, &p.log)
	}
	if left, err := os.ReadDir(s.place.memory); err == nil {
		t.Errorf("the memory folder is still there after a stop, with %v", left)
	}
	if dedup != (s.shared > 0) {
		t.Errorf("%d pages were shared, dedup is %v", s.shared, dedup)
	}
	if s.requests < kills || s.orders == 0 {
		t.Errorf("%d requests and %d orders are not much of a load", s.requests, s.orders)
	}
	t.Logf("up to %d pages were shared at a start", s.shared)
	t.Logf("%d kills, %d of them while it started, %d without requests; %d stops; %d requests and %d orders of operators were answered",
		s.kills, s.inStart, s.idle, s.stops, s.requests, s.orders)
}

// start starts a daemon and verifies every page.
func (s *story) start() (*process, error) {
	p, err := s.place.launch(append([]string{"--size", strconv.Itoa(exportSize), "--config", s.config()}, s.args...)...)
	if err != nil {
		return nil, err
	}
	err = p.awaitReady()
	if err == nil {
		err = s.each(func(w *worker, c *nbdtest.Client) error { return w.verify(c) })
	}
	if err == nil {
		err = s.countShared()
	}
	if err != nil {
		p.kill()
		return nil, fmt.Errorf("%w\n%s", err, &p.log)
	}
	return p, nil
}

// countShared looks how many pages are shared.
func (s *story) countShared() error {
	o := newOperator(s.place, 0)
	defer o.client.Close()
	status, err := o.client.Status(context.Background())
	if err != nil {
		return err
	}
	for _, b := range status.Backends {
		s.shared = max(s.shared, b.SharedPages)
	}
	return nil
}

// config is a file with a backend that is soon full.
func (s *story) config() string {
	path := s.place.dir + "/tmemd.toml"
	text := "[[backend]]\nkind = \"zcache\"\nsize = \"3MiB\"\n"
	if s.dedup {
		text += "[[client]]\nname = \"default\"\ndedup = true\n[[export]]\nname = \"swap\"\n"
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// each lets every worker do something, at once, with a connection of its own.
func (s *story) each(do func(*worker, *nbdtest.Client) error) error {
	return each(s.place, "swap", s.workers, do)
}

// each lets every worker on an export do something.
func each(p place, export string, workers []*worker, do func(*worker, *nbdtest.Client) error) error {
	errs := make(chan error, len(workers))
	for _, w := range workers {
		go func() {
			c, err := nbdtest.Dial("unix", p.socket(), export)
			if err != nil {
				errs <- notAttached{err}
				return
			}
			defer c.Close() // its error is that the daemon is gone
			errs <- do(w, c)
		}()
	}
	var first error
	for range cap(errs) {
		if err := <-errs; err != nil && first == nil {
			first = err
		}
	}
	return first
}

// notAttached says that there was nobody to attach to.
type notAttached struct{ error }

// life is one daemon, from a start to an end.
func (s *story) life() error {
	if s.random.IntN(5) == 0 {
		if err := s.dieStarting(); err != nil {
			return err
		}
	}
	p, err := s.start()
	if err != nil {
		return err
	}
	if s.random.IntN(8) == 0 {
		return s.dieIdle(p)
	}
	if err := s.load(p); err != nil {
		return fmt.Errorf("%w\n%s", err, &p.log)
	}
	if s.random.IntN(4) == 0 {
		if text, err := s.place.check(); err != nil {
			return fmt.Errorf("%w\n%s", err, text)
		}
	}
	return nil
}

// dieStarting kills a daemon at some instant of its start.
func (s *story) dieStarting() error {
	p, err := s.place.launch("--config", s.config(), "--size", strconv.Itoa(exportSize))
	if err != nil {
		return err
	}
	time.Sleep(time.Duration(s.random.IntN(60)) * time.Millisecond)
	if err := p.kill(); err != nil {
		return fmt.Errorf("%w\n%s", err, &p.log)
	}
	s.kills++
	s.inStart++
	return nil
}

// dieIdle kills a daemon that has nothing to do, so that there are no orphans (K3).
func (s *story) dieIdle(p *process) error {
	o := newOperator(s.place, 0)
	defer o.client.Close()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		status, err := o.client.Status(context.Background())
		if err != nil {
			return err
		}
		busy := false
		for _, b := range status.Backends {
			busy = busy || b.Drain != nil && b.Drain.Running
		}
		if !busy {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("a drain does not end: %+v", status.Backends)
		}
	}
	if err := p.kill(); err != nil {
		return fmt.Errorf("%w\n%s", err, &p.log)
	}
	s.kills++
	s.idle++
	text, err := s.place.check()
	if err != nil {
		return fmt.Errorf("%w\n%s", err, text)
	}
	if n := strings.Count(text, "copies that no map names"); n != strings.Count(text, " 0 copies that no map names") {
		return fmt.Errorf("copies leaked:\n%s", text)
	}
	return nil
}

// load lets everybody work on a daemon until it is killed or, now and then,
// stopped.
func (s *story) load(p *process) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	o := newOperator(s.place, s.random.Uint64())
	var operators sync.WaitGroup
	operators.Go(func() { o.run(ctx) })
	worked := make(chan error, 1)
	before := s.count()
	go func() { worked <- s.each(func(w *worker, c *nbdtest.Client) error { return w.work(c) }) }()
	time.Sleep(time.Duration(s.random.IntN(400)) * time.Millisecond)
	var ended error
	if s.random.IntN(16) == 0 {
		// The second signal does not wait for clients.
		p.Process.Signal(os.Interrupt)
		time.Sleep(time.Duration(s.random.IntN(50)) * time.Millisecond)
		if s.random.IntN(2) == 0 {
			ended = p.stop()
			s.stops++
		} else {
			ended = p.kill()
			s.kills++
		}
	} else {
		ended = p.kill()
		s.kills++
	}
	if ended != nil {
		_ = p.kill() // its error is that it ended by itself; workers wait for that
	}
	cancel()
	operators.Wait()
	err := <-worked
	s.requests += s.count() - before
	s.orders += o.done
	var gone notAttached
	switch {
	case ended != nil:
		return ended
	case errors.As(err, &gone):
		return nil // it was killed before anybody was there
	}
	return err
}

func (s *story) count() (n uint64) {
	for _, w := range s.workers {
		n += w.count
	}
	return n
}
