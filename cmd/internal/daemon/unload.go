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

// unloads are the unloads under way. Whoever wants one joins the one that runs:
// a request, a second request, the daemon's stop.
type unloads struct {
	frontswap *frontswap.Frontswap // immutable

	mu      sync.Mutex
	running map[string]*unload // by backend; guarded by mu
	tasks   sync.WaitGroup     // their goroutines; added to under mu
}

// unload is one unload. It implements admin.Unload.
type unload struct {
	name      string
	frontswap *frontswap.Frontswap
	done      chan struct{}
	err       error // written before done is closed

	mu   sync.Mutex
	last admin.Progress // as of the latest look; guarded by mu
}

func newUnloads(f *frontswap.Frontswap) *unloads {
	return &unloads{frontswap: f, running: map[string]*unload{}}
}

// start begins to unload the backend, or returns the unload that is under way.
// Nothing ends it but success or an error: a page must not depend on whether
// somebody waits.
func (us *unloads) start(name string) (*unload, error) {
	us.mu.Lock()
	defer us.mu.Unlock()
	if u := us.running[name]; u != nil {
		return u, nil
	}
	b, found := findBackend(us.frontswap, name)
	if !found {
		return nil, &admin.Error{
			Status:  http.StatusNotFound,
			Message: fmt.Sprintf("no backend %s is loaded", name),
			Hint:    "tmemctl backend list shows what is loaded",
		}
	}
	u := &unload{
		name: name, frontswap: us.frontswap, done: make(chan struct{}),
		last: admin.Progress{Running: true, Total: b.Pages, Left: b.Pages},
	}
	us.running[name] = u
	us.tasks.Go(func() {
		drained, err := us.frontswap.Unregister(context.Background(), name)
		us.mu.Lock()
		defer us.mu.Unlock()
		delete(us.running, name)
		u.finish(drained, err)
	})
	return u, nil
}

// underWay says whether the backend of that name is being unloaded.
func (us *unloads) underWay(name string) bool {
	us.mu.Lock()
	defer us.mu.Unlock()
	return us.running[name] != nil
}

func (u *unload) finish(drained frontswap.Drain, err error) {
	u.mu.Lock()
	if !drained.Started.IsZero() {
		u.last = progress(drained, time.Now())
	}
	u.mu.Unlock()
	if err != nil {
		u.err = &admin.Error{Status: http.StatusInternalServerError, Message: err.Error(), Hint: cureUnload(err)}
	}
	close(u.done)
}

func cureUnload(err error) string {
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return "nothing is lost: make room where the storage is, then unload again"
	case errors.Is(err, os.ErrPermission), errors.Is(err, unix.EIO):
		return "nothing is lost: put the storage right, then unload again"
	}
	return "nothing is lost: see the daemon's log, then unload again"
}

// Done implements admin.Unload.
func (u *unload) Done() <-chan struct{} { return u.done }

// Err implements admin.Unload.
func (u *unload) Err() error {
	select {
	case <-u.done:
		return u.err
	default:
		return nil
	}
}

// Progress implements admin.Unload.
func (u *unload) Progress() admin.Progress {
	b, found := findBackend(u.frontswap, u.name)
	u.mu.Lock()
	defer u.mu.Unlock()
	select {
	case <-u.done:
		return u.last // the final numbers
	default:
	}
	if found && !b.Drain.Started.IsZero() {
		u.last = progress(b.Drain, time.Now())
	}
	return u.last
}

// progress adds to a drain's numbers how fast it is.
func progress(d frontswap.Drain, now time.Time) admin.Progress {
	p := admin.Progress{Running: d.Running, Total: d.Total, Moved: d.Moved, Left: d.Left}
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
