package frontswap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/backendtest"
)

// drainStep is a step of a drain that can fail. The commit is not among them: it
// is a store of a word and Invalidate, which have no way to fail.
type drainStep struct {
	goesOn bool // the drain does not stop for it
	set    func(r *drainRig, fault func() error)
}

// drainRig is a drain of one backend into another one and storage.
type drainRig struct {
	f          *Frontswap
	a          *Area
	disk       *memory
	from, next *backendtest.Map
	cancel     context.CancelCauseFunc
}

var errStep = errors.New("injected")

var drainSteps = map[string]drainStep{
	"read": {set: func(r *drainRig, fault func() error) {
		r.from.OnLoad = func(backends.Key, backends.Handle, []byte) error { return fault() }
	}},
	"read, for the moment": {set: func(r *drainRig, fault func() error) {
		r.from.OnLoad = func(backends.Key, backends.Handle, []byte) error {
			return wrapped(fault(), backends.ErrTransient)
		}
	}},
	// What does not decompress, or has another checksum: the buffer is garbage then.
	"decompress": {set: func(r *drainRig, fault func() error) {
		r.from.OnLoad = func(_ backends.Key, _ backends.Handle, dst []byte) error {
			err := wrapped(fault(), backends.ErrCorrupt)
			if err != nil {
				copy(dst, "garbage")
			}
			return err
		}
	}},
	"offer, refused": {goesOn: true, set: func(r *drainRig, fault func() error) {
		r.next.OnStore = func(backends.Key, []byte) (backends.Refusal, error) {
			if fault() != nil {
				return backends.RefusedFull, nil
			}
			return backends.Accepted, nil
		}
	}},
	"offer, failed": {goesOn: true, set: func(r *drainRig, fault func() error) {
		r.next.OnStore = func(backends.Key, []byte) (backends.Refusal, error) { return backends.Accepted, fault() }
	}},
	"offer, failed for the moment": {goesOn: true, set: func(r *drainRig, fault func() error) {
		r.next.OnStore = func(backends.Key, []byte) (backends.Refusal, error) {
			return backends.Accepted, wrapped(fault(), backends.ErrTransient)
		}
	}},
	"write": {set: func(r *drainRig, fault func() error) {
		r.disk.before = func(uint64, int) error { return fault() }
	}},
	// Storage has half of it, and garbage after that, when it fails.
	"write, torn": {set: func(r *drainRig, fault func() error) {
		r.disk.before = func(first uint64, n int) error {
			err := fault()
			if err != nil {
				r.disk.mu.Lock()
				for i := range n {
					r.disk.pages[first+uint64(i)] = bytes.Repeat([]byte("torn"), backends.PageSize/4)
				}
				r.disk.mu.Unlock()
			}
			return err
		}
	}},
	"cancel": {set: func(r *drainRig, fault func() error) {
		r.from.OnLoad = func(backends.Key, backends.Handle, []byte) error {
			if err := fault(); err != nil {
				r.cancel(err)
			}
			return nil
		}
	}},
}

func wrapped(err, in error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", in, err)
}

// TestDrainFailsAtEachStep makes each step of a drain fail once, at each page
// that it comes to. All pages must be where the map says, with what was stored,
// and the next drain must finish.
func TestDrainFailsAtEachStep(t *testing.T) {
	for name, step := range drainSteps {
		t.Run(name, func(t *testing.T) {
			failed := 0
			for at := int64(1); drainFailing(t, step, at, &failed); at++ {
				if at > 5 {
					at += 40
				}
			}
			if failed == 0 {
				t.Error("nothing failed at all")
			}
		})
	}
}

// drainFailing has the step fail when it is done for the at-th time, and says
// whether it was done so often.
func drainFailing(t *testing.T, step drainStep, at int64, failed *int) bool {
	t.Helper()
	const pages = 2*BlockPages + 20
	r := &drainRig{f: New(quiet()), disk: &memory{pages: map[uint64][]byte{}}, from: &backendtest.Map{}, next: &backendtest.Map{Limit: 100}}
	r.a = openArea(t, r.f, 1, pages, r.disk)
	var count, armed atomic.Int64
	step.set(r, func() error {
		if armed.Load() == 1 && count.Add(1) == at {
			return errStep
		}
		return nil
	})
	mustRegister(t, r.f, "from", r.from)
	stored := []uint64{}
	for page := uint64(0); page < pages; page += 1 + page%4 {
		store(r.a, page, page)
		stored = append(stored, page)
	}
	mustRegister(t, r.f, "next", r.next)
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	r.cancel = cancel
	armed.Store(1)
	drained, err := r.f.Unregister(ctx, "from")
	armed.Store(0)
	if count.Load() >= at && err == nil && !step.goesOn && context.Cause(ctx) == nil {
		t.Fatalf("at %d: the drain did not stop", at)
	}
	if err != nil {
		*failed++
		s := r.f.Backends()[0]
		if !errors.Is(err, errStep) || s.State != StateFrozen || !strings.Contains(s.Reason, "injected") || s.Drain.Running {
			t.Fatalf("at %d: %v; status after a failed drain: %+v", at, err, s)
		}
		if int(s.Pages) != len(r.from.Keys()) || int(s.Drain.Moved) != len(stored)-len(r.from.Keys()) {
			t.Fatalf("at %d: %d of %d pages are left, the status says %+v", at, len(r.from.Keys()), len(stored), s)
		}
		drained = s.Drain
	} else if count.Load() >= at {
		*failed++
	}
	if onStorage := r.a.Stats().Storage; drained.Stored() != uint64(onStorage) || drained.Into["next"] != uint64(len(r.next.Keys())) {
		t.Fatalf("at %d: the drain counts %d to storage and %v, there are %d and %d", at, drained.Stored(), drained.Into, onStorage, len(r.next.Keys()))
	}
	check := func() {
		t.Helper()
		for _, page := range stored {
			if r.a.Owner(page) != OwnerStorage {
				checkLoad(t, r.a, page, page)
			} else if !bytes.Equal(r.disk.pages[page], backendtest.Mixed(page)) {
				t.Fatalf("at %d: page %d is not on storage", at, page)
			}
		}
	}
	check()
	if err != nil {
		if _, err := r.f.Unregister(t.Context(), "from"); err != nil {
			t.Fatalf("at %d: second try: %v", at, err)
		}
		check()
	}
	closeAll(t, []*Area{r.a}, r.from, r.next)
	return count.Load() >= at
}

// TestDrainCloseFails: a backend that is empty and does not close cleanly is
// gone all the same, and says so.
func TestDrainCloseFails(t *testing.T) {
	f, disk := New(quiet()), &memory{}
	a := openArea(t, f, 1, 100, disk)
	b := &backendtest.Map{OnClose: func() error { return errStep }}
	mustRegister(t, f, "b", b)
	for page := range a.Pages() {
		store(a, page, page)
	}
	if _, err := f.Unregister(t.Context(), "b"); !errors.Is(err, errStep) || !strings.Contains(err.Error(), "it is empty and gone") {
		t.Errorf("unload: %v", err)
	}
	if len(f.Backends()) != 0 || a.Stats().Storage != 100 {
		t.Errorf("afterwards: %+v, %+v", f.Backends(), a.Stats())
	}
	closeAll(t, []*Area{a}, b)
}
