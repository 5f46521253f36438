package mover

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/tier"
)

const (
	pageSize = backends.PageSize

	// runPages is the most that one write carries: 256 KiB keep a page's lock for no
	// longer than it takes to copy them.
	runPages = tier.WordPages
	// zeroPages is the most that one WRITE_ZEROES covers: 1 GiB.
	zeroPages = 1 << 18
	// chunk is what a connection takes of the export at a time: 16 MiB.
	chunk = 4096

	maxConnections = 4
	// MaxTries is how many pauses may be too short before a move fails.
	MaxTries = 5
	// maxUseless is how many rounds in a row may leave as much as there was before.
	maxUseless = 5
)

// Config says where to and how.
type Config struct {
	Size     int64 // of the export, in bytes
	Connect  func(context.Context) (*Connection, error)
	MaxPause time.Duration

	// Check is asked about the target before anything is written to it.
	Check func(Export) error
	// Enter is called before requests are held back, and what it returns when they are
	// not any more: what Commit needs and may have to wait for.
	Enter func() (leave func(), err error)
	// Commit makes the target the export. Requests are held back, and stay so if it
	// returns nil.
	Commit func(context.Context) error
	// Report is told how far it is, after each round and in between. May be nil.
	Report func(Progress)
}

// Progress is how far a move is.
type Progress struct {
	Round int    // from 1
	Sent  uint64 // pages, those that are zeros included, over all rounds
	Left  uint64 // pages to be copied, those that changed since included
	Rate  float64
}

// Result is what became of a move.
type Result struct {
	Progress
	Held time.Time // when requests were held back for the last time
}

// StuckError says that a move does not come to its end.
type StuckError struct {
	Changed, Copied float64       // pages a second
	Pause           time.Duration // that is allowed
}

// Error implements error.
func (e *StuckError) Error() string {
	return fmt.Sprintf("clients change %.1f MiB a second, %.1f MiB a second are copied, and what is left never fits into a pause of %v",
		e.Changed*pageSize/(1<<20), e.Copied*pageSize/(1<<20), e.Pause)
}

// mover is one move.
type mover struct {
	Config
	log         *tier.Changes
	connections []*Connection
	sent, data  atomic.Uint64 // pages; data without those that are zeros
	round       int
	rate        float64 // pages a second, lately
}

// Run moves what the log is of. If it returns nil, Commit has, and requests are held back:
// the caller lets them fail. After an error they go on.
func Run(ctx context.Context, log *tier.Changes, config Config) (Result, error) {
	m := &mover{Config: config, log: log}
	defer func() {
		for _, c := range m.connections {
			c.Close()
		}
	}()
	if err := m.connect(ctx); err != nil {
		return Result{}, err
	}
	stop := context.AfterFunc(ctx, func() {
		for _, c := range m.connections {
			c.Cut()
		}
	})
	defer stop()
	held, err := m.run(ctx)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	return Result{Progress: m.progress(), Held: held}, err
}

func (m *mover) connect(ctx context.Context) error {
	first, err := m.Connect(ctx)
	if err != nil {
		return err
	}
	m.connections = append(m.connections, first)
	const needed = flagFlush | flagZeroes
	switch e := first.Export; {
	case e.Size != m.Size:
		return fmt.Errorf("the target has %d bytes, and the export %d", e.Size, m.Size)
	case e.flags&flagReadOnly != 0:
		return errors.New("the target is read-only")
	case e.flags&needed != needed:
		return errors.New("the target takes no FLUSH or no WRITE_ZEROES")
	case e.flags&flagMultiConn == 0:
		return m.Check(e)
	}
	if err := m.Check(first.Export); err != nil {
		return err
	}
	for len(m.connections) < maxConnections {
		c, err := m.Connect(ctx)
		if err != nil {
			return err
		}
		m.connections = append(m.connections, c)
		if c.Export != first.Export {
			return errors.New("the target is another one now")
		}
	}
	return nil
}

func (m *mover) run(ctx context.Context) (held time.Time, err error) {
	before, useless, tries := m.log.Left(), 0, 0
	for {
		m.round++
		began := time.Now()
		data := m.data.Load()
		if err := m.copy(ctx); err != nil {
			return held, err
		}
		if err := m.flush(); err != nil { // so that the last one is short
			return held, err
		}
		seconds := max(time.Since(began).Seconds(), 1e-6)
		if n := m.data.Load() - data; n >= chunk || m.rate == 0 {
			m.rate = float64(n) / seconds
		}
		left := m.log.Left()
		m.report()
		if float64(left) <= max(m.rate*m.MaxPause.Seconds()/2, 1) {
			held, err = m.pause(ctx)
			if !errors.Is(err, errTooLong) {
				return held, err
			}
			if tries++; tries == MaxTries {
				return held, fmt.Errorf("%d pauses of %v were too short: %w", tries, m.MaxPause, err)
			}
			left = m.log.Left()
		} else if left >= before-before/10 {
			if useless++; useless == maxUseless {
				return held, &StuckError{Changed: float64(left) / seconds, Copied: m.rate, Pause: m.MaxPause}
			}
		}
		before = left
	}
}

