package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/config"
	"github.com/tmemd/tmemd/frontswap"
)

const listHint = "tmemctl backend list shows what is loaded"

func notLoaded(name string) *admin.Error {
	return &admin.Error{Status: http.StatusNotFound, Message: fmt.Sprintf("no backend %s is loaded", name), Hint: listHint}
}

// lifecycleError gives what frontswap says its status and cure.
func lifecycleError(err error) *admin.Error {
	told := &admin.Error{Status: http.StatusConflict, Message: err.Error()}
	switch {
	case errors.Is(err, frontswap.ErrNotLoaded):
		told.Status, told.Hint = http.StatusNotFound, listHint
	case errors.Is(err, frontswap.ErrDraining):
		told.Hint = "wait for its end (tmemctl backend list), or end it: tmemctl backend cancel NAME"
	case errors.Is(err, frontswap.ErrBusy):
		told.Hint = "wait a moment, or end that move: tmemctl backend cancel NAME"
	case errors.Is(err, frontswap.ErrExists):
		told.Hint = "choose another name with --name, or unload that one first"
	}
	return told
}

// Freeze implements admin.Service.
func (s service) Freeze(name, reason string) (admin.Backend, error) {
	if len(reason) > maxReason {
		return admin.Backend{}, &admin.Error{
			Status: http.StatusBadRequest, Message: fmt.Sprintf("the reason has %d bytes, the limit is %d", len(reason), maxReason), Hint: "be brief",
		}
	}
	if reason == "" {
		reason = "the operator froze it"
	}
	return s.change(name, cureState, func() error { return s.d.frontswap.Freeze(name, reason) })
}

// maxReason is how long a reason for freezing may be, in bytes.
const maxReason = 256

// Thaw implements admin.Service.
func (s service) Thaw(name string) (admin.Backend, error) {
	return s.change(name, cureState, func() error { return s.d.frontswap.Thaw(name) })
}

// change does something to a backend and returns it as it is then. cure is for
// what a backend in that state does not do.
func (s service) change(name string, cure func(frontswap.State) string, do func() error) (admin.Backend, error) {
	before, found := findBackend(s.d.frontswap, name)
	if !found {
		return admin.Backend{}, notLoaded(name)
	}
	if err := do(); err != nil {
		told := lifecycleError(err)
		if told.Hint == "" {
			told.Hint = cure(before.State)
		}
		return admin.Backend{}, told
	}
	b, found := findBackend(s.d.frontswap, name)
	if !found {
		return admin.Backend{}, notLoaded(name)
	}
	return showBackend(b), nil
}

// cureState says what can be done with a backend that is in no state for what
// was asked.
func cureState(state frontswap.State) string {
	switch state {
	case frontswap.StateFailed:
		return "a failed backend can only be unloaded: tmemctl backend unload, or replace"
	case frontswap.StateFrozen, frontswap.StateActive:
		return "it is what you want it to be already: " + listHint
	}
	return listHint
}

// Order implements admin.Service.
func (s service) Order(names []string) ([]admin.Backend, error) {
	if err := s.d.frontswap.Order(names); err != nil {
		told := lifecycleError(err)
		if told.Hint == "" {
			told.Status, told.Hint = http.StatusBadRequest, "name each backend once, the one that is asked first first"
		}
		return nil, told
	}
	return s.Backends(), nil
}

// Cancel implements admin.Service.
func (s service) Cancel(name string) (admin.Backend, error) {
	if now := phase(s.d.phase.Load()); now != phaseServing {
		return admin.Backend{}, &admin.Error{
			Status: http.StatusConflict, Message: "tmemd is being stopped, and goes on moving pages to storage", Hint: "tmemctl status shows how far it is",
		}
	}
	const hint = "tmemctl backend list shows what is being moved"
	return s.change(name, func(frontswap.State) string { return hint }, func() error { return s.d.frontswap.Cancel(name) })
}

// Shrink implements admin.Service.
func (s service) Shrink(name string, r admin.MoveRequest) (admin.Move, error) {
	n, err := pagesOf(r)
	if err != nil {
		return nil, err
	}
	f := s.d.frontswap
	return s.moveColdest(name, moveOrder{operation: admin.OperationShrink, most: n}, "", func(m uint64) (uint64, error) {
		return f.Shrink(context.Background(), name, m)
	})
}

