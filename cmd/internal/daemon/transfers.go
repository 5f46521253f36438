package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/tmemd/tmemd/cmd/internal/admin"
)

// transfers are the saves, restores and moves of whole exports that are under way, one
// for each export at most. A stop of the daemon ends them; nothing of them is half done
// then. The zero value is ready.
type transfers struct {
	mu      sync.Mutex
	running map[string]*transfer // by export; guarded by mu
	tasks   sync.WaitGroup       // added to under mu

	moved, failed atomic.Uint64 // moves, by how they ended
	pause         atomic.Int64  // nanoseconds, of the latest that was done
}

// transfer is one of them.
type transfer struct {
	doing  string // "saved", as in: the export is being saved
	cancel context.CancelCauseFunc
}

// errStopping ends a transfer.
var errStopping = errors.New("tmemd is being stopped")

// begin notes a transfer, if the export has none. It has to be ended. REQUIRES: loading
// held, and the daemon is serving.
func (ts *transfers) begin(ctx context.Context, name, doing string) (context.Context, func(), error) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if err := ts.busyLocked(name); err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	if ts.running == nil {
		ts.running = map[string]*transfer{}
	}
	ts.running[name] = &transfer{doing: doing, cancel: cancel}
	ts.tasks.Add(1)
	return ctx, func() {
		ts.mu.Lock()
		delete(ts.running, name)
		ts.mu.Unlock()
		cancel(nil)
		ts.tasks.Done()
	}, nil
}

// busy refuses to touch an export that is being transferred; any, if name is empty.
func (ts *transfers) busy(name string) error {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	return ts.busyLocked(name)
}

func (ts *transfers) busyLocked(name string) error {
	for export, t := range ts.running {
		if name == "" || export == name {
			return &admin.Error{
				Status: http.StatusConflict, Message: fmt.Sprintf("export %s is being %s", export, t.doing),
				Hint: "wait for its end, or end that tmemctl",
			}
		}
	}
	return nil
}

// end cancels all and waits for their ends. None begins meanwhile.
func (ts *transfers) end() {
	ts.mu.Lock()
	for _, t := range ts.running {
		t.cancel(errStopping)
	}
	ts.mu.Unlock()
	ts.tasks.Wait()
}