// errTooLong says that a pause was too short. Requests go on by then.
var errTooLong = errors.New("the target did not have everything in time")

// pause is the time for which requests are held back: until it is over by itself, or until
// what it was for is done in time.
type pause struct {
	mu    sync.Mutex
	ended bool // guarded by mu
}

// end ends the pause, if it has not ended yet.
func (p *pause) end(then func()) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return false
	}
	p.ended = true
	then()
	return true
}

// pause holds requests back, copies what is left, and commits. If that takes too long,
// requests go on, and it was one more round.
func (m *mover) pause(ctx context.Context) (held time.Time, err error) {
	leave, err := m.Enter()
	if err != nil {
		return held, err
	}
	defer leave()
	p := &pause{}
	held = time.Now()
	timer := time.AfterFunc(m.MaxPause, func() { p.end(m.log.Release) })
	defer timer.Stop()
	m.log.Hold()
	m.round++
	if err = m.copy(ctx); err == nil {
		err = m.flush()
	}
	if err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		p.end(m.log.Release)
		return held, err
	}
	if !p.end(func() {}) {
		return held, errTooLong
	}
	if err := m.Commit(ctx); err != nil {
		m.log.Release()
		return held, err
	}
	return held, nil
}

// copy copies what is marked, over all connections, and waits for the replies.
func (m *mover) copy(ctx context.Context) error {
	var cursor atomic.Uint64
	var workers, reporter sync.WaitGroup
	errs := make([]error, len(m.connections))
	for i, c := range m.connections {
		workers.Go(func() {
			w := &worker{m: m, c: c, data: make([]byte, runPages*pageSize)}
			if errs[i] = w.run(ctx, &cursor); errs[i] == nil {
				errs[i] = c.Wait()
			}
		})
	}
	copied := make(chan struct{})
	reporter.Go(func() { m.keepReporting(copied) })
	workers.Wait()
	close(copied)
	reporter.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// flush has the target bring all to its medium. REQUIRES: no reply is waited for.
func (m *mover) flush() error {
	if err := m.connections[0].Flush(); err != nil {
		return err
	}
	return m.connections[0].Wait()
}

func (m *mover) progress() Progress {
	return Progress{Round: m.round, Sent: m.sent.Load(), Left: m.log.Left(), Rate: m.rate}
}

func (m *mover) report() {
	if m.Report != nil {
		m.Report(m.progress())
	}
}

const reportEvery = 200 * time.Millisecond

// keepReporting reports until it is told to end; nobody else changes what it looks at.
func (m *mover) keepReporting(end <-chan struct{}) {
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	for {
		select {
		case <-end:
			return
		case <-tick.C:
			m.report()
		}
	}
}

// worker copies over one connection.
type worker struct {
	m    *mover
	c    *Connection
	data []byte

	zeroFirst, zeroLast uint64 // pages that are zeros, and have not been sent
}

func (w *worker) run(ctx context.Context, cursor *atomic.Uint64) error {
	pages := w.m.log.Pages()
	for {
		start := cursor.Add(chunk) - chunk
		if start >= pages {
			return w.sendZeroes()
		}
		for first := start; first < min(start+chunk, pages); first += tier.WordPages {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			marks := w.m.log.Take(first)
			for marks != 0 {
				from := first + uint64(bits.TrailingZeros64(marks))
				end := from + uint64(bits.TrailingZeros64(^(marks >> (from - first))))
				if err := w.pages(from, end); err != nil {
					return err
				}
				if end-first >= tier.WordPages {
					break
				}
				marks = marks >> (end - first) << (end - first)
			}
		}
	}
}

// pages copies pages of one word of the log. If that fails so does the move.
func (w *worker) pages(from, end uint64) error {
	for from < end {
		n, hole, err := w.m.log.Read(from, end, w.data)
		if err != nil {
			return err
		}
		switch {
		case hole && w.zeroLast == from && w.zeroLast > w.zeroFirst:
			w.zeroLast = from + n
		case hole:
			if err := w.sendZeroes(); err != nil {
				return err
			}
			w.zeroFirst, w.zeroLast = from, from+n
		default:
			if err := w.c.Write(int64(from)*pageSize, w.data[:n*pageSize]); err != nil {
				return err
			}
			w.m.sent.Add(n)
			w.m.data.Add(n)
		}
		if w.zeroLast-w.zeroFirst >= zeroPages-tier.WordPages {
			if err := w.sendZeroes(); err != nil {
				return err
			}
		}
		from += n
	}
	return nil
}

// sendZeroes sends the zeros that were put off.
func (w *worker) sendZeroes() error {
	if w.zeroFirst == w.zeroLast {
		return nil
	}
	n := w.zeroLast - w.zeroFirst
	err := w.c.WriteZeroes(int64(w.zeroFirst)*pageSize, int64(n)*pageSize)
	w.zeroFirst, w.zeroLast = 0, 0
	if err == nil {
		w.m.sent.Add(n)
	}
	return err
}
