package estimate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"runtime"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/backends/pagemap"
	"github.com/tmemd/tmemd/backends/zcache"
	"github.com/tmemd/tmemd/cmd/internal/cli"
)

// nice is what the thread that does the work has (E3).
const nice = 10

// place is where a page is.
type place struct {
	pid     int
	address uint64
}

// reservoir chooses places at random, each with the same chance, of as many as are
// offered (Vitter's algorithm R).
type reservoir struct {
	random  *rand.Rand
	most    int
	offered int64
	places  []place
}

func (r *reservoir) offer(p place) {
	r.offered++
	if len(r.places) < r.most {
		r.places = append(r.places, p)
	} else if i := r.random.Int64N(r.offered); i < int64(r.most) {
		r.places[i] = p
	}
}

// sample is what was seen.
type sample struct {
	processes  int
	denied     int   // processes whose memory may not be read
	candidates int64 // pages, before they are looked at
	looked     int64 // of these
	counted    int64 // of these, swappable, once for all who share it
	restricted bool
	judged     tally
}

// pages is an estimate of how many there are to swap.
func (s *sample) pages() float64 {
	if s.looked == 0 {
		return 0
	}
	return float64(s.candidates) * float64(s.counted) / float64(s.looked)
}

// Status is how far a run is.
type Status struct {
	Phase    string
	Done, Of int
}

// sampler does the work, on a thread of its own.
type sampler struct {
	random *rand.Rand
	judge  *zcache.Judge
	tell   func(Status)
	sample
}

// take samples the memory of processes.
func take(ctx context.Context, pids []int, pages int, seed uint64, tell func(Status)) (*sample, error) {
	judge, err := zcache.NewJudge()
	if err != nil {
		return nil, err
	}
	s := &sampler{random: rand.New(rand.NewPCG(seed, 0)), judge: judge, tell: tell}
	done := make(chan error)
	go func() {
		// The thread ends with the goroutine, and its nice value with it.
		runtime.LockOSThread()
		_ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), nice) // lower is never refused
		done <- s.run(ctx, pids, pages)
	}()
	if err := <-done; err != nil {
		return nil, err
	}
	return &s.sample, nil
}

func (s *sampler) run(ctx context.Context, pids []int, pages int) error {
	chosen := reservoir{random: s.random, most: pages}
	for i, pid := range pids {
		if err := ctx.Err(); err != nil {
			return err
		}
		s.tell(Status{"processes", i, len(pids)})
		if err := s.scan(pid, &chosen); err != nil {
			return err
		}
	}
	s.candidates = chosen.offered
	if s.candidates == 0 && s.denied > 0 {
		return cli.Failure("run it as root, or name a process of yours with --pid", "the memory of none of %d processes may be read", s.denied)
	}
	// In the order of processes and addresses, so that each is opened once.
	slices.SortFunc(chosen.places, func(a, b place) int {
		return cmp.Or(cmp.Compare(a.pid, b.pid), cmp.Compare(a.address, b.address))
	})
	for at := 0; at < len(chosen.places); {
		end := at
		for end < len(chosen.places) && chosen.places[end].pid == chosen.places[at].pid {
			end++
		}
		if err := s.look(ctx, chosen.places, at, end); err != nil {
			return err
		}
		at = end
	}
	return nil
}

// scan offers all pages of a process.
func (s *sampler) scan(pid int, chosen *reservoir) error {
	p, err := pagemap.Open(pid)
	if err == nil {
		defer p.Close()
		before := chosen.offered
		err = p.Private(func(address uint64) { chosen.offer(place{pid, address}) })
		if chosen.offered > before {
			s.processes++
		}
	}
	return s.except(pid, err)
}

// except lets processes pass that have ended, or are not the caller's.
func (s *sampler) except(pid int, err error) error {
	switch {
	case err == nil, errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ESRCH):
		return nil
	case errors.Is(err, fs.ErrPermission):
		s.denied++
		return nil
	}
	return fmt.Errorf("process %d: %w", pid, err)
}

// look judges the chosen pages of one process: places at to end.
func (s *sampler) look(ctx context.Context, places []place, at, end int) error {
	pid := places[at].pid
	p, err := pagemap.Open(pid)
	if err != nil {
		s.looked += int64(end - at)
		return s.except(pid, err)
	}
	defer p.Close()
	page := make([]byte, pagemap.PageSize)
	for i := at; i < end; i++ {
		if i%256 == 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
			s.tell(Status{"pages", i, len(places)})
		}
		s.looked++
		sharers, ok, err := p.Swappable(places[i].address)
		if err != nil {
			return fmt.Errorf("process %d: %w", pid, err)
		}
		if !ok || sharers > 1 && s.random.Uint64N(sharers) > 0 || p.Read(places[i].address, page) != nil {
			continue
		}
		s.counted++
		s.judged.add(s.judge.Page(page))
	}
	s.restricted = s.restricted || p.Restricted()
	return nil
}
