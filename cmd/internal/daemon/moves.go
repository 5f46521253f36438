package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/frontswap"
)

// moves are the moves of backends' pages that somebody asked for, one for each
// backend. Whoever wants what is being done joins it: a request, a second
// request, the daemon's stop. An unload puts an end to a shrink or migration.
type moves struct {
	frontswap *frontswap.Frontswap // immutable

	mu      sync.Mutex
	running map[string]*move // by backend; guarded by mu
	held    bool             // none may begin: an upgrade is under way; guarded by mu
	tasks   sync.WaitGroup   // their goroutines; added to under mu
}

// moveOrder says what is to be done. Two that are equal are the same.
type moveOrder struct {
	operation string // an admin.Operation
	with      string // what a replacement is asked for
	most      uint64 // pages to shrink by or to migrate
}

// drains says whether the backend is gone at the end.
func (o moveOrder) drains() bool {
	return o.operation == admin.OperationUnload || o.operation == admin.OperationReplace
}

// move is one move. It implements admin.Move.
type move struct {
	name      string
	order     moveOrder
	frontswap *frontswap.Frontswap
	began     time.Time // by then, frontswap's move is this one
	into      string
	done      chan struct{}
	err       *admin.Error // written before done is closed, as is cause
	cause     error

	mu   sync.Mutex
	last admin.Progress // as of the latest look; guarded by mu
}

func newMoves(f *frontswap.Frontswap) *moves {
	return &moves{frontswap: f, running: map[string]*move{}}
}

// task does what an order says. A move that was never begun has a zero Drain.
type task func() (frontswap.Drain, error)

// unload begins to unload the backend, or joins what will have unloaded it.
func (ms *moves) unload(name string) (*move, error) {
	return ms.start(name, moveOrder{operation: admin.OperationUnload}, ms.offered(name), func() (frontswap.Drain, error) {
		return ms.frontswap.Unregister(context.Background(), name)
	})
}

// start begins a move, or returns the one under way that does the same.
// Nothing ends it but success, an error or a cancel: a page must not depend on
// whether somebody waits.
func (ms *moves) start(name string, order moveOrder, into string, do task) (*move, error) {
	b, found := findBackend(ms.frontswap, name)
	ms.mu.Lock()
	defer ms.mu.Unlock()
	if ms.held {
		return nil, &admin.Error{
			Status: http.StatusConflict, Message: "tmemd is being upgraded", Hint: "wait for its end: tmemctl status",
		}
	}
	if m, err := ms.joinLocked(name, order); err != nil {
		return nil, err
	} else if m != nil {
		return m, nil
	}
	if !found {
		return nil, notLoaded(name)
	}
	total := b.Pages
	if !order.drains() {
		total = min(total, order.most)
	}
	m := &move{
		name: name, order: order, frontswap: ms.frontswap, began: time.Now(), into: into, done: make(chan struct{}),
		last: admin.Progress{Running: true, Total: total, Left: total},
	}
	ms.running[name] = m
	ms.tasks.Go(func() {
		drained, err := do()
		ms.mu.Lock()
		defer ms.mu.Unlock()
		if ms.running[name] == m { // not if an unload took over
			delete(ms.running, name)
		}
		m.finish(drained, err)
	})
	return m, nil
}

// joinLocked finds the move under way that does what is wanted: nil if there is none,
// an error if one is in the way. REQUIRES: mu held.
func (ms *moves) joinLocked(name string, order moveOrder) (*move, *admin.Error) {
	m := ms.running[name]
	switch {
	case m == nil:
		return nil, nil
	case m.order == order, m.order.drains() && order.operation == admin.OperationUnload:
		return m, nil
	case order.drains() && !m.order.drains():
		return nil, nil // frontswap ends the other one
	}
	return nil, &admin.Error{
		Status:  http.StatusConflict,
		Message: fmt.Sprintf("backend %s: its pages are being moved already (%s)", name, m.order.operation),
		Hint:    "wait for its end (tmemctl backend list), or end it: tmemctl backend cancel " + name,
	}
}

// unloading says whether the backend of that name is on its way out.
func (ms *moves) unloading(name string) bool {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	m := ms.running[name]
	return m != nil && m.order.drains()
}