// Migrate implements admin.Service.
func (s service) Migrate(name string, r admin.MoveRequest) (admin.Move, error) {
	n, err := pagesOf(r)
	if err != nil {
		return nil, err
	}
	f := s.d.frontswap
	into := s.d.moves.offered(name)
	if _, found := findBackend(f, name); found && into == "" {
		return nil, &admin.Error{
			Status: http.StatusConflict, Message: fmt.Sprintf("no backend that takes pages comes after %s", name),
			Hint: "load another one or change the order (tmemctl backend order); tmemctl backend shrink moves pages to storage",
		}
	}
	return s.moveColdest(name, moveOrder{operation: admin.OperationMigrate, most: n}, into, func(m uint64) (uint64, error) {
		return f.Migrate(context.Background(), name, m)
	})
}

func (s service) moveColdest(name string, order moveOrder, into string, do func(uint64) (uint64, error)) (admin.Move, error) {
	started := time.Now()
	m, err := s.d.moves.start(name, order, into, func() (frontswap.Drain, error) {
		moved, err := do(order.most)
		drained := frontswap.Drain{Started: started, Total: order.most, Moved: moved}
		if b, found := findBackend(s.d.frontswap, name); found && b.Drain.Moved == moved {
			drained.Into = b.Drain.Into // not if the next move has begun by now
		}
		return drained, err
	})
	if err != nil {
		return nil, err
	}
	return m, nil
}

// pagesOf is how many pages a request is about.
func pagesOf(r admin.MoveRequest) (uint64, error) {
	wrong := func(message string) *admin.Error {
		return &admin.Error{
			Status: http.StatusBadRequest, Message: message, Hint: "say how much with --pages 1000 or --bytes 512MiB, which counts pages before compression",
		}
	}
	switch {
	case r.Pages > 0 && r.Bytes == "":
		return r.Pages, nil
	case r.Pages > 0:
		return 0, wrong("both pages and bytes are given")
	case r.Bytes == "":
		return 0, wrong("neither pages nor bytes are given")
	}
	size, err := config.ParseSize(r.Bytes)
	if err != nil {
		return 0, wrong("bytes: " + err.Error())
	}
	bytes, absolute := size.Bytes()
	if !absolute {
		return 0, wrong(fmt.Sprintf("bytes: %q is a percentage", r.Bytes))
	}
	return (uint64(bytes) + pageSize - 1) / pageSize, nil
}

// Replace implements admin.Service.
func (s service) Replace(name string, r admin.LoadRequest) (admin.Move, error) {
	d := s.d
	order := moveOrder{operation: admin.OperationReplace, with: fmt.Sprintf("%+v", r)}
	if r.Name == "" {
		r.Name = d.freeName(r.Kind)
	}
	c, err := s.checkLoad(r)
	if err != nil {
		return nil, err
	}
	// Before a stop or not at all (E5).
	d.loading.Lock()
	defer d.loading.Unlock()
	if err := d.mayChange("replaces no backend"); err != nil {
		return nil, err
	}
	m, err := d.moves.start(name, order, c.Name, func() (frontswap.Drain, error) {
		b, err := d.makeBackend(c)
		if err != nil {
			return frontswap.Drain{}, err
		}
		if r, ok := behindRules(b).(*remote); ok {
			d.lookFor(context.Background(), c.Name, r) // else it has nowhere to put pages
		}
		drained, err := d.frontswap.Replace(context.Background(), name, c.Name, b)
		if err != nil && drained.Started.IsZero() {
			d.faults.forget(b)
			err = errors.Join(err, b.Close()) // it was not loaded
		}
		return drained, err
	})
	if err != nil {
		return nil, err
	}
	return m, nil
}

// freeName is a name that no backend has: the kind, or the kind and a number.
func (d *Daemon) freeName(kind string) string {
	name := kind
	for i := 2; ; i++ {
		if _, taken := findBackend(d.frontswap, name); !taken {
			return name
		}
		name = fmt.Sprintf("%s-%d", kind, i)
	}
}

// mayChange refuses what a daemon that is being stopped does not do any more.
// REQUIRES: loading held.
func (d *Daemon) mayChange(what string) error {
	if phase(d.phase.Load()) == phaseServing {
		return nil
	}
	return &admin.Error{
		Status: http.StatusConflict, Message: "tmemd is being stopped, and " + what + " any more",
		Hint: "do it after the next start",
	}
}