// replacing says whether a backend is being replaced.
func (ms *moves) replacing() bool {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	for _, m := range ms.running {
		if m.order.operation == admin.OperationReplace {
			return true
		}
	}
	return false
}

// offered names the backends that pages of one move on to; storage gets the
// rest.
func (ms *moves) offered(name string) string {
	into, after := "", false
	for _, b := range ms.frontswap.Backends() {
		switch {
		case b.Name == name:
			after = true
		case after && b.State == frontswap.StateActive && into == "":
			into = b.Name
		case after && b.State == frontswap.StateActive:
			into += " or " + b.Name
		}
	}
	return into
}

func (m *move) finish(drained frontswap.Drain, err error) {
	m.mu.Lock()
	if !drained.Started.IsZero() {
		m.last = m.progressLocked(drained, time.Now())
	}
	m.last.Running = false
	m.mu.Unlock()
	if err != nil {
		m.cause = err
		m.err = moveError(err, m.order)
	}
	close(m.done)
}

// moveError adds the cure.
func moveError(err error, order moveOrder) *admin.Error {
	told := &admin.Error{Status: http.StatusInternalServerError, Message: err.Error()}
	if known := lifecycleError(err); known.Hint != "" {
		told = known
	}
	again := order.operation
	if order.drains() {
		again = admin.OperationUnload // a replacement is there by now
	}
	switch {
	case errors.Is(err, frontswap.ErrCancelled) && order.drains():
		told.Status, told.Hint = http.StatusConflict, "nothing is lost: tmemctl backend thaw lets it take pages again, tmemctl backend unload goes on"
	case errors.Is(err, frontswap.ErrCancelled):
		told.Status, told.Hint = http.StatusConflict, "nothing is lost: what was moved has moved, the rest stayed"
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		told.Hint = "nothing is lost: make room where the storage is, then " + again + " again"
	case errors.Is(err, os.ErrPermission), errors.Is(err, unix.EIO):
		told.Hint = "nothing is lost: put the storage right, then " + again + " again"
	case told.Hint == "":
		told.Hint = "nothing is lost: see the daemon's log, then " + again + " again"
	}
	return told
}

// Operation implements admin.Move.
func (m *move) Operation() string { return m.order.operation }

// Into implements admin.Move.
func (m *move) Into() string { return m.into }

// Done implements admin.Move.
func (m *move) Done() <-chan struct{} { return m.done }

// Err implements admin.Move.
func (m *move) Err() error {
	select {
	case <-m.done:
		if m.err != nil {
			return m.err
		}
	default:
	}
	return nil
}

// Progress implements admin.Move.
func (m *move) Progress() admin.Progress {
	b, found := findBackend(m.frontswap, m.name)
	m.mu.Lock()
	defer m.mu.Unlock()
	select {
	case <-m.done:
		return m.last // the final numbers
	default:
	}
	// An earlier move is still shown in the moment before this one begins.
	if found && b.Drain.Started.After(m.began) {
		m.last = m.progressLocked(b.Drain, time.Now())
	}
	return m.last
}

// progressLocked shows frontswap's numbers. REQUIRES: mu held.
func (m *move) progressLocked(d frontswap.Drain, now time.Time) admin.Progress {
	if !m.order.drains() {
		d.Total = m.last.Total // what was asked for, or all that there was
		d.Left = d.Total - min(d.Moved, d.Total)
	}
	return progress(d, now)
}

// progress adds to a drain's numbers how fast it is.
func progress(d frontswap.Drain, now time.Time) admin.Progress {
	p := admin.Progress{Running: d.Running, Total: d.Total, Moved: d.Moved, Left: d.Left, ToStorage: d.Stored(), ToBackends: d.Into}
	if seconds := now.Sub(d.Started).Seconds(); d.Running && seconds > 0 && d.Moved > 0 {
		p.PagesPerSecond = float64(d.Moved) / seconds
		p.SecondsLeft = float64(d.Left) / p.PagesPerSecond
	}
	return p
}

func findBackend(f *frontswap.Frontswap, name string) (frontswap.BackendStatus, bool) {
	for _, b := range f.Backends() {
		if b.Name == name {
			return b, true
		}
	}
	return frontswap.BackendStatus{}, false
}
